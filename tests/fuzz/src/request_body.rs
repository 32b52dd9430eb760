//! A request's fields are read, and its body edited, as a document model of the body says.

use obleth_wire::openai::{Dialect, Edits, OutputLimit, RequestFields, plan, scan_request};

use crate::{dom::Dom, input::Input};

/// Text: the body of a request. Options 0 and 1: the dialect; option 2: the model has another name upstream; option 3:
/// usage is asked for; option 4: a priority is taken out; option 5: the gateway sets its own; option 6: the answer is
/// made shorter; option 7: running counts are asked for, too.
pub(crate) fn check(bytes: &[u8]) {
    let Some(input) = Input::of(bytes) else { return };
    let dialect = match input.options & 3 {
        0 | 3 => Dialect::Chat,
        1 => Dialect::Completions,
        _ => Dialect::Embeddings,
    };
    let edits = Edits {
        upstream_model: input.option(2).then_some("up\"stream/\u{1}\u{1F600}"),
        ask_for_usage: input.option(3),
        ask_for_running: input.option(7),
        strip_priority: input.option(4),
        priority: input.option(5).then_some(7),
        output_limit: (input.option(6) && dialect != Dialect::Embeddings).then_some(256),
    };
    let scanned = scan_request(input.text, dialect);
    if let Ok(fields) = &scanned {
        assert!(str::from_utf8(input.text).is_ok() && !fields.model.is_empty());
    }
    // A text that is no JSON for serde_json, or has what only it refuses, is judged by the target `json`.
    let Some(dom) = Dom::parse(input.text) else { return };
    let acceptable = matches!(dom, Dom::Object(_)) && is_acceptable(&dom, dialect);
    assert_eq!(scanned.is_ok(), acceptable, "{:?}", scanned.err());
    let Ok(fields) = scanned else { return };
    fields_agree(&fields, &dom, dialect);

    let splice = plan(&fields, &edits);
    let mut edited = Vec::new();
    splice.write(input.text, &mut edited);
    assert_eq!(edited.len(), splice.len(input.text.len()));
    assert!(!splice.is_empty() || edited == input.text);
    let edited = Dom::parse(&edited).expect("what leaves is JSON");
    assert_eq!(edited, wanted(dom, &fields, &edits));
}

/// Members of `stream_options` that are read: usage, and running counts.
const USAGE: [&str; 2] = ["include_usage", "continuous_usage_stats"];

/// Fields that a dialect reads.
fn reads(dialect: Dialect) -> &'static [&'static str] {
    let all = &[
        "model",
        "priority",
        "stream",
        "stream_options",
        "max_tokens",
        "max_completion_tokens",
        "n",
        "best_of",
        "prompt",
    ];
    match dialect {
        Dialect::Embeddings => &all[..2],
        Dialect::Chat => &all[..7],
        Dialect::Completions => all,
    }
}

fn is_acceptable(dom: &Dom, dialect: Dialect) -> bool {
    let once = reads(dialect).iter().all(|name| dom.all(name).count() <= 1);
    let models = dom.members().iter().filter(|(name, _)| name.eq_ignore_ascii_case("model")).count();
    let named = matches!(dom.last("model"), Some(Dom::Text(name)) if !name.is_empty());
    once && models == 1 && named && (dialect == Dialect::Embeddings || rest_is_acceptable(dom, dialect))
}

/// The fields that only some dialects read.
fn rest_is_acceptable(dom: &Dom, dialect: Dialect) -> bool {
    let boolean = |value: Option<&Dom>| matches!(value, None | Some(Dom::Null | Dom::Bool(_)));
    let count = |value: Option<&Dom>| matches!(value, None | Some(Dom::Null | Dom::Count(_)));
    let choices = |name: &str| matches!(dom.last(name), None | Some(Dom::Null | Dom::Count(1..)));
    let options = match dom.last("stream_options") {
        None | Some(Dom::Null) => true,
        Some(options @ Dom::Object(_)) => {
            USAGE.iter().all(|name| options.all(name).count() <= 1 && boolean(options.last(name)))
        }
        _ => false,
    };
    options
        && boolean(dom.last("stream"))
        && count(dom.last("max_tokens"))
        && count(dom.last("max_completion_tokens"))
        && choices("n")
        && (dialect == Dialect::Chat || choices("best_of"))
}

/// What a request asks for at most: its `n` and `best_of`, and a list that is not of token ids alone holds prompts.
fn choices(dom: &Dom, dialect: Dialect) -> u64 {
    let asked = |name: &str| dom.last(name).and_then(Dom::count).unwrap_or(1);
    let prompts = match dom.last("prompt") {
        Some(Dom::Array(list)) if list.iter().any(|one| !matches!(one, Dom::Count(_) | Dom::Number(_))) => {
            list.len() as u64
        }
        _ => 1,
    };
    match dialect {
        Dialect::Embeddings => 1,
        Dialect::Chat => asked("n"),
        Dialect::Completions => asked("n").max(asked("best_of")).saturating_mul(prompts),
    }
}

fn fields_agree(fields: &RequestFields<'_>, dom: &Dom, dialect: Dialect) {
    assert_eq!(Some(&Dom::Text(fields.model.to_string())), dom.last("model"));
    assert_eq!(fields.has_priority(), dom.last("priority").is_some());
    let read = |name: &str| dom.last(name).filter(|_| dialect != Dialect::Embeddings);
    let yes = |name: &str| {
        let options = read("stream_options");
        options.and_then(|options| options.last(name)) == Some(&Dom::Bool(true))
    };
    assert_eq!(fields.stream, read("stream") == Some(&Dom::Bool(true)));
    assert_eq!(fields.include_usage, fields.stream && yes(USAGE[0]));
    assert_eq!(fields.continuous_usage, fields.include_usage && yes(USAGE[1]));
    let tokens = |limit: &Option<OutputLimit>| limit.as_ref().map(|limit| limit.tokens);
    assert_eq!(tokens(&fields.max_tokens), read("max_tokens").map(Dom::count));
    assert_eq!(tokens(&fields.max_completion_tokens), read("max_completion_tokens").map(Dom::count));
    assert_eq!(fields.choices, choices(dom, dialect));
}

/// The document with the edits made.
fn wanted(dom: Dom, fields: &RequestFields<'_>, edits: &Edits<'_>) -> Dom {
    let Dom::Object(members) = dom else { unreachable!("only an object is accepted") };
    let asks = edits.ask_for_usage && fields.stream;
    let absent = members.iter().all(|(name, _)| name != "stream_options");
    let asked_for = if edits.ask_for_running { &USAGE[..] } else { &USAGE[..1] };
    let usage = || Vec::from_iter(asked_for.iter().map(|name| ((*name).to_owned(), Dom::Bool(true))));
    let limits = ["max_tokens", "max_completion_tokens"];
    let given = fields.output_limit().is_some();
    let unlimited = limits.into_iter().find(|limit| members.iter().any(|(name, _)| name == limit));
    let mut out = Vec::new();
    for (name, value) in members {
        match (name.as_str(), value) {
            ("priority", _) if edits.strip_priority || edits.priority.is_some() => {}
            ("model", value) => {
                let model = edits.upstream_model.map(|name| Dom::Text(name.to_owned()));
                out.push((name, model.unwrap_or(value)));
                if asks && absent {
                    out.push(("stream_options".to_owned(), Dom::Object(usage())));
                }
                let own = edits.priority.map(|priority| Dom::Count(u64::from(priority.unsigned_abs())));
                out.extend(own.map(|priority| ("priority".to_owned(), priority)));
                let limit = edits.output_limit.filter(|_| unlimited.is_none());
                out.extend(limit.map(|limit| ("max_tokens".to_owned(), Dom::Count(limit.into()))));
            }
            (limited, value) if edits.output_limit.is_some() && limits.contains(&limited) => {
                let most = u64::from(edits.output_limit.unwrap_or_default());
                let lowers = match value.count() {
                    Some(tokens) => tokens > most,
                    None => !given && unlimited == Some(limited),
                };
                out.push((name, if lowers { Dom::Count(most) } else { value }));
            }
            ("stream_options", Dom::Object(mut options)) if asks => {
                let mut missing = usage();
                missing.retain(|(wanted, _)| options.iter().all(|(name, _)| name != wanted));
                for (_, asked) in options.iter_mut().filter(|(name, _)| asked_for.contains(&name.as_str())) {
                    *asked = Dom::Bool(true);
                }
                options.splice(0..0, missing);
                out.push((name, Dom::Object(options)));
            }
            ("stream_options", _) if asks => out.push((name, Dom::Object(usage()))),
            (_, value) => out.push((name, value)),
        }
    }
    Dom::Object(out)
}
