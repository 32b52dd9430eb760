//! What of a stream is counted as generated, where a backend says nothing of its usage.

use obleth_wire::openai::{StreamFilter, StripUsage};

fn count(stream: &str) -> u64 {
    let mut filter = StreamFilter::new(StripUsage::All);
    filter.push(stream.as_bytes(), &mut Vec::new());
    filter.content_events()
}

#[test]
fn content_is_counted_the_same_with_and_without_the_fast_path() {
    for (data, expected) in [
        (r#"{"choices":[{"text":"a"}]}"#, 1),
        (r#"{ "choices" : [ {"delta" : {"content" : "a"}} ] }"#, 1),
        (r#"{"choices":[]}"#, 0),
        (r#"{"choices": [ ] }"#, 0),
        (r#"{"choices":null}"#, 0),
        (r#"{"x":{"choices":[{"text":"a"}]}}"#, 0),
        (r#"{"x":{"choices":[]},"choices":[{"text":"a"}]}"#, 1),
        (r#"{"x":"choices","choices":[{"text":"a"}]}"#, 1),
        (r#"{"x":["choices"]}"#, 0),
        (r#"{"id":"x"}"#, 0),
    ] {
        assert_eq!(count(&format!("data: {data}\n\n")), expected, "{data}");
        let slow = data.replacen('{', r#"{"error":null,"#, 1);
        assert_eq!(count(&format!("data: {slow}\n\n")), expected, "{slow}");
    }
}

#[test]
fn a_role_alone_and_a_reason_alone_are_no_content_and_all_between_them_is() {
    let chunk = |delta: &str, reason: &str| {
        format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":{reason}}}]}}\n\n")
    };
    let of = |chunks: &[(&str, &str)]| {
        let stream: String = chunks.iter().map(|(delta, reason)| chunk(delta, reason)).collect();
        count(&stream)
    };
    let (role, word) = ((r#"{"role":"assistant","content":""}"#, "null"), (r#"{"content":"a"}"#, "null"));
    let empty = r#"{"content" : ""}"#;
    assert_eq!(of(&[role, word, word, ("{}", "\"stop\"")]), 2);
    assert_eq!(of(&[role, word, (empty, "\"length\"")]), 1);
    assert_eq!(of(&[(r#"{"role":"assistant"}"#, "null"), (r#"{"content":"last"}"#, "\"stop\"")]), 1);
    // A token of which the text is still to come is one.
    assert_eq!(of(&[role, (empty, "null"), word]), 2);
    let first_with = [
        r#"{"role":"assistant","content":null,"reasoning_content":"hm"}"#,
        r#"{"role":"assistant","tool_calls":[{"index":0}]}"#,
        r#"{"content":"","refusal":"no"}"#,
    ];
    for delta in first_with {
        assert_eq!(of(&[(delta, "null")]), 1, "{delta}");
    }
    assert_eq!(of(&[(r#"{"role":"assistant","content":null,"tool_calls":[ ]}"#, "null")]), 0);
}
