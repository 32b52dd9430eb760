//! Groups, tenants and keys that have limits, and requests whose cost is known beforehand.
//!
//! Limits are set as an operator sets them. A party shares nothing with any other, so one gateway serves many cases.

use obleth_policy::limit::{Measure, Period, Unit};
use serde_json::{Value, json};

use super::{
    http::{Request, Response},
    ledger_books::rows,
    live_edits::everywhere,
    process::Gateway,
    world::{ENDPOINTS, World, chat},
};

/// What [`fixed`] comes to: input, output, both, and its price once the model is [`World::priced`].
pub(crate) const INPUT: u64 = 3;
pub(crate) const OUTPUT: u64 = 7;
pub(crate) const TOKENS: u64 = INPUT + OUTPUT;
pub(crate) const MICRO_USD: u64 = INPUT + 2 * OUTPUT;

/// A request that says how long its answer may be, and gets one of that length.
pub(crate) fn fixed(secret: &str) -> Request {
    Request::post(ENDPOINTS[0], chat(&format!(r#","max_tokens":{OUTPUT},"sim_tokens":{OUTPUT}"#))).key(secret)
}

/// What [`fixed`] uses of a measure.
pub(crate) fn cost(measure: Measure) -> u64 {
    match measure.unit() {
        Unit::Requests => 1,
        Unit::Tokens => TOKENS,
        Unit::MicroUsd => MICRO_USD,
    }
}

/// The code of a refusal by a limit.
pub(crate) fn code(measure: Measure) -> &'static str {
    match measure {
        Measure::RequestsPerMinute => "rate_limit_exceeded",
        Measure::TokensPerMinute => "token_quota_exceeded",
        _ => "budget_exceeded",
    }
}

/// Whose limit it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    Key,
    Tenant,
    Group,
}

impl Of {
    pub(crate) const ALL: [Self; 3] = [Self::Key, Self::Tenant, Self::Group];

    /// As refusals say it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Tenant => "tenant",
            Self::Group => "group",
        }
    }

    /// Whether it can have such a limit: groups have budgets only.
    pub(crate) fn can_have(self, measure: Measure) -> bool {
        self != Self::Group || measure.is_budget()
    }
}

/// A group with one tenant, and this one's key.
pub(crate) struct Party {
    pub(crate) group_id: String,
    pub(crate) group_name: String,
    pub(crate) tenant_id: String,
    pub(crate) key_id: String,
    pub(crate) secret: String,
}

impl Party {
    /// Its resource in the admin API.
    pub(crate) fn path(&self, of: Of) -> String {
        match of {
            Of::Key => format!("/keys/{}", self.key_id),
            Of::Tenant => format!("/tenants/{}", self.tenant_id),
            Of::Group => format!("/groups/{}", self.group_id),
        }
    }

    pub(crate) fn request(&self) -> Request {
        fixed(&self.secret)
    }

    /// A chat request with these further members.
    pub(crate) fn chat(&self, more: &str) -> Request {
        Request::post(ENDPOINTS[0], chat(more)).key(&self.secret)
    }
}

impl World {
    /// A party without limits.
    pub(crate) fn party(&self) -> Party {
        let made = |path: &str, fields: Value| {
            let answer = self.gateway.post(path, fields);
            assert_eq!(answer.status, 201, "{}", answer.text());
            answer.json()
        };
        let text = |resource: &Value, member: &str| resource[member].as_str().unwrap().to_owned();
        let name =
            format!("party {}", self.gateway.get("/groups?limit=1000").json().as_array().unwrap().len());
        let group = made("/groups", json!({"name": name}));
        let tenant = made("/tenants", json!({"name": name, "group_name": name}));
        let tenant_id = text(&tenant, "id");
        let key = made(&format!("/tenants/{tenant_id}/keys"), json!({"name": "k"}));
        Party {
            group_id: text(&group, "id"),
            group_name: name,
            tenant_id,
            key_id: text(&key, "id"),
            secret: text(&key, "secret"),
        }
    }

    /// Sets a limit; `None` takes it away.
    #[track_caller]
    pub(crate) fn limit(&self, party: &Party, of: Of, measure: Measure, limit: Option<u64>) {
        let path = party.path(of);
        let (part, name) = match (measure.period(), measure.unit()) {
            (Period::Minute, Unit::Requests) => ("quota", "requests_per_minute"),
            (Period::Minute, _) => ("quota", "tokens_per_minute"),
            (_, Unit::MicroUsd) => ("budget", "limit_micro_usd"),
            _ => ("budget", "limit_tokens"),
        };
        let mut body = json!({name: limit});
        if measure.is_budget() {
            body["period"] = measure.period().as_str().into();
        }
        self.gateway.put(&format!("{path}/{part}"), body);
    }

    /// A party with one limit.
    pub(crate) fn limited(&self, of: Of, measure: Measure, limit: u64) -> Party {
        let party = self.party();
        self.limit(&party, of, measure, Some(limit));
        party
    }

    /// Gives it budgets of every kind, of all its scopes, with room for everything that a test does.
    pub(crate) fn ample(&self, party: &Party) {
        for of in Of::ALL {
            for measure in Measure::ALL.into_iter().filter(|measure| measure.is_budget()) {
                self.limit(party, of, measure, Some(1 << 40));
            }
        }
    }

    /// Gives the model prices: a micro-USD for a token of input, two for one of output.
    pub(crate) fn priced(&self) {
        let prices = json!({"input_micro_usd": 1_000_000, "output_micro_usd": 2_000_000});
        self.gateway.patch(&format!("/models/{}", self.model_id), json!({"prices": prices}));
    }

    /// Lets every core learn what the tokens of [`fixed`] are. Before that each byte of a body counts as one.
    pub(crate) fn taught(&self) {
        everywhere(self, &fixed(&self.secret));
    }

    /// Asks so often on one connection; all answers.
    pub(crate) fn ask_times(&self, request: &Request, times: usize) -> Vec<Response> {
        let mut connection = self.connect();
        (0..times).map(|_| connection.ask(request)).collect()
    }
}

/// How a budget stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stand {
    pub(crate) spent: u64,
    pub(crate) reserved: u64,
    pub(crate) left: u64,
}

impl Party {
    /// How its budgets stand, by what the admin API says.
    #[track_caller]
    pub(crate) fn budgets(&self, gateway: &Gateway) -> Vec<(Of, Measure, Stand)> {
        let ids = [(Of::Key, &self.key_id), (Of::Tenant, &self.tenant_id), (Of::Group, &self.group_id)];
        let mut all = Vec::new();
        for (of, id) in ids {
            let answer = gateway.get(&format!("/budgets?scope_id={id}"));
            assert_eq!(answer.status, 200, "{}", answer.text());
            for line in answer.json().as_array().unwrap() {
                let is_this = |measure: &Measure| {
                    let unit = if measure.unit() == Unit::Tokens { "tokens" } else { "micro_usd" };
                    measure.is_budget() && line["period"] == measure.period().as_str() && line["unit"] == unit
                };
                let measure = Measure::ALL.into_iter().find(is_this).unwrap();
                let number = |member: &str| line[member].as_u64().unwrap_or_else(|| panic!("{line:#}"));
                let stand =
                    Stand { spent: number("spent"), reserved: number("reserved"), left: number("left") };
                all.push((of, measure, stand));
            }
        }
        all
    }

    /// What the usage ledger has of its requests: tokens, and money.
    #[track_caller]
    pub(crate) fn ledger(&self, gateway: &Gateway) -> (u64, u64) {
        let rows = rows(gateway);
        let own = rows.iter().filter(|row| row["key_id"] == self.key_id.as_str());
        own.fold((0, 0), |(tokens, money), row| {
            let number = |member: &str| row[member].as_u64().unwrap_or(0);
            let used = number("input_tokens") + number("output_tokens");
            (tokens + used, money + number("cost_micro_usd"))
        })
    }
}

/// What of the ledger's (tokens, money) a measure counts.
pub(crate) fn counted(measure: Measure, (tokens, money): (u64, u64)) -> u64 {
    if measure.unit() == Unit::Tokens { tokens } else { money }
}

/// How many of the answers have status 200; the others are refusals by this limit.
#[track_caller]
pub(crate) fn passed(answers: &[Response], measure: Measure) -> usize {
    let (passed, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
    for answer in refused {
        assert_eq!((answer.status, answer.code().as_str()), (429, code(measure)), "{}", answer.text());
    }
    passed.len()
}
