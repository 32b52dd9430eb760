//! The other two books: what the backend ran, by its own journal, and what the ledger says, by the usage API.
//!
//! Both are read as anybody can read them, and kept small: there may be a million lines. Nothing is judged here.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::mix::number_of;
use crate::{http::Call, signals, subject::Gateway};

/// The first page of the ledger's rows.
const ROWS: &str = "/api/v1/usage/logs?limit=1000";

/// What the backend knows of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// How often it came.
    pub(super) times: u32,
    pub(super) prompt_tokens: u64,
    /// Made and sent, whoever took them.
    pub(super) tokens: u64,
    /// Whether all of the answer was handed to the kernel, with status 200.
    pub(super) completed: bool,
}

/// A row of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// The record's id.
    pub(super) id: u128,
    /// Which request it is of; none if it is of nobody's.
    pub(super) number: Option<usize>,
    pub(super) status: u16,
    pub(super) outcome: Outcome,
    pub(super) code: Box<str>,
    pub(super) input_tokens: u64,
    pub(super) output_tokens: u64,
    pub(super) source: Option<Source>,
    pub(super) cost_micro_usd: Option<u64>,
}

/// How it went, in the ledger's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    Ok,
    Rejected,
    ClientGone,
    UpstreamError,
    UpstreamCut,
    Timeout,
    GatewayLost,
}

/// Who counted, in the ledger's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Source {
    Upstream,
    Counted,
    Estimated,
}

/// A row as the API writes it, as far as it is held against anything.
#[derive(Deserialize)]
struct Written {
    id: String,
    request_id: String,
    status: u16,
    outcome: Outcome,
    code: Option<Box<str>>,
    input_tokens: u64,
    output_tokens: u64,
    usage_source: Option<Source>,
    cost_micro_usd: Option<u64>,
}

/// The backend's journal of a run of so many requests.
///
/// # Errors
/// It cannot be read, does not go back to the begin, or has requests under way or of somebody else.
pub(super) fn journal(backend: SocketAddr, seed: u64, requests: usize) -> Result<Vec<Seen>> {
    let mut all = vec![Seen::default(); requests];
    let mut next: u64 = 0;
    loop {
        signals::check()?;
        let after = next.checked_sub(1).map_or(String::new(), |last| format!("?after={last}"));
        let path = format!("/sim/journal{after}");
        let page = Call { server: backend, method: "GET", path: &path, token: "" }.send("")?;
        if page.is_empty() {
            return Ok(all);
        }
        for line in std::str::from_utf8(&page)?.lines() {
            ensure!(line.split('\t').next() == Some(&next.to_string()), "the journal has no line {next}");
            note(line, seed, &mut all).with_context(|| format!("in the journal: {line}"))?;
            next += 1;
        }
    }
}

fn note(line: &str, seed: u64, all: &mut [Seen]) -> Result<()> {
    let fields: Vec<&str> = line.split('\t').collect();
    let [_, id, _, prompt, tokens, _, end] = fields[..] else { bail!("not seven fields") };
    ensure!(end != "open", "a request is still under way");
    let seen = number_of(seed, id).and_then(|number| all.get_mut(number)).context("nobody sent that")?;
    seen.times += 1;
    // Of several tries the one that came to something counts, else the last.
    if !seen.completed {
        (seen.prompt_tokens, seen.tokens, seen.completed) =
            (prompt.parse()?, tokens.parse()?, end == "completed");
    }
    Ok(())
}

/// All rows of the ledger, in whatever order it gives them.
///
/// # Errors
/// A page is refused, or is not what the API says that it is.
pub(super) fn rows(gateway: &Gateway, seed: u64) -> Result<Vec<Row>> {
    let (mut all, mut next) = (Vec::new(), Some(ROWS.to_owned()));
    while let Some(path) = next {
        signals::check()?;
        let (page, link) = gateway.list(&path)?;
        let page: Vec<Written> = serde_json::from_slice(&page).with_context(|| path.clone())?;
        for row in page {
            all.push(row.kept(seed)?);
        }
        next = link;
    }
    Ok(all)
}

impl Written {
    fn kept(self, seed: u64) -> Result<Row> {
        Ok(Row {
            id: u128::from_str_radix(&self.id.replace('-', ""), 16).context("an id that is no UUID")?,
            number: number_of(seed, &self.request_id),
            status: self.status,
            outcome: self.outcome,
            code: self.code.unwrap_or_default(),
            input_tokens: self.input_tokens,
            output_tokens: self.output_tokens,
            source: self.usage_source,
            cost_micro_usd: self.cost_micro_usd,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_tries_the_complete_one_counts() {
        let mut all = vec![Seen::default(); 2];
        for line in [
            "0\tledger-5-1\t9\t3\t2\t200\taborted",
            "1\tledger-5-1\t9\t3\t8\t200\tcompleted",
            "2\tledger-5-1\t9\t3\t1\t200\taborted",
        ] {
            note(line, 5, &mut all).unwrap();
        }
        assert_eq!(all[1], Seen { times: 3, prompt_tokens: 3, tokens: 8, completed: true });
        assert_eq!(all[0], Seen::default());
        for wrong in ["3\tledger-5-1\t9\t3\t1\t0\topen", "3\tledger-5-2\t9\t3\t1\t200\taborted", "3\tx"] {
            assert!(note(wrong, 5, &mut all).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_row_is_read_as_the_api_writes_it() {
        let text = r#"{"id":"01890a5d-ac96-774b-bcce-b302099a8057","request_id":"ledger-5-0","ts":"x","status":200,
            "outcome":"gateway_lost","code":null,"admission":"fast","input_tokens":3,"output_tokens":4,
            "usage_source":"estimated","cost_micro_usd":null}"#;
        let row = serde_json::from_str::<Written>(text).unwrap().kept(5).unwrap();
        assert_eq!((row.number, row.outcome, row.code.as_ref()), (Some(0), Outcome::GatewayLost, ""));
        assert_eq!((row.source, row.id >> 64), (Some(Source::Estimated), 0x0189_0a5d_ac96_774b));
    }
}
