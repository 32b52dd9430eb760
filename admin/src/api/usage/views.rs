//! Reports and rows as JSON.

use std::{cmp::Reverse, collections::BTreeMap};

use obleth_policy::outcome::Outcome;
use serde::{Serialize, Serializer, ser::SerializeMap};

use super::names::{NAMES, Names};
use crate::{
    clock,
    usage::{
        query::Summary,
        report::{Dimension, Group, Reported, Sums},
        row::{COLUMNS, Cell, Entry},
    },
};

/// What some requests come to.
#[derive(Debug, Serialize)]
struct Figures {
    requests: u64,
    outcomes: BTreeMap<&'static str, u64>,
    input_tokens: u64,
    cached_input_tokens: u64,
    output_tokens: u64,
    cost_micro_usd: Option<u64>,
    unpriced_requests: u64,
    mean_queue_ms: Option<f64>,
    mean_ttft_ms: Option<f64>,
}

impl Figures {
    fn new(sums: &Sums) -> Self {
        Self {
            requests: sums.requests,
            outcomes: Outcome::ALL.iter().map(|outcome| outcome.as_str()).zip(sums.outcomes).collect(),
            input_tokens: sums.input_tokens,
            cached_input_tokens: sums.cached_input_tokens,
            output_tokens: sums.output_tokens,
            cost_micro_usd: sums.cost_micro_usd,
            unpriced_requests: sums.unpriced,
            mean_queue_ms: mean(sums.queue_ms, sums.admitted),
            mean_ttft_ms: mean(sums.ttft_ms, sums.first_tokens),
        }
    }
}

/// To a thousandth; nothing of nothing.
fn mean(sum: u64, count: u64) -> Option<f64> {
    (count > 0).then(|| (sum as f64 / count as f64 * 1000.0).round() / 1000.0)
}

/// What a group has in common; null where it was not asked for, or where rows say nothing.
#[derive(Debug, Default, Serialize)]
struct Common {
    tenant_id: Option<String>,
    tenant_name: Option<String>,
    key_id: Option<String>,
    key_name: Option<String>,
    group_name: Option<String>,
    model: Option<String>,
    endpoint: Option<String>,
    outcome: Option<String>,
    status: Option<u64>,
}

impl Common {
    fn new(by: &[Dimension], key: &[Option<Cell<'static>>], names: &Names) -> Self {
        let mut common = Self::default();
        for (dimension, cell) in by.iter().zip(key) {
            match (dimension, cell) {
                (Dimension::Tenant, Some(Cell::Id(id))) => {
                    common.tenant_id = Some(id.to_string());
                    common.tenant_name = names.tenant(*id).map(str::to_owned);
                }
                (Dimension::Key, Some(Cell::Id(id))) => {
                    common.key_id = Some(id.to_string());
                    common.key_name = names.key(*id).map(str::to_owned);
                }
                (Dimension::Status, Some(Cell::Count(status))) => common.status = Some(*status),
                (word, Some(Cell::Text(text))) => {
                    let place = match word {
                        Dimension::Group => &mut common.group_name,
                        Dimension::Model => &mut common.model,
                        Dimension::Endpoint => &mut common.endpoint,
                        _ => &mut common.outcome,
                    };
                    *place = Some(text.clone().into_owned());
                }
                _ => {}
            }
        }
        common
    }
}

/// A stretch of time.
#[derive(Debug, Serialize)]
struct Span {
    from: Option<String>,
    to: Option<String>,
    local: Option<String>,
}

impl Span {
    fn of_bucket(summary: &Summary, bucket: usize) -> Self {
        let edge = |at: usize| summary.report.edges.get(at).copied();
        let local = edge(bucket).map(|from| summary.zone.local(from));
        Self { from: edge(bucket).map(clock::text), to: edge(bucket + 1).map(clock::text), local }
    }
}

#[derive(Debug, Serialize)]
struct GroupView {
    #[serde(flatten)]
    common: Common,
    #[serde(flatten)]
    span: Span,
    #[serde(flatten)]
    figures: Figures,
}

/// `GET /usage`.
#[derive(Debug, Serialize)]
pub(super) struct UsageView {
    from: String,
    to: String,
    tz: String,
    as_of: Option<String>,
    totals: Figures,
    groups: Vec<GroupView>,
}

impl UsageView {
    pub(super) fn new(summary: &Summary, mut answer: Reported, names: &Names) -> Self {
        let report = &summary.report;
        sort(&mut answer.groups);
        let is_grouped = !report.by.is_empty() || summary.interval.is_some();
        let groups = answer.groups.iter().filter(|_| is_grouped).map(|group| GroupView {
            common: Common::new(&report.by, &group.key, names),
            span: match summary.interval {
                Some(_) => Span::of_bucket(summary, group.bucket),
                None => Span { from: None, to: None, local: None },
            },
            figures: Figures::new(&group.sums),
        });
        Self {
            from: clock::text(report.scope.from),
            to: clock::text(report.scope.to),
            tz: summary.zone.name().to_owned(),
            as_of: answer.as_of.map(clock::text),
            totals: Figures::new(&total(&answer.groups)),
            groups: groups.collect(),
        }
    }
}

/// Bucket by bucket, in each those with most requests first.
fn sort(groups: &mut [Group]) {
    groups.sort_by(|a, b| {
        (a.bucket, Reverse(a.sums.requests), &a.key).cmp(&(b.bucket, Reverse(b.sums.requests), &b.key))
    });
}

fn total(groups: &[Group]) -> Sums {
    let mut total = Sums::default();
    groups.iter().for_each(|group| total += &group.sums);
    total
}

#[derive(Debug, Serialize)]
struct SeriesGroupView {
    #[serde(flatten)]
    common: Common,
    #[serde(flatten)]
    figures: Figures,
}

#[derive(Debug, Serialize)]
struct BucketView {
    #[serde(flatten)]
    span: Span,
    #[serde(flatten)]
    figures: Figures,
    groups: Vec<SeriesGroupView>,
}

/// `GET /usage/series`.
#[derive(Debug, Serialize)]
pub(super) struct SeriesView {
    from: String,
    to: String,
    tz: String,
    interval: &'static str,
    as_of: Option<String>,
    totals: Figures,
    buckets: Vec<BucketView>,
}

impl SeriesView {
    pub(super) fn new(summary: &Summary, mut answer: Reported, names: &Names) -> Self {
        let report = &summary.report;
        sort(&mut answer.groups);
        let mut rest = answer.groups.as_slice();
        let buckets = (0..report.edges.len().saturating_sub(1)).map(|bucket| {
            let (groups, later) = rest.split_at(rest.partition_point(|group| group.bucket <= bucket));
            rest = later;
            let shown = groups.iter().filter(|_| !report.by.is_empty()).map(|group| SeriesGroupView {
                common: Common::new(&report.by, &group.key, names),
                figures: Figures::new(&group.sums),
            });
            let span = Span::of_bucket(summary, bucket);
            BucketView { span, figures: Figures::new(&total(groups)), groups: shown.collect() }
        });
        Self {
            from: clock::text(report.scope.from),
            to: clock::text(report.scope.to),
            tz: summary.zone.name().to_owned(),
            interval: summary.interval.map_or("", |interval| interval.as_str()),
            as_of: answer.as_of.map(clock::text),
            buckets: buckets.collect(),
            totals: Figures::new(&total(&answer.groups)),
        }
    }
}

/// One request of `GET /usage/logs`: every column by its name.
pub(super) struct LogView<'e> {
    entry: &'e Entry,
    names: [Option<&'e str>; NAMES.len()],
}

impl<'e> LogView<'e> {
    pub(super) fn new(entry: &'e Entry, names: &'e Names) -> Self {
        Self { entry, names: names.beside(entry) }
    }
}

impl Serialize for LogView<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(COLUMNS.len() + NAMES.len()))?;
        for (column, cell) in COLUMNS.iter().zip(self.entry.cells()) {
            match cell {
                None => map.serialize_entry(column.name, &())?,
                Some(Cell::Id(id)) => map.serialize_entry(column.name, &id.to_string())?,
                Some(Cell::Time(at)) => map.serialize_entry(column.name, &clock::text(*at))?,
                Some(Cell::Text(text)) => map.serialize_entry(column.name, text)?,
                Some(Cell::Count(count)) => map.serialize_entry(column.name, count)?,
                Some(Cell::Flag(flag)) => map.serialize_entry(column.name, flag)?,
            }
        }
        for (name, value) in NAMES.iter().zip(self.names) {
            map.serialize_entry(name, &value)?;
        }
        map.end()
    }
}
