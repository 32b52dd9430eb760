//! Usage read from an answer that passes by in pieces is what a document model of the whole answer says.

use obleth_wire::usage::{JsonUsage, MAX_USAGE, MOST_TOKENS, Usage};

use crate::{dom::Dom, input::Input};

/// Text: the body of an answer.
pub(crate) fn check(bytes: &[u8]) {
    let Some(input) = Input::of(bytes) else { return };
    let whole = read([input.text]);
    assert_eq!(read(input.pieces()), whole, "the cut of the reads shows");
    // A longer value may be too long to be read.
    if input.text.len() > MAX_USAGE {
        return;
    }
    let Some(dom @ Dom::Object(_)) = Dom::parse(input.text) else { return };
    assert_eq!(whole, dom.last("usage").and_then(expected));
    let mut at_once = JsonUsage::new();
    at_once.push_whole(input.text);
    assert_eq!((at_once.finish(), at_once.is_unfinished()), (whole, false), "read at once");
}

fn read<'b>(pieces: impl IntoIterator<Item = &'b [u8]>) -> Option<Usage> {
    let mut usage = JsonUsage::new();
    pieces.into_iter().for_each(|piece| usage.push(piece));
    usage.finish()
}

/// What the value of a member `usage` says.
pub(crate) fn expected(usage: &Dom) -> Option<Usage> {
    let few = |count: &u64| *count <= MOST_TOKENS;
    let count = |name: &str| usage.last(name).and_then(Dom::count).filter(few);
    let input = count("prompt_tokens").or_else(|| count("input_tokens"));
    let output = count("completion_tokens").or_else(|| count("output_tokens"));
    if input.is_none() && output.is_none() {
        return None;
    }
    let input = input.unwrap_or(0);
    let details = usage.members().iter().rev();
    let details =
        details.filter(|(name, _)| name == "prompt_tokens_details" || name == "input_tokens_details");
    let cached = details.filter_map(|(_, value)| value.last("cached_tokens")?.count().filter(few)).next();
    Some(Usage { input, output: output.unwrap_or(0), cached_input: cached.unwrap_or(0).min(input) })
}
