//! The stream filter: verbatim bytes, usage read and taken out, and the same result however the reads cut the stream.

use StripUsage::{All, Nothing, Running};
use obleth_wire::{
    openai::{MAX_EVENT, StreamFilter, StripUsage},
    sse::data_lines,
    usage::Usage,
};
use proptest::prelude::*;

/// All that a stream leaves behind.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    bytes: String,
    usage: Option<Usage>,
    done: bool,
    has_event: bool,
    error_event: bool,
    content_events: u64,
}

fn run<'i>(strip: StripUsage, reads: impl IntoIterator<Item = &'i [u8]>) -> Seen {
    let mut filter = StreamFilter::new(strip);
    let mut out = Vec::new();
    for read in reads {
        filter.push(read, &mut out);
    }
    filter.finish(&mut out);
    Seen {
        bytes: String::from_utf8_lossy(&out).into_owned(),
        usage: filter.usage(),
        done: filter.done(),
        has_event: filter.has_event(),
        error_event: filter.error_event(),
        content_events: filter.content_events(),
    }
}

fn strip(stream: &str) -> Seen {
    run(All, [stream.as_bytes()])
}

fn stripped(stream: &str) -> String {
    strip(stream).bytes
}

fn usage(input: u64, output: u64) -> Option<Usage> {
    Some(Usage { input, output, cached_input: 0 })
}

/// Every kind of stream met in the field, whole.
fn corpus() -> Vec<String> {
    let chat = concat!(
        ": ping\n\n",
        r#"data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":""}}],"usage":null}"#,
        "\n\n",
        r#"data: {"id":"c","choices":[{"index":0,"delta":{"content":"漢字 😀 \"usage\":null"}}],"usage":null}"#,
        "\n\n",
        r#"data: {"id":"c","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"name":"f","arguments":"{\"usage\": null, \"choices\":[]}"}}]}}]}"#,
        "\n\n",
        r#"data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"tool_calls","usage":null}],"usage":null}"#,
        "\n\n",
        r#"data: {"id":"c","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":9,"total_tokens":12}}"#,
        "\n\n",
        "data: [DONE]\n\n",
    );
    let spaced = concat!(
        "data:{\"usage\": null, \"id\": \"d\", \"choices\": [{\"text\": \"é\"}]}\n\n",
        ":hb\n",
        "id: 7\n",
        "data: {\"id\": \"d\", \"usage\": {\"prompt_tokens\": 1, \"completion_tokens\": 2}, \"choices\": [{\"text\": \"\"}]}\n\n",
        "event: x\ndata: {\"id\": \"d\", \"choices\": [ ], \"usage\": {\"prompt_tokens\": 1, \"completion_tokens\": 4}}\n\n",
        "data: {\"error\": {\"message\": \"usage\", \"code\": 500}}\n\n",
        "data:[DONE]\n\n",
    );
    let multi = concat!(
        "data: {\ndata:   \"id\": \"é\",\ndata:   \"choices\": [{}],\ndata:   \"usage\": null\ndata: }\n\n",
        "data: {\ndata:   \"usage\": null,\ndata:   \"choices\": [{}]\ndata: }\n\n",
        "data: {\"choices\": [],\ndata\ndata: \"usage\":{\"prompt_tokens\":5}}\n\n",
    );
    let odd = concat!(
        "\n\n\n",
        "data: {\"usage\":null,broken\n\n",
        "data\n\ndata:\n\ndatum: {\"usage\":null}\n\n",
        "data: \"usage\"\n\n",
        "data: {\"choices\":[],\"usage\":null}\n\n",
        "data: {\"usage\":{\"prompt_tokens\":1}}\n\n",
        "data: {\"usage\":null,\"usage\":null,\"choices\":[{}]}\n\n",
        "data: {\"x\":{\"usage\":{\"prompt_tokens\":9}},\"choices\":[{}]}\n\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":8}}",
    );
    let mut all = Vec::new();
    for stream in [chat, spaced, multi, odd] {
        all.push(stream.to_owned());
        all.push(stream.replace('\n', "\r\n"));
        all.push(stream.replace('\n', "\r"));
        let mut mixed = String::new();
        for (line, end) in
            stream.split('\n').zip(["\r\n", "\n", "\r", "\r\n", "\r\n", "\r", "\n"].iter().cycle())
        {
            // An LF alone right after a CR would be part of that line end, not a second one.
            let joins = line.is_empty() && mixed.ends_with('\r') && *end == "\n";
            mixed.push_str(line);
            mixed.push_str(if joins { "\r\n" } else { end });
        }
        all.push(mixed);
    }
    all
}

#[test]
fn what_has_left_is_whole_events_also_where_the_stream_breaks_off() {
    for stream in corpus().into_iter().filter(|stream| !stream.contains('\r')) {
        let (mut filter, mut left) = (StreamFilter::new(Nothing), Vec::new());
        for (at, byte) in stream.bytes().enumerate() {
            filter.push(&[byte], &mut left);
            let blank_line_last = left == b"\n" || left.ends_with(b"\n\n");
            assert!(left.is_empty() || blank_line_last, "cut behind byte {at}: {left:?}");
            let whole = stream.as_bytes()[..=at]
                .windows(2)
                .rposition(|pair| pair == b"\n\n")
                .map_or(0, |end| end + 2);
            assert!(left.len() >= whole, "an event that is complete at byte {at} is held");
        }
        filter.finish(&mut left);
        assert_eq!(left, stream.as_bytes());
    }
}

#[test]
fn a_cut_at_any_byte_changes_nothing() {
    for stream in corpus() {
        let bytes = stream.as_bytes();
        for strip in [Nothing, Running, All] {
            let whole = run(strip, [bytes]);
            assert_eq!(whole, run(strip, bytes.chunks(1)), "{stream}");
            for cut in 0..bytes.len() {
                let (head, tail) = bytes.split_at(cut);
                assert_eq!(whole, run(strip, [head, tail]), "cut at {cut} of {stream}");
            }
        }
    }
}

#[test]
fn stripping_changes_bytes_and_nothing_that_is_read() {
    for stream in corpus() {
        let (kept, stripped) = (run(Nothing, [stream.as_bytes()]), strip(&stream));
        assert_eq!(kept.bytes, stream);
        assert_eq!(Seen { bytes: stream.clone(), ..stripped }, kept);
        assert_eq!(Seen { bytes: stream.clone(), ..run(Running, [stream.as_bytes()]) }, kept);
    }
}

#[test]
fn the_corpus_is_read_as_intended() {
    let all = corpus();
    let seen: Vec<Seen> = all.iter().map(|stream| strip(stream)).collect();
    let facts = |seen: &Seen| (seen.usage, seen.done, seen.has_event, seen.error_event, seen.content_events);
    assert_eq!(facts(&seen[0]), (usage(3, 9), true, true, false, 2));
    assert_eq!(facts(&seen[4]), (usage(1, 4), true, true, true, 2));
    assert_eq!(facts(&seen[8]), (usage(5, 0), false, true, false, 1));
    assert_eq!(facts(&seen[12]), (usage(8, 0), false, true, false, 0));
    for (style, first) in (0..all.len()).map(|index| (index, index - index % 4)) {
        assert_eq!(facts(&seen[style]), facts(&seen[first]), "line ends change nothing: {}", all[style]);
    }
    assert_eq!(
        seen[8].bytes,
        concat!(
            "data: {\ndata:   \"id\": \"é\",\ndata:   \"choices\": [{}]\ndata: }\n\n",
            "data: {\ndata:   \"choices\": [{}]\ndata: }\n\n",
        )
    );
}

#[test]
fn the_usage_member_leaves_with_one_comma_and_its_space() {
    for (member, expected) in [
        (r#"{"a":1,"usage":null}"#, r#"{"a":1}"#),
        (r#"{"usage":null,"a":1}"#, r#"{"a":1}"#),
        (r#"{"a":1,"usage":null,"b":2}"#, r#"{"a":1,"b":2}"#),
        (r#"{"usage":null}"#, r#"{}"#),
        (r#"{"a": 1, "usage": null}"#, r#"{"a": 1}"#),
        (r#"{"usage": null, "a": 1}"#, r#"{"a": 1}"#),
        (r#"{"a": 1, "usage": null, "b": 2}"#, r#"{"a": 1, "b": 2}"#),
        (r#"{"a":1,"usage":{"prompt_tokens":1,"x":{"y":"}"}},"choices":[0]}"#, r#"{"a":1,"choices":[0]}"#),
    ] {
        assert_eq!(stripped(&format!("data: {member}\n\n")), format!("data: {expected}\n\n"));
    }
}

#[test]
fn what_is_not_the_top_level_usage_is_not_touched() {
    for data in [
        r#"{"choices":[{"delta":{"content":"\"usage\":null"},"usage":null}]}"#,
        r#"{"x":{"usage":{"prompt_tokens":1}},"choices":[]}"#,
        r#"{"object":"usage","choices":[{}]}"#,
        r#"{"usage":7,"choices":[{}]}"#,
        r#"{"usage":null,"choices":[{}]"#,
        r#"{"usage":null,"choices":[{}]},"#,
        r#"["usage",null]"#,
        "\"usage\":null",
    ] {
        let stream = format!("data: {data}\n\n");
        assert_eq!(stripped(&stream), stream);
        assert_eq!(strip(&stream).usage, None);
    }
}

#[test]
fn a_string_broken_by_a_line_end_is_not_valid_and_passes_verbatim() {
    let stream = "data: {\"usage\":null,\"x\":\"a\ndata: b\"}\n\n";
    assert_eq!(stripped(stream), stream);
}

#[test]
fn bytes_that_are_not_utf8_pass_verbatim() {
    let stream = b"data: {\"usage\":null,\"x\":\"\xff\"}\n\n";
    let mut out = Vec::new();
    let mut filter = StreamFilter::new(All);
    filter.push(stream, &mut out);
    assert_eq!(out, stream);
}

#[test]
fn a_complete_event_leaves_at_once_and_a_dropped_one_takes_its_line_feed_along() {
    let mut filter = StreamFilter::new(All);
    let mut push = |input: &str| {
        let mut out = Vec::new();
        filter.push(input.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(push("data: {\"choices\":[{}],\"usa"), "");
    assert_eq!(push("ge\":null}\r\n\r"), "data: {\"choices\":[{}]}\r\n\r");
    assert_eq!(push("\ndata: {\"choices\":[],\"usage\":{}}\r\n\r"), "\n");
    assert_eq!(push("\n"), "");
    assert_eq!(push("data: [DONE]\r\n\r\n"), "data: [DONE]\r\n\r\n");
}

#[test]
fn an_incomplete_last_event_leaves_at_the_clean_end() {
    assert_eq!(stripped("data: {\"choices\":[{}],\"usage\":null}"), "data: {\"choices\":[{}]}");
    assert_eq!(stripped("data: {\"choices\":[{}],\"usage\":nu"), "data: {\"choices\":[{}],\"usage\":nu");
    let seen = strip("data: {\"choices\":[],\"usage\":{\"prompt_tokens\":2}}\ndata");
    assert_eq!((seen.bytes.as_str(), seen.usage), ("", usage(2, 0)));
    assert!(strip("data: [DONE]").done);
}

#[test]
fn the_last_usage_wins_and_null_is_none() {
    let stream = concat!(
        "data: {\"choices\":[{}],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1}}\n\n",
        "data: {\"choices\":[{}],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n\n",
        "data: {\"choices\":[{}],\"usage\":null}\n\n",
    );
    assert_eq!(strip(stream).usage, usage(1, 2));
    assert_eq!(stripped(stream), "data: {\"choices\":[{}]}\n\n".repeat(3));
}

#[test]
fn running_counts_leave_and_the_usage_that_was_asked_for_stays() {
    let chunk = |choices: &str, usage: &str| format!("data: {{\"choices\":[{choices}]{usage}}}\n\n");
    let counted = |output: u64| format!(",\"usage\":{{\"prompt_tokens\":1,\"completion_tokens\":{output}}}");
    let running = chunk("{}", &counted(0)) + &chunk("{}", &counted(1)) + &chunk("", &counted(1));
    let seen = run(Running, [running.as_bytes()]);
    assert_eq!(seen.bytes, chunk("{}", "").repeat(2) + &chunk("", &counted(1)));
    assert_eq!(seen.usage, usage(1, 1));
    // One that does not run: it comes at the end, with or without choices.
    for asked_for in [
        chunk("{}", "") + &chunk("{}", &counted(1)),
        chunk("{}", ",\"usage\":null") + &chunk("{}", &counted(1)),
        chunk("{}", ",\"usage\":null") + &chunk("", &counted(1)),
    ] {
        let seen = run(Running, [asked_for.as_bytes()]);
        assert_eq!((&seen.bytes, seen.usage), (&asked_for, usage(1, 1)));
    }
}

#[test]
fn comments_and_empty_streams_are_no_events() {
    for stream in ["", "\n\n", ": hb\n\n", "event: ping\n\n", ":data: x\n\nid: 1\n\n"] {
        let seen = strip(stream);
        assert!(!seen.has_event, "{stream}");
        assert_eq!(seen.bytes, stream);
    }
    assert!(strip("data: x\n\n").has_event);
}

#[test]
fn an_error_is_seen_at_the_top_level_only() {
    for (data, expected) in [
        (r#"{"error":{"message":"m"}}"#, true),
        (r#"{"error":"m","choices":[]}"#, true),
        (r#"{"error":null,"choices":[{}]}"#, false),
        (r#"{"choices":[{"finish_reason":"error","error":{}}]}"#, false),
    ] {
        assert_eq!(strip(&format!("data: {data}\n\n")).error_event, expected, "{data}");
    }
    let error_with_usage = "data: {\"choices\":[],\"error\":{},\"usage\":{\"prompt_tokens\":1}}\n\n";
    assert_eq!(stripped(error_with_usage), "data: {\"choices\":[],\"error\":{}}\n\n");
}

#[test]
fn an_event_larger_than_the_limit_passes_verbatim_and_the_next_is_filtered() {
    let event = |len: usize| {
        let frame = "data: {\"x\":\"\",\"usage\":null}\n\n";
        frame.replace("\"\"", &format!("\"{}\"", "x".repeat(len - frame.len())))
    };
    let next = "data: {\"choices\":[{}],\"usage\":null}\r\n\r\n";
    for (len, verbatim) in [(MAX_EVENT, false), (MAX_EVENT + 1, true), (3 * MAX_EVENT, true)] {
        let large = event(len);
        assert_eq!(large.len(), len);
        let expected = if verbatim { large.clone() } else { large.replace(",\"usage\":null", "") };
        let expected = expected + "data: {\"choices\":[{}]}\r\n\r\n";
        let stream = large + next;
        for size in [usize::MAX, MAX_EVENT, 65_537, 1_000] {
            let seen = run(All, stream.as_bytes().chunks(size));
            assert!(seen.bytes == expected, "{len} bytes in reads of {size}");
            assert!(seen.has_event);
        }
    }
}

#[test]
fn data_lines_are_found_with_and_without_the_space() {
    let event = b"data: a\r\ndata:b\rdata\n:data: c\ndata:  d\ndatax: e\ndata:";
    let lines: Vec<_> = data_lines(event).map(|range| &event[range]).collect();
    assert_eq!(lines, [&b"a"[..], b"b", b"", b" d", b""]);
}

/// How one backend writes its stream.
#[derive(Clone, Debug)]
struct Style {
    comma: &'static str,
    colon: &'static str,
    data: &'static str,
    line_end: &'static str,
    /// Where the usage member stands: 0 is first.
    place: usize,
}

fn style() -> impl Strategy<Value = Style> {
    (
        prop_oneof![Just((",", ":")), Just((", ", ": ")), Just((" ,\t", " : "))],
        prop_oneof![Just("data: "), Just("data:")],
        prop_oneof![Just("\n"), Just("\r\n"), Just("\r")],
        0usize..5,
    )
        .prop_map(|((comma, colon), data, line_end, place)| Style {
            comma,
            colon,
            data,
            line_end,
            place,
        })
}

#[derive(Clone, Debug)]
enum Frame {
    /// A chunk with this text; its usage member is absent, null or an object with this output.
    Content(String, Option<Option<u64>>),
    /// The final usage event.
    Final(u64),
    Comment(String),
    Error(String),
    Broken(String),
}

fn frame() -> impl Strategy<Value = Frame> {
    prop_oneof![
        5 => ("[a-z\"\\\\{}é漢😀,: \n]{0,12}", prop::option::of(prop::option::of(0u64..1000)))
            .prop_map(|(text, usage)| Frame::Content(text, usage)),
        1 => (0u64..1000).prop_map(Frame::Final),
        1 => "[a-z é]{0,6}".prop_map(Frame::Comment),
        1 => "[a-z\"]{0,6}".prop_map(Frame::Error),
        1 => "[a-z\"{}é]{0,6}".prop_map(Frame::Broken),
    ]
}

impl Style {
    fn event(&self, members: &[(&str, String)], usage: Option<&str>) -> String {
        let mut members: Vec<_> =
            (members.iter()).map(|(name, value)| format!("\"{name}\"{}{value}", self.colon)).collect();
        if let Some(usage) = usage {
            members.insert(self.place.min(members.len()), format!("\"usage\"{}{usage}", self.colon));
        }
        format!("{}{{{}}}{2}{2}", self.data, members.join(self.comma), self.line_end)
    }

    fn write(&self, frame: &Frame, with_usage: bool) -> String {
        let counted = |output: u64| format!("{{\"prompt_tokens\":4,\"completion_tokens\":{output}}}");
        let text = |text: &str| serde_json::to_string(text).unwrap();
        let id = ("id", text("c\"usage\""));
        match frame {
            Frame::Content(content, usage) => {
                let choices = format!("[{{\"delta\":{{\"content\":{},\"usage\":null}}}}]", text(content));
                let usage = usage.map(|output| output.map_or("null".to_owned(), counted));
                self.event(
                    &[id, ("choices", choices), ("n", "1".to_owned())],
                    usage.as_deref().filter(|_| with_usage),
                )
            }
            Frame::Final(output) if with_usage => {
                self.event(&[id, ("choices", "[]".to_owned())], Some(&counted(*output)))
            }
            Frame::Final(_) => String::new(),
            Frame::Comment(words) => format!(":{words}{0}{0}", self.line_end),
            Frame::Error(message) => {
                self.event(&[("error", format!("{{\"message\":{}}}", text(message)))], None)
            }
            Frame::Broken(rest) => format!("{}{{\"usage\":null,{rest}{1}{1}", self.data, self.line_end),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_stripped_stream_equals_the_one_generated_without_usage(
        style in style(),
        frames in prop::collection::vec(frame(), 0..8),
        done in any::<bool>(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let end = if done { format!("data: [DONE]{0}{0}", style.line_end) } else { String::new() };
        let write = |with_usage| frames.iter().map(|frame| style.write(frame, with_usage)).collect::<String>() + &end;
        let (with, without) = (write(true), write(false));
        let last = frames.iter().rev().find_map(|frame| match frame {
            Frame::Content(_, Some(Some(output))) | Frame::Final(output) => usage(4, *output),
            _ => None,
        });
        let contents = frames.iter().filter_map(|frame| match frame {
            Frame::Content(text, _) => Some(text.as_str()),
            _ => None,
        });
        let is = |pattern: fn(&Frame) -> bool| frames.iter().filter(|frame| pattern(frame)).count();
        let expected = Seen {
            bytes: without,
            usage: last,
            done,
            has_event: done || is(|frame| !matches!(frame, Frame::Comment(_))) > 0,
            error_event: is(|frame| matches!(frame, Frame::Error(_))) > 0,
            // An empty first one may be a role alone.
            content_events: contents.clone().count() as u64 - u64::from(contents.clone().next().is_some_and(str::is_empty)),
        };
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(with.len() + 1)).collect();
        cuts.extend([0, with.len()]);
        cuts.sort_unstable();
        let reads: Vec<&[u8]> = cuts.windows(2).map(|pair| &with.as_bytes()[pair[0]..pair[1]]).collect();
        prop_assert_eq!(&run(All, [with.as_bytes()]), &expected);
        prop_assert_eq!(&run(All, reads.iter().copied()), &expected);
        prop_assert_eq!(&run(All, with.as_bytes().chunks(1)), &expected);
        let verbatim = Seen { bytes: with.clone(), ..expected };
        prop_assert_eq!(&run(Nothing, reads), &verbatim);
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_never_depend_on_the_cuts(
        bytes in prop::collection::vec(prop_oneof![
            any::<u8>().prop_map(|byte| vec![byte]),
            "(\n|\r|\r\n|data: |data:|\\{\"usage\":null,?|\"choices\":\\[\\]|\\}|:|\\[DONE\\]| )".prop_map(String::into_bytes),
        ], 0..40),
        size in 1usize..9,
    ) {
        let bytes = bytes.concat();
        for strip in [Nothing, Running, All] {
            let whole = run(strip, [&bytes[..]]);
            prop_assert_eq!(&whole, &run(strip, bytes.chunks(size)));
            prop_assert_eq!(&whole, &run(strip, bytes.chunks(1)));
        }
        prop_assert_eq!(run(Nothing, [&bytes[..]]).bytes, String::from_utf8_lossy(&bytes));
    }
}
