//! Sums the slow way: every row is looked at, and asked what its clock on the wall shows.

use std::collections::BTreeMap;

use jiff::{Timestamp, civil::Weekday, tz::TimeZone};
use obleth_ledger::Admission;
use obleth_policy::{outcome::Outcome, unit::UnixMs};

use crate::{
    clock,
    usage::{
        calendar::Interval,
        query::Summary,
        report::{Dimension, Sums},
        row::{Cell, Row},
    },
};

/// What the clock on the wall shows, as far as it matters: all moments of a bucket have the same.
pub(super) type Label = String;
/// What a group has in common, as text.
pub(super) type Key = Vec<Option<String>>;

/// A cell as text.
pub(super) fn text(cell: Cell<'_>) -> String {
    match cell {
        Cell::Id(id) => id.to_string(),
        Cell::Time(at) => clock::text(at),
        Cell::Text(text) => text.into_owned(),
        Cell::Count(count) => count.to_string(),
        Cell::Flag(flag) => flag.to_string(),
    }
}

/// What a clock of this zone shows.
pub(super) fn label(zone: &str, at: UnixMs, interval: Interval) -> Label {
    let zone = TimeZone::get(zone).unwrap();
    let local = Timestamp::from_millisecond(at.0).unwrap().to_zoned(zone);
    let date = local.date();
    match interval {
        Interval::Hour => format!("{date} {} {}", local.hour(), local.offset()),
        Interval::Day => date.to_string(),
        Interval::Week => {
            let mut day = date;
            while day.weekday() != Weekday::Monday {
                day = day.yesterday().unwrap();
            }
            day.to_string()
        }
        Interval::Month => format!("{} {}", date.year(), date.month()),
    }
}

/// What a ledger with these rows must answer, of those that `keep` lets through.
pub(super) fn expected(
    rows: &[Row],
    summary: &Summary,
    keep: impl Fn(&Row) -> bool,
) -> BTreeMap<(Option<Label>, Key), Sums> {
    let Summary { report, zone, interval } = summary;
    let mut sums: BTreeMap<_, Sums> = BTreeMap::new();
    for row in rows {
        let ts = row.record.ts;
        if ts < report.scope.from || ts >= report.scope.to || !keep(row) {
            continue;
        }
        let label = interval.map(|interval| label(zone.name(), ts, interval));
        let key = report.by.iter().map(|dimension| value(row, *dimension)).collect();
        add(sums.entry((label, key)).or_default(), row);
    }
    sums
}

fn value(row: &Row, dimension: Dimension) -> Option<String> {
    let record = &row.record;
    match dimension {
        Dimension::Tenant => Some(record.tenant.to_string()),
        Dimension::Key => Some(record.key.to_string()),
        Dimension::Group => row.group_name.as_deref().map(str::to_owned),
        Dimension::Model => row.model_name.as_deref().map(str::to_owned),
        Dimension::Endpoint => Some(record.endpoint.label().to_owned()),
        Dimension::Outcome => Some(record.outcome.as_str().to_owned()),
        Dimension::Status => Some(record.status.to_string()),
    }
}

fn add(sums: &mut Sums, row: &Row) {
    let record = &row.record;
    sums.requests += 1;
    for (count, outcome) in sums.outcomes.iter_mut().zip(Outcome::ALL) {
        *count += u64::from(record.outcome == outcome);
    }
    sums.input_tokens += record.tokens.input;
    sums.cached_input_tokens += record.tokens.cached_input;
    sums.output_tokens += record.tokens.output;
    match record.cost {
        Some(cost) => sums.cost_micro_usd = Some(sums.cost_micro_usd.unwrap_or(0) + cost.0),
        None => sums.unpriced += u64::from(record.usage_source.is_some()),
    }
    if record.admission != Admission::Rejected {
        sums.admitted += 1;
        sums.queue_ms += u64::from(record.queue_ms);
    }
    if let Some(ttft) = record.ttft_ms {
        sums.first_tokens += 1;
        sums.ttft_ms += u64::from(ttft);
    }
}
