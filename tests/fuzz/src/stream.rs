//! A stream leaves as it came, however it arrives, but for the usage that the client did not ask for; and what is taken
//! out, or read, is what a document model of each event says.

use obleth_wire::{
    openai::{MAX_EVENT, StreamFilter, StripUsage},
    usage::Usage,
};

use crate::{dom::Dom, input::Input, usage};

/// Text: the body of a streamed answer.
pub(crate) fn check(bytes: &[u8]) {
    let Some(input) = Input::of(bytes) else { return };
    for strip in [StripUsage::Nothing, StripUsage::Running, StripUsage::All] {
        let whole = filter([input.text], strip);
        assert_eq!(filter(input.pieces(), strip), whole, "the cut of the reads shows");
        if strip == StripUsage::Nothing {
            assert_eq!(whole.out, input.text, "a byte was changed");
        }
    }
    if input.text.len() > MAX_EVENT {
        return;
    }
    let events = events(input.text);
    for strip in [StripUsage::Running, StripUsage::All] {
        expected(&events, &filter([input.text], strip), strip);
    }
}

/// What a filter made of a stream.
#[derive(Debug, PartialEq)]
struct Filtered {
    out: Vec<u8>,
    /// Bytes that had left before the end of the stream was known.
    early: usize,
    usage: Option<Usage>,
    done: bool,
    has_event: bool,
    error_event: bool,
    content_events: u64,
}

fn filter<'b>(pieces: impl IntoIterator<Item = &'b [u8]>, strip: StripUsage) -> Filtered {
    let (mut filter, mut out) = (StreamFilter::new(strip), Vec::new());
    pieces.into_iter().for_each(|piece| filter.push(piece, &mut out));
    let early = out.len();
    filter.finish(&mut out);
    Filtered {
        out,
        early,
        usage: filter.usage(),
        done: filter.done(),
        has_event: filter.has_event(),
        error_event: filter.error_event(),
        content_events: filter.content_events(),
    }
}

/// The events of a stream with their ends; the last may be incomplete.
fn events(text: &[u8]) -> Vec<&[u8]> {
    let (mut events, mut start, mut at, mut line_start) = (Vec::new(), 0, 0, 0);
    while at < text.len() {
        let line_end = match (text[at], text.get(at + 1)) {
            (b'\r', Some(b'\n')) => 2,
            (b'\r' | b'\n', _) => 1,
            _ => {
                at += 1;
                continue;
            }
        };
        let is_empty = at == line_start;
        at += line_end;
        line_start = at;
        if is_empty {
            events.push(&text[start..at]);
            start = at;
        }
    }
    if start < text.len() {
        events.push(&text[start..]);
    }
    events
}

/// The data of an event; `None` if it has no `data` line.
fn data(event: &[u8]) -> Option<Vec<u8>> {
    let lines = event.split(|byte| matches!(byte, b'\r' | b'\n'));
    let values = lines.filter_map(|line| match line.strip_prefix(b"data")? {
        [] => Some(&[][..]),
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        _ => None,
    });
    let values: Vec<&[u8]> = values.collect();
    (!values.is_empty()).then(|| values.join(&b'\n'))
}

/// What must become of one event.
enum Fate {
    Stays,
    Goes,
    /// It stays, with these members in its data.
    Loses(Dom),
    /// The same, if those with choices before it did.
    MayLose(Dom),
}

/// Judges one event, and notes the usage it reports. `None`: it is not for a document model to say.
fn fate(event: &[u8], usage: &mut Option<Usage>, strip: StripUsage) -> Option<Fate> {
    let Some(data) = data(event) else { return Some(Fate::Stays) };
    if data.starts_with(b"[DONE]") || !contains(&data, b"usage") && !contains(&data, b"\\u") {
        return Some(Fate::Stays);
    }
    let dom = Dom::parse(&data)?;
    let Dom::Object(members) = &dom else { return Some(Fate::Stays) };
    // A name that is spelt with escapes need not be found: no backend writes it.
    if !contains(&data, br#""usage""#) {
        return dom.last("usage").is_none().then_some(Fate::Stays);
    }
    if dom.all("usage").count() != 1 {
        return Some(Fate::Stays);
    }
    let found = dom.last("usage")?;
    *usage = usage::expected(found).or(*usage);
    let array = |(name, value): &(String, Dom)| match value {
        Dom::Array(elements) if name == "choices" => Some(elements.len()),
        _ => None,
    };
    let choices = members.iter().rev().find_map(array);
    let failed = dom.all("error").any(|error| *error != Dom::Null);
    let rest = || Dom::Object(members.iter().filter(|(name, _)| name != "usage").cloned().collect());
    Some(match (found, choices) {
        (Dom::Object(_), Some(1..)) if strip == StripUsage::Running => Fate::MayLose(rest()),
        _ if strip == StripUsage::Running => Fate::Stays,
        (Dom::Object(_), Some(0)) if !failed => Fate::Goes,
        (Dom::Object(_) | Dom::Null, _) => Fate::Loses(rest()),
        _ => Fate::Stays,
    })
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}

/// The filtered stream is the events, each as its fate says.
fn expected(events: &[&[u8]], filtered: &Filtered, strip: StripUsage) {
    let (mut rest, mut usage, mut lost) = (&filtered.out[..], None, false);
    for event in events {
        match fate(event, &mut usage, strip) {
            None => return,
            Some(Fate::Goes) => {}
            Some(Fate::MayLose(_)) if !lost && rest.starts_with(event) => rest = &rest[event.len()..],
            Some(Fate::Stays) => {
                rest = rest.strip_prefix(*event).expect("an event that stays is missing or changed");
            }
            Some(Fate::Loses(members) | Fate::MayLose(members)) => {
                lost = true;
                let left = self::events(rest).into_iter().next().expect("an event is missing");
                let data = data(left).expect("an event lost its data");
                assert_eq!(Dom::parse(&data), Some(members), "more or less than usage was taken out");
                rest = &rest[left.len()..];
            }
        }
    }
    assert_eq!(rest.len(), 0, "there is more than the events");
    assert_eq!(filtered.usage, usage);
}
