//! Two books of every request, kept apart: what the backend ran, and what the ledger says. And that they agree.
//!
//! Both are read over HTTP, as anybody can. Requests are known by the `x-request-id` that the test gave them.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    time::Instant,
};

use serde_json::Value;

use super::{
    http::Request,
    process::{Gateway, PATIENCE},
    world::page,
};

/// All of time that the ledger knows, whatever the clock says now.
const ALL: &str = "/usage/logs?limit=1000&from=2000-01-01&to=2190-01-01";

/// How a request ended for its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With `[DONE]`, or a whole body under status 200.
    Whole,
    /// With another status, and this code.
    Refused(u16, String),
    /// With less than that, or nothing; the client may have left.
    Broken,
}

/// What the backend knows of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) prompt_tokens: u64,
    pub(crate) tokens: u64,
    pub(crate) completed: bool,
}

/// Every row of the ledger, over all pages.
pub(crate) fn rows(gateway: &Gateway) -> Vec<Value> {
    let (mut all, mut path) = (Vec::new(), ALL.to_owned());
    loop {
        let answer = gateway.get(&path);
        assert_eq!(answer.status, 200, "{}", answer.text());
        all.extend(answer.json().as_array().expect("a list").iter().cloned());
        let next = answer.header("link").and_then(|link| link.split_once("/api/v1")?.1.split_once('>'));
        match next {
            Some((next, rel)) if rel.contains("next") => path = next.to_owned(),
            _ => return all,
        }
    }
}

/// The backend's journal, by request.
pub(crate) fn journal(sim: SocketAddr) -> HashMap<String, Seen> {
    let mut seen = HashMap::new();
    let mut path = "/sim/journal".to_owned();
    loop {
        let text = page(sim, &path).text();
        let Some(last) = text.lines().next_back().and_then(|line| line.split('\t').next()) else {
            return seen;
        };
        path = format!("/sim/journal?after={last}");
        for line in text.lines() {
            let [_, id, _, prompt, tokens, _, end] = line.split('\t').collect::<Vec<_>>()[..] else {
                panic!("{line}")
            };
            assert_ne!(end, "open", "{line}");
            let (prompt_tokens, tokens) = (prompt.parse().unwrap(), tokens.parse().unwrap());
            seen.insert(id.to_owned(), Seen { prompt_tokens, tokens, completed: end == "completed" });
        }
    }
}

/// What is wrong between clients, backend and ledger; empty if nothing is. `killed`: requests that may have been cut
/// by the gateway's death.
pub(crate) fn faults(
    told: &BTreeMap<String, End>,
    seen: &HashMap<String, Seen>,
    rows: &[Value],
    killed: bool,
) -> Vec<String> {
    let mut by_request: HashMap<&str, Vec<&Value>> = HashMap::new();
    let mut ids: HashMap<&str, u32> = HashMap::new();
    for row in rows {
        by_request.entry(text(row, "request_id")).or_default().push(row);
        *ids.entry(text(row, "id")).or_default() += 1;
    }
    let mut faults: Vec<String> = Vec::new();
    faults.extend(
        ids.iter().filter(|(_, times)| **times > 1).map(|(id, _)| format!("record {id} is there twice")),
    );
    let strangers = by_request.keys().filter(|id| !told.contains_key(**id));
    faults.extend(strangers.map(|id| format!("nobody made {id:?}")));
    for (id, end) in told {
        let own = by_request.get(id.as_str()).map(Vec::as_slice).unwrap_or_default();
        let why = match own {
            [] if seen.contains_key(id) => Some("the backend saw it"),
            [] if *end != End::Broken => Some("it was answered"),
            [] => None,
            [row] => disagreement(end, seen.get(id), row, killed),
            _ => Some("it is there twice"),
        };
        faults.extend(why.map(|why| format!("{id}: {why}: {end:?}, {:?}, {own:?}", seen.get(id))));
    }
    faults
}

/// What a row says that client and backend know otherwise.
fn disagreement(end: &End, seen: Option<&Seen>, row: &Value, killed: bool) -> Option<&'static str> {
    let seen = seen.cloned().unwrap_or_default();
    let (input, output) = (row["input_tokens"].as_u64()?, row["output_tokens"].as_u64()?);
    let exact = seen.completed
        && (input, output) == (seen.prompt_tokens, seen.tokens)
        && text(row, "usage_source") == "upstream";
    match (end, text(row, "outcome")) {
        (End::Refused(status, code), _) => {
            let same = row["status"] == *status && text(row, "code") == code;
            (!same).then_some("it was refused otherwise")
        }
        (_, "ok") => (!exact).then_some("the backend counted otherwise"),
        (End::Whole, _) => Some("its answer was whole"),
        (End::Broken, "gateway_lost") => (!killed).then_some("nobody was killed"),
        (End::Broken, _) if text(row, "usage_source") == "estimated" => None,
        (End::Broken, _) => (output > seen.tokens).then_some("the backend has sent less"),
    }
}

fn text<'a>(row: &'a Value, member: &str) -> &'a str {
    row[member].as_str().unwrap_or_default()
}

/// Waits until the books agree, and gives the ledger's.
#[track_caller]
pub(crate) fn until_they_agree(
    gateway: &Gateway,
    sim: SocketAddr,
    told: &BTreeMap<String, End>,
    killed: bool,
) -> Vec<Value> {
    let (seen, deadline) = (journal(sim), Instant::now() + PATIENCE);
    loop {
        let found = rows(gateway);
        let wrong = faults(told, &seen, &found, killed);
        if wrong.is_empty() {
            return found;
        }
        let some: Vec<_> = wrong.iter().take(5).collect();
        assert!(Instant::now() < deadline, "{} of {} are wrong: {some:#?}", wrong.len(), told.len());
    }
}

/// A chat request that is known by this name.
pub(crate) fn named(request: Request, id: &str) -> Request {
    request.header("x-request-id", id)
}
