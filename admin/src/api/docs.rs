//! The page for people: every operation on one page, written from the same list as the OpenAPI document.
//!
//! It loads nothing from anywhere and runs no script, so it works on a machine without a way out.

use std::fmt::Write as _;

use super::{
    openapi::{Answer, Operation, PREFIX},
    shapes::{Kind, Member},
};

const HEAD: &str = r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>obleth admin API</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
summary { cursor: pointer; padding: .2rem 0; } summary b { display: inline-block; width: 4.5rem; }
table { border-collapse: collapse; margin: .5rem 0 1rem 1rem; } td { padding: .1rem .8rem .1rem 0; vertical-align: top; }
code { font: 14px ui-monospace, monospace; }
</style></head><body>
<h1>obleth admin API</h1>
<p>Send <code>Authorization: Bearer</code> and the admin token with every call but <code>/health</code>. The same for
programs: <a href="/api/openapi.json">/api/openapi.json</a>. A refusal is
<code>{"error":{"message","type","param","code","request_id"}}</code> on every path.</p>
"#;

/// The page for these operations.
pub(super) fn page(operations: &[Operation]) -> String {
    let mut out = HEAD.to_owned();
    for operation in operations {
        write(&mut out, operation);
    }
    out.push_str("</body></html>\n");
    out
}

fn write(out: &mut String, operation: &Operation) {
    let Operation { method, path, about, .. } = operation;
    // Writing to a string does not fail.
    let _ = writeln!(
        out,
        "<details><summary><b>{method}</b><code>{PREFIX}{path}</code> {}</summary>",
        escaped(about)
    );
    if let Some(body) = &operation.body {
        out.push_str("<p>The body may say:</p>");
        table(out, body.members(), |member| if body.requires(member.name) { ", required" } else { "" });
    }
    if !operation.query.is_empty() {
        out.push_str("<p>The query may say:</p>");
        table(out, operation.query.iter(), |_| "");
    }
    let (words, shape) = match &operation.answer {
        Answer::One(shape) => ("The answer has:", Some(shape)),
        Answer::All(shape) => ("The answer is a list of:", Some(shape)),
        Answer::Many(shape) => {
            ("The answer is a list, in pages by <code>limit</code> and <code>after</code>, of:", Some(shape))
        }
        Answer::Csv => ("The answer is a table (CSV) with a line of names.", None),
    };
    let _ = write!(out, "<p>{words}</p>");
    if let Some(shape) = shape {
        table(out, shape.members(), |_| "");
    }
    out.push_str("</details>\n");
}

fn table(
    out: &mut String,
    members: impl Iterator<Item = &'static Member>,
    mark: impl Fn(&Member) -> &'static str,
) {
    out.push_str("<table>");
    for member in members {
        let null = if member.nullable { " or null" } else { "" };
        let _ = write!(
            out,
            "<tr><td><code>{}</code></td><td>{}{null}{}</td><td>{}</td></tr>",
            member.name,
            kind(&member.kind),
            mark(member),
            escaped(member.about)
        );
    }
    out.push_str("</table>");
}

fn kind(kind: &Kind) -> String {
    let members = |shape: &super::shapes::Shape| {
        let names: Vec<&str> = shape.members().map(|member| member.name).collect();
        names.join(", ")
    };
    match kind {
        Kind::Id => "id".to_owned(),
        Kind::Time => "time (RFC 3339)".to_owned(),
        Kind::Text => "text".to_owned(),
        Kind::Flag => "true or false".to_owned(),
        Kind::Number(range) => format!("{} to {}", range.start(), range.end()),
        Kind::Decimal(range) => format!("{} to {}, also fractions", range.start(), range.end()),
        Kind::Amount => "number".to_owned(),
        Kind::OneOf(words) => words.join(" | "),
        Kind::Texts => "list of texts".to_owned(),
        Kind::Object(shape) => format!("object: {}", members(shape)),
        Kind::Objects(shape) => format!("list of objects: {}", members(shape)),
    }
}

/// Text as HTML; what stands between backticks as code.
fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let mut parts = text.split('`');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for (part, tag) in parts.zip(["<code>", "</code>"].iter().cycle()) {
        out.push_str(tag);
        out.push_str(part);
    }
    out
}
