//! Rows as CSV (RFC 4180) that a spreadsheet may open: no cell is ever taken for a formula.

use std::borrow::Cow;

use super::row::Cell;
use crate::clock;

/// What spreadsheets take for the beginning of a formula.
const FORMULA: [char; 6] = ['=', '+', '-', '@', '\t', '\r'];

/// Writes one line of texts, each of which may be anything.
pub(crate) fn write_line<'t>(out: &mut String, texts: impl IntoIterator<Item = Cow<'t, str>>) {
    for (at, text) in texts.into_iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        write_text(out, &text);
    }
    out.push_str("\r\n");
}

/// What stands for a cell; nothing for none.
pub(crate) fn text<'c>(cell: Option<&'c Cell<'_>>) -> Cow<'c, str> {
    match cell {
        None => Cow::Borrowed(""),
        Some(Cell::Text(text)) => Cow::Borrowed(text),
        Some(Cell::Id(id)) => Cow::Owned(id.to_string()),
        Some(Cell::Time(at)) => Cow::Owned(clock::text(*at)),
        Some(Cell::Count(count)) => Cow::Owned(count.to_string()),
        Some(Cell::Flag(flag)) => Cow::Borrowed(if *flag { "true" } else { "false" }),
    }
}

fn write_text(out: &mut String, text: &str) {
    let guard = if text.starts_with(FORMULA) { "'" } else { "" };
    if !text.contains([',', '"', '\r', '\n']) {
        out.push_str(guard);
        out.push_str(text);
        return;
    }
    out.push('"');
    out.push_str(guard);
    out.push_str(&text.replace('"', "\"\""));
    out.push('"');
}

#[cfg(test)]
mod tests {
    use obleth_policy::unit::UnixMs;
    use uuid::Uuid;

    use super::*;

    fn line(texts: &[&str]) -> String {
        let mut out = String::new();
        write_line(&mut out, texts.iter().map(|text| Cow::Borrowed(*text)));
        out
    }

    #[test]
    fn hostile_texts_stay_texts_in_one_cell() {
        for (text, expected) in [
            ("plain", "plain"),
            ("", ""),
            ("=1+1", "'=1+1"),
            ("+49", "'+49"),
            ("-2", "'-2"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("\t=1", "'\t=1"),
            ("\r=1", "\"'\r=1\""),
            ("a=b", "a=b"),
            ("a,b", "\"a,b\""),
            ("say \"hi\"", "\"say \"\"hi\"\"\""),
            ("two\nlines", "\"two\nlines\""),
            ("=cmd|' /C calc'!A0,\"", "\"'=cmd|' /C calc'!A0,\"\"\""),
            ("\",=1", "\"\"\",=1\""),
            ("ü é \u{202e}", "ü é \u{202e}"),
        ] {
            assert_eq!(line(&[text, "x"]), format!("{expected},x\r\n"), "{text:?}");
        }
    }

    #[test]
    fn every_kind_of_cell_has_its_text() {
        let id = Uuid::from_u128(7);
        for (cell, expected) in [
            (None, ""),
            (Some(Cell::Id(id)), "00000000-0000-0000-0000-000000000007"),
            (Some(Cell::Time(UnixMs(250))), "1970-01-01T00:00:00.25Z"),
            (Some(Cell::Text("a".into())), "a"),
            (Some(Cell::Count(7)), "7"),
            (Some(Cell::Flag(true)), "true"),
        ] {
            assert_eq!(text(cell.as_ref()), expected);
        }
    }
}
