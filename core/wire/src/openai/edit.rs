//! What leaves differently from how it came: the plan of a request body's edits.
//!
//! It exists so that the decision (which edits) stays with the caller and the bytes (where, which commas) stay here.
//! It must never change a member it was not told to change; the value of every other member leaves as it came.

use super::request::{RequestFields, StreamOptions};
use crate::splice::Splice;

const USAGE: &str = r#""include_usage":true"#;
const RUNNING: &str = r#""continuous_usage_stats":true"#;
const OPTIONS: &[u8] = br#","stream_options":"#;
const OPTIONS_USAGE: &[u8] = br#","stream_options":{"include_usage":true}"#;
const OPTIONS_BOTH: &[u8] = br#","stream_options":{"include_usage":true,"continuous_usage_stats":true}"#;

/// The edits that a request needs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Edits<'a> {
    /// The backend's name of the model, if it differs from the client's.
    pub upstream_model: Option<&'a str>,
    /// Whether the backend shall report usage in the stream; without effect on a request that does not stream.
    pub ask_for_usage: bool,
    /// Whether it shall report running counts, too (vLLM's `continuous_usage_stats`); without effect on its own.
    pub ask_for_running: bool,
    /// Whether a client's `priority` is taken out.
    pub strip_priority: bool,
    /// The gateway's own `priority`, in place of the client's.
    pub priority: Option<i32>,
    /// The most tokens that the answer may have.
    pub output_limit: Option<u32>,
}

/// Plans `edits` for the body that `fields` were read from. An empty splice means that the body leaves as it came.
pub fn plan(fields: &RequestFields<'_>, edits: &Edits<'_>) -> Splice {
    let mut splice = Splice::new();
    if let Some(name) = edits.upstream_model {
        splice.replace_with_string(fields.model_value.clone(), name);
    }
    if edits.ask_for_usage && fields.stream {
        ask_for_usage(fields, edits.ask_for_running, &mut splice);
    }
    if let Some(cut) = fields.priority.as_ref().filter(|_| edits.strip_priority || edits.priority.is_some()) {
        splice.replace(cut.range(), b"");
    }
    if let Some(priority) = edits.priority {
        insert(fields, &mut splice, format!(r#","priority":{priority}"#).as_bytes());
    }
    if let Some(limit) = edits.output_limit {
        limit_output(fields, limit, &mut splice);
    }
    splice
}

/// After the model, which every body has: so a comma in front is right wherever the model stands.
fn insert(fields: &RequestFields<'_>, splice: &mut Splice, members: &[u8]) {
    let after_model = fields.model_value.end;
    splice.replace(after_model..after_model, members);
}

/// Lowers the limits that the client gave, or gives one where it gave none.
fn limit_output(fields: &RequestFields<'_>, limit: u32, splice: &mut Splice) {
    let text = limit.to_string();
    let mut limited = false;
    for given in [&fields.max_tokens, &fields.max_completion_tokens].into_iter().flatten() {
        limited |= given.tokens.is_some();
        if given.tokens.is_some_and(|tokens| tokens > u64::from(limit)) {
            splice.replace(given.value.clone(), text.as_bytes());
        }
    }
    if limited {
        return;
    }
    match fields.max_tokens.as_ref().or(fields.max_completion_tokens.as_ref()) {
        // `null` stands where the limit belongs.
        Some(given) => {
            splice.replace(given.value.clone(), text.as_bytes());
        }
        None => insert(fields, splice, format!(r#","max_tokens":{text}"#).as_bytes()),
    }
}

fn ask_for_usage(fields: &RequestFields<'_>, running: bool, splice: &mut Splice) {
    let member = if running { OPTIONS_BOTH } else { OPTIONS_USAGE };
    match &fields.stream_options {
        StreamOptions::Absent => insert(fields, splice, member),
        StreamOptions::Null(at) => {
            splice.replace(at.clone(), member.strip_prefix(OPTIONS).unwrap_or_default());
        }
        StreamOptions::Object { open, empty, include_usage, continuous_usage } => {
            let mut missing = Vec::new();
            let wanted = [(include_usage, USAGE, true), (continuous_usage, RUNNING, running)];
            for (member, text, _) in wanted.into_iter().filter(|(_, _, wanted)| *wanted) {
                match member {
                    None => missing.push(text),
                    Some(asked) if asked.yes => {}
                    Some(asked) => {
                        splice.replace(asked.value.clone(), b"true");
                    }
                }
            }
            if !missing.is_empty() {
                let comma = if *empty { "" } else { "," };
                splice.replace(*open..*open, (missing.join(",") + comma).as_bytes());
            }
        }
    }
}
