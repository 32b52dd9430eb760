//! From the parameters of a request to a question: parsing and checking, pure.
//!
//! Every parameter that is not known, is said twice or makes no sense is refused by name; nothing is guessed, because
//! a report over something else than what was asked for looks just as right.

use std::borrow::Cow;

use obleth_policy::{
    id::{KeyId, TenantId},
    outcome::Outcome,
    route::Route,
    unit::UnixMs,
};
use uuid::Uuid;

use super::{
    calendar::{Interval, MOST_BUCKETS, Zone},
    cursor::Cursor,
    report::{Dimension, Filter, Page, Report, Scope},
};

/// Days up to `to` that are meant where `from` is not said.
const DEFAULT_DAYS: i32 = 30;
/// Rows of a page where `limit` is not said.
const DEFAULT_LIMIT: u32 = 100;
/// Most rows of a page.
pub(crate) const MOST_ROWS: u32 = 1000;
/// 1970 and 2200: times that every backend can hold.
const TIMES: std::ops::Range<i64> = 0..7_258_118_400_000;

/// Parameters of every question.
pub(crate) const SCOPE: &[&str] =
    &["from", "to", "tz", "tenant_id", "key_id", "group_name", "model", "endpoint", "outcome", "status"];

/// A parameter that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadQuery {
    pub(crate) param: Cow<'static, str>,
    pub(crate) message: String,
}

fn bad(param: impl Into<Cow<'static, str>>, message: impl Into<String>) -> BadQuery {
    BadQuery { param: param.into(), message: message.into() }
}

/// A question for sums, and the zone that it was asked in.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Summary {
    pub(crate) report: Report,
    pub(crate) zone: Zone,
    /// Whether the groups are those of buckets of time.
    pub(crate) interval: Option<Interval>,
}

/// `GET /usage`.
pub(crate) fn totals(pairs: Vec<(String, String)>, now: UnixMs) -> Result<Summary, BadQuery> {
    let mut parameters = Parameters::new(pairs, &["by"])?;
    let by = parameters.take("by");
    let (by, interval) = by.map_or(Ok((Vec::new(), None)), |list| dimensions(&list, &Interval::ALL))?;
    summary(parameters, now, (by, interval, "by"))
}

/// `GET /usage/series`.
pub(crate) fn series(pairs: Vec<(String, String)>, now: UnixMs) -> Result<Summary, BadQuery> {
    let mut parameters = Parameters::new(pairs, &["by", "interval"])?;
    let by = parameters.take("by");
    let (by, _) = by.map_or(Ok((Vec::new(), None)), |list| dimensions(&list, &[]))?;
    let interval = parameters.take("interval").map_or(Ok(Interval::Day), |name| {
        let known = Interval::ALL.into_iter().find(|interval| interval.as_str() == name);
        let words = Interval::ALL.map(Interval::as_str).join(", ");
        known.ok_or_else(|| bad("interval", format!("`interval` must be one of {words}.")))
    })?;
    summary(parameters, now, (by, Some(interval), "interval"))
}

fn summary(
    mut parameters: Parameters,
    now: UnixMs,
    (by, interval, of_interval): (Vec<Dimension>, Option<Interval>, &'static str),
) -> Result<Summary, BadQuery> {
    let zone = parameters.zone()?;
    let (from, to) = parameters.range(&zone, now)?;
    let scope = Scope { from, to, filters: parameters.filters()? };
    let edges = interval.map_or_else(|| Some(vec![from, to]), |interval| zone.edges(from, to, interval));
    let edges = edges.ok_or_else(|| {
        let message = format!(
            "That would be more than {MOST_BUCKETS} buckets. Ask for a shorter range or a longer interval."
        );
        bad(of_interval, message)
    })?;
    Ok(Summary { report: Report { scope, by, edges }, zone, interval })
}

/// What `by` lists: dimensions, and at most one of these intervals.
fn dimensions(list: &str, intervals: &[Interval]) -> Result<(Vec<Dimension>, Option<Interval>), BadQuery> {
    let (mut by, mut interval) = (Vec::new(), None);
    for name in list.split(',').map(str::trim) {
        let twice = || {
            let message =
                format!("`by` takes each word once and one length of time; `{name}` is one too many.");
            bad("by", message)
        };
        if let Some(dimension) = Dimension::ALL.into_iter().find(|known| known.as_str() == name) {
            if by.contains(&dimension) {
                return Err(twice());
            }
            by.push(dimension);
        } else if let Some(known) = intervals.iter().find(|known| known.as_str() == name) {
            if interval.replace(*known).is_some() {
                return Err(twice());
            }
        } else {
            let words = Dimension::ALL.map(Dimension::as_str).into_iter();
            let words: Vec<_> = words.chain(intervals.iter().map(|interval| interval.as_str())).collect();
            let message =
                format!("`by` must be a list of some of {}; `{}` is none.", words.join(", "), shown(name));
            return Err(bad("by", message));
        }
    }
    Ok((by, interval))
}

/// `GET /usage/logs`.
pub(crate) fn logs(pairs: Vec<(String, String)>, now: UnixMs) -> Result<Page, BadQuery> {
    let mut parameters = Parameters::new(pairs, &["limit", "after"])?;
    let limit = parameters.take("limit").map_or(Ok(DEFAULT_LIMIT), |text| {
        let limit = text.parse().ok().filter(|limit| (1..=MOST_ROWS).contains(limit));
        limit.ok_or_else(|| bad("limit", format!("`limit` must be a whole number from 1 to {MOST_ROWS}.")))
    })?;
    let after = parameters.take("after").map(|text| {
        let message = "`after` must be as the `Link` header of the page before says.";
        Cursor::parse(&text).ok_or_else(|| bad("after", message))
    });
    let after = after.transpose()?;
    let zone = parameters.zone()?;
    // A range that was not said is that of the first page.
    let range = match &after {
        Some(cursor) => parameters.range_or(&zone, (cursor.from, cursor.to))?,
        None => parameters.range(&zone, now)?,
    };
    let scope = Scope { from: range.0, to: range.1, filters: parameters.filters()? };
    if after.is_some_and(|cursor| !cursor.is_of(&scope)) {
        return Err(bad("after", "`after` is from a list with another range or other filters."));
    }
    Ok(Page { scope, after: after.map(|cursor| cursor.place), limit })
}

/// `GET /usage/export.csv`: its first page.
pub(crate) fn export(pairs: Vec<(String, String)>, now: UnixMs) -> Result<Page, BadQuery> {
    let mut parameters = Parameters::new(pairs, &[])?;
    let zone = parameters.zone()?;
    let (from, to) = parameters.range(&zone, now)?;
    Ok(Page { scope: Scope { from, to, filters: parameters.filters()? }, after: None, limit: MOST_ROWS })
}

/// What the query says, each name once and each known.
struct Parameters(Vec<(String, String)>);

impl Parameters {
    fn new(pairs: Vec<(String, String)>, more: &[&str]) -> Result<Self, BadQuery> {
        for (at, (name, _)) in pairs.iter().enumerate() {
            if !SCOPE.contains(&name.as_str()) && !more.contains(&name.as_str()) {
                let name = shown(name);
                let words: Vec<_> = more.iter().chain(SCOPE).copied().collect();
                let message =
                    format!("There is no query parameter `{name}` here; there are {}.", words.join(", "));
                return Err(bad(name, message));
            }
            if pairs[..at].iter().any(|(earlier, _)| earlier == name) {
                return Err(bad(name.clone(), format!("`{name}` is there twice.")));
            }
        }
        Ok(Self(pairs))
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.swap_remove(at).1)
    }

    fn zone(&mut self) -> Result<Zone, BadQuery> {
        let Some(name) = self.take("tz") else { return Ok(Zone::UTC) };
        let message = "`tz` must be the name of a time zone, such as `Europe/Berlin`.";
        Zone::of(&name).ok_or_else(|| bad("tz", message))
    }

    fn time(&mut self, name: &'static str, zone: &Zone) -> Result<Option<UnixMs>, BadQuery> {
        let Some(text) = self.take(name) else { return Ok(None) };
        let at = zone.instant(&text).filter(|at| TIMES.contains(&at.0));
        let message = format!(
            "`{name}` must be a time such as `2026-11-01T12:00:00Z` or a day such as `2026-11-01`, from 1970 to 2199."
        );
        at.map(Some).ok_or_else(|| bad(name, message))
    }

    /// `[from, to)`; by default up to this moment, which is part of it.
    fn range(&mut self, zone: &Zone, now: UnixMs) -> Result<(UnixMs, UnixMs), BadQuery> {
        let (from, to) = (self.time("from", zone)?, self.time("to", zone)?);
        let to = to.unwrap_or(UnixMs(now.0.clamp(TIMES.start, TIMES.end - 1) + 1));
        let first = UnixMs(TIMES.start);
        let from =
            from.unwrap_or_else(|| zone.days_before(to, DEFAULT_DAYS).map_or(first, |at| at.max(first)));
        ordered(from, to)
    }

    fn range_or(&mut self, zone: &Zone, (from, to): (UnixMs, UnixMs)) -> Result<(UnixMs, UnixMs), BadQuery> {
        ordered(self.time("from", zone)?.unwrap_or(from), self.time("to", zone)?.unwrap_or(to))
    }

    /// What is left: it goes by columns.
    fn filters(self) -> Result<Vec<Filter>, BadQuery> {
        self.0.into_iter().map(|(name, value)| filter(&name, value)).collect()
    }
}

fn ordered(from: UnixMs, to: UnixMs) -> Result<(UnixMs, UnixMs), BadQuery> {
    if from < to { Ok((from, to)) } else { Err(bad("from", "`from` must be before `to`.")) }
}

fn filter(name: &str, value: String) -> Result<Filter, BadQuery> {
    let id = || {
        let message = format!("`{name}` must be an id.");
        Uuid::try_parse(&value).map_err(|_| bad(name.to_owned(), message))
    };
    let one_of =
        |words: &[&str]| bad(name.to_owned(), format!("`{name}` must be one of {}.", words.join(", ")));
    match name {
        "tenant_id" => Ok(Filter::Tenant(TenantId(id()?))),
        "key_id" => Ok(Filter::Key(KeyId(id()?))),
        "group_name" => Ok(Filter::Group(value)),
        "model" => Ok(Filter::Model(value)),
        "endpoint" => {
            let known = Route::ALL.into_iter().find(|route| route.label() == value);
            known.map(Filter::Endpoint).ok_or_else(|| one_of(&Route::ALL.map(Route::label)))
        }
        "outcome" => {
            let known = Outcome::ALL.into_iter().find(|outcome| outcome.as_str() == value);
            known.map(Filter::Outcome).ok_or_else(|| one_of(&Outcome::ALL.map(Outcome::as_str)))
        }
        _ => {
            let status = value.parse().ok().filter(|status| *status <= 599);
            status.map(Filter::Status).ok_or_else(|| bad("status", "`status` must be a status such as 200."))
        }
    }
}

/// Of what a client typed, as much as a message can bear.
fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests;
