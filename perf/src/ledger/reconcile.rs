//! The three books held against each other, request by request: pure, so that every fault it looks for has a test.
//!
//! What is asked: a row for every request that the backend saw, or whose client was answered, exactly one; tokens of
//! complete answers to the token; tokens of broken ones between what the client got and what the backend sent.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::{
    books::{Outcome, Row, Seen, Source},
    told::{End, Kind, Told},
};

/// Refusals before anybody is known: they are nobody's, and have no row.
const UNCHARGED: [&str; 3] = ["missing_api_key", "invalid_api_key", "auth_store_unavailable"];
/// How long after a client left the gateway may still be busy with it.
const NOTICED: Duration = Duration::from_secs(1);
/// How many requests are named per fault.
const NAMED: usize = 5;

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Fault {
    /// No row of a request that the backend saw.
    Lost,
    /// No row of a request that was answered, or refused.
    LostAnswer,
    /// Several rows of a request, or one record several times.
    Twice,
    /// A row of a request that nobody sent, or that is nobody's.
    Invented,
    /// A complete answer with other tokens than the backend counted.
    Tokens,
    /// A broken answer with fewer tokens than its client got, or more than the backend sent.
    BrokenTokens,
    /// Another status or code than the client was told.
    Refusal,
    /// An outcome that is not what happened.
    Outcome,
    /// `gateway_lost` of a request that no kill cut.
    FalselyLost,
    /// A cost that is not that of the tokens.
    Cost,
    /// An answer broken off with nobody killed.
    Cut,
}

impl Fault {
    pub(super) const ALL: [Self; 11] = [
        Self::Lost,
        Self::LostAnswer,
        Self::Twice,
        Self::Invented,
        Self::Tokens,
        Self::BrokenTokens,
        Self::Refusal,
        Self::Outcome,
        Self::FalselyLost,
        Self::Cost,
        Self::Cut,
    ];

    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Lost => "requests that the backend saw and the ledger does not have",
            Self::LostAnswer => "answers and refusals that the ledger does not have",
            Self::Twice => "rows too many of a request",
            Self::Invented => "rows of requests that nobody made",
            Self::Tokens => "complete answers with other tokens than the backend's",
            Self::BrokenTokens => "broken answers with tokens outside of those in flight",
            Self::Refusal => "refusals with another status or code than the client's",
            Self::Outcome => "outcomes that are not what happened",
            Self::FalselyLost => "`gateway_lost` of requests that no kill cut",
            Self::Cost => "costs that are not those of the tokens",
            Self::Cut => "answers broken off with nobody killed",
        }
    }
}

/// What a model's tokens cost, in micro-USD per million.
#[derive(Clone, Copy, Debug)]
pub(super) struct Price {
    pub(super) input: u64,
    pub(super) output: u64,
}

/// Everything there is to be judged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Books<'a> {
    pub(super) told: &'a [Told],
    pub(super) seen: &'a [Seen],
    pub(super) rows: &'a [Row],
    /// When the gateway was killed, from the begin of the run.
    pub(super) kills: &'a [Duration],
    pub(super) price: Price,
}

/// What the books say.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Judgement {
    /// How often each fault was found.
    pub(super) faults: BTreeMap<Fault, u64>,
    /// The first requests of each, by number, with what is known of them.
    pub(super) named: BTreeMap<Fault, Vec<String>>,
    /// What happened to requests, by the clients' book.
    pub(super) ends: BTreeMap<String, u64>,
    /// Rows, by outcome.
    pub(super) outcomes: BTreeMap<String, u64>,
    /// Requests that the backend saw.
    pub(super) seen: u64,
    pub(super) rows: u64,
    /// Of complete answers.
    pub(super) tokens: u64,
}

impl Judgement {
    pub(super) fn count(&self, fault: Fault) -> u64 {
        self.faults.get(&fault).copied().unwrap_or_default()
    }

    pub(super) fn is_clean(&self) -> bool {
        self.faults.is_empty()
    }

    fn found(&mut self, fault: Fault, what: impl FnOnce() -> String) {
        *self.faults.entry(fault).or_default() += 1;
        let named = self.named.entry(fault).or_default();
        if named.len() < NAMED {
            named.push(what());
        }
    }
}

impl Books<'_> {
    /// Goes through all of it.
    pub(super) fn judge(&self) -> Judgement {
        let mut judgement = Judgement { rows: self.rows.len() as u64, ..Judgement::default() };
        self.records(&mut judgement);
        let mut rows: Vec<&Row> = self.rows.iter().filter(|row| row.number.is_some()).collect();
        rows.sort_unstable_by_key(|row| row.number);
        let mut rest = rows.as_slice();
        for (number, told) in self.told.iter().enumerate() {
            let count = rest.iter().take_while(|row| row.number == Some(number)).count();
            let (own, behind) = rest.split_at(count);
            rest = behind;
            let seen = self.seen.get(number).copied().unwrap_or_default();
            judgement.seen += u64::from(seen.times > 0);
            *judgement.ends.entry(end_text(told)).or_default() += 1;
            let faults = self.request(told, seen, own);
            let ok = own.first().filter(|row| row.outcome == Outcome::Ok);
            judgement.tokens += ok.map_or(0, |row| row.output_tokens);
            for fault in faults {
                judgement.found(fault, || format!("{number}: {told:?}, {seen:?}, {own:?}"));
            }
        }
        judgement
    }

    /// Records that are there twice, and rows of nobody.
    fn records(&self, judgement: &mut Judgement) {
        let mut ids: Vec<u128> = self.rows.iter().map(|row| row.id).collect();
        ids.sort_unstable();
        for pair in ids.windows(2).filter(|pair| pair.first() == pair.last()) {
            judgement
                .found(Fault::Twice, || format!("record {:x}", pair.first().copied().unwrap_or_default()));
        }
        for row in self.rows {
            *judgement.outcomes.entry(format!("{:?}", row.outcome)).or_default() += 1;
            if row.number.is_none_or(|number| number >= self.told.len()) {
                judgement.found(Fault::Invented, || format!("{row:?}"));
            }
        }
    }

    fn request(&self, told: &Told, seen: Seen, rows: &[&Row]) -> Vec<Fault> {
        let mut faults = Vec::new();
        let near_kill = self.near_kill(told);
        if told.end == End::Cut && told.kind != Kind::Faulty && !near_kill {
            faults.push(Fault::Cut);
        }
        let uncharged = match &told.end {
            End::Refused(refusal) => UNCHARGED.contains(&refusal.code.as_ref()),
            _ => told.kind == Kind::Stranger,
        };
        let row = match rows {
            [] if seen.times > 0 => return [faults, vec![Fault::Lost]].concat(),
            [] => {
                let answered = matches!(told.end, End::Whole | End::Refused(_)) && !uncharged;
                return if answered { [faults, vec![Fault::LostAnswer]].concat() } else { faults };
            }
            [row] => *row,
            [row, ..] => {
                faults.push(Fault::Twice);
                *row
            }
        };
        if uncharged {
            faults.push(Fault::Invented);
        }
        let lost = row.outcome == Outcome::GatewayLost;
        if lost && (!near_kill || matches!(told.end, End::Whole | End::Refused(_))) {
            faults.push(Fault::FalselyLost);
        }
        if !lost {
            faults.extend(ending(told, row));
            faults.extend(tokens(told, seen, row));
        }
        if row.source.is_some() && row.cost_micro_usd != Some(self.price.of(row)) {
            faults.push(Fault::Cost);
        }
        faults
    }

    /// Whether the gateway may have had this request when it was killed.
    fn near_kill(&self, told: &Told) -> bool {
        self.kills.iter().any(|kill| told.sent <= *kill + NOTICED && told.ended + NOTICED >= *kill)
    }
}

/// Whether the row says of the end what the client knows.
fn ending(told: &Told, row: &Row) -> Option<Fault> {
    match &told.end {
        End::Refused(refusal) => {
            (refusal.status != row.status || refusal.code != row.code).then_some(Fault::Refusal)
        }
        End::Whole => (row.outcome != Outcome::Ok || row.status != 200).then_some(Fault::Outcome),
        // Who left may have been answered, or refused, without having noticed.
        End::Left => None,
        // A client that was cut off did not leave.
        End::Cut | End::UnderWay => (row.outcome == Outcome::ClientGone).then_some(Fault::Outcome),
    }
}

fn tokens(told: &Told, seen: Seen, row: &Row) -> Option<Fault> {
    if row.outcome == Outcome::Ok {
        let exact = seen.completed
            && row.source == Some(Source::Upstream)
            && (row.input_tokens, row.output_tokens) == (seen.prompt_tokens, seen.tokens);
        return (!exact).then_some(Fault::Tokens);
    }
    // An estimate claims nothing; what was counted going by claims events.
    let most = seen.tokens.max(told.tokens);
    let within = row.source == Some(Source::Estimated) || (told.tokens..=most).contains(&row.output_tokens);
    (!within).then_some(Fault::BrokenTokens)
}

impl Price {
    /// The cost of a row, rounded to the nearest, half up.
    fn of(self, row: &Row) -> u64 {
        (row.input_tokens * self.input + row.output_tokens * self.output + 500_000) / 1_000_000
    }
}

fn end_text(told: &Told) -> String {
    match &told.end {
        End::Refused(refusal) => format!("{} {}", refusal.status, refusal.code),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests;
