//! Questions to ClickHouse: the same as to the embedded ledger, and the same answers.
//!
//! What a caller said goes as a parameter and is never part of a statement. Names of columns and outcomes come from our
//! own lists.

use std::fmt::Write as _;

use clickhouse::query::Query;
use obleth_policy::{outcome::Outcome, unit::UnixMs};

use super::{
    fault::{Class, ClickHouseFault},
    rowbinary::{self, Bytes, NoRow},
    server::Server,
};
use crate::usage::{
    fault::LedgerFault,
    report::{Dimension, Group, MOST_GROUPS, Page, Report, Reported, Scope, Sums},
    row::{COLUMNS, Cell, Column, Entry, Kind},
};

/// Sums, in two questions: the newest row's time first, so that nothing later is claimed to be in.
pub(super) async fn report(server: &Server, report: &Report) -> Result<Reported, LedgerFault> {
    let as_of = newest(server).await?;
    let table = server.table("usage");
    let mut sql = String::from(
        "SELECT roundDown(toUnixTimestamp64Milli(ts), arrayCumSum({steps: Array(Int64)})) AS bucket, ",
    );
    for dimension in &report.by {
        let _ = write!(sql, "{}, ", dimension.column());
    }
    sql.push_str("count(), ");
    for outcome in Outcome::ALL {
        let _ = write!(sql, "countIf(outcome = '{}'), ", outcome.as_str());
    }
    let _ = write!(
        sql,
        "sum(input_tokens), sum(cached_input_tokens), sum(output_tokens), sum(cost_micro_usd),
         countIf(usage_source IS NOT NULL AND cost_micro_usd IS NULL), countIf(admission != 'rejected'),
         sumIf(queue_ms, admission != 'rejected'), count(ttft_ms), ifNull(sum(ttft_ms), 0)
         FROM {table} WHERE {} GROUP BY bucket",
        conditions(&report.scope)
    );
    for dimension in &report.by {
        let _ = write!(sql, ", {}", dimension.column());
    }
    let _ = write!(sql, " LIMIT {}", MOST_GROUPS + 1);
    let query = parameters(server.query(&sql), &report.scope).param("steps", steps(&report.edges));
    let answer = server.ask(query).await?;
    let groups = groups(&mut Bytes(&answer), report).map_err(strange)?;
    if groups.len() > MOST_GROUPS {
        return Err(LedgerFault::TooManyGroups);
    }
    Ok(Reported { groups, as_of })
}

/// The first edge, and the way from each to the next: thousands of instants as they are would be longer than a parameter
/// may be.
fn steps(edges: &[UnixMs]) -> Vec<i64> {
    let mut last = 0;
    edges.iter().map(|edge| edge.0 - std::mem::replace(&mut last, edge.0)).collect()
}

async fn newest(server: &Server) -> Result<Option<UnixMs>, LedgerFault> {
    let sql = format!("SELECT count() > 0, max(ts) FROM {}", server.table("usage"));
    let answer = server.ask(server.query(&sql)).await?;
    let mut bytes = Bytes(&answer);
    let has_rows = bytes.flag().map_err(strange)?;
    let newest = bytes.time().map_err(strange)?;
    Ok(has_rows.then_some(newest))
}

fn groups(bytes: &mut Bytes<'_>, report: &Report) -> Result<Vec<Group>, NoRow> {
    let mut groups = Vec::new();
    while !bytes.is_empty() {
        let edge = bytes.time()?;
        let bucket = report.edges.binary_search(&edge).map_err(|_| NoRow)?;
        let cell = |dimension: &Dimension| {
            let column = column(dimension.column()).ok_or(NoRow)?;
            bytes.cell(column.kind, column.nullable)
        };
        let key = report.by.iter().map(cell).collect::<Result<_, _>>()?;
        groups.push(Group { bucket, key, sums: sums(bytes)? });
    }
    Ok(groups)
}

fn sums(bytes: &mut Bytes<'_>) -> Result<Sums, NoRow> {
    let mut sums = Sums { requests: bytes.count()?, ..Sums::default() };
    for outcome in &mut sums.outcomes {
        *outcome = bytes.count()?;
    }
    sums.input_tokens = bytes.count()?;
    sums.cached_input_tokens = bytes.count()?;
    sums.output_tokens = bytes.count()?;
    sums.cost_micro_usd = match bytes.cell(Kind::Count, true)? {
        Some(Cell::Count(cost)) => Some(cost),
        _ => None,
    };
    sums.unpriced = bytes.count()?;
    sums.admitted = bytes.count()?;
    sums.queue_ms = bytes.count()?;
    sums.first_tokens = bytes.count()?;
    sums.ttft_ms = bytes.count()?;
    Ok(sums)
}

/// Rows, newest first. The hour stands before the time, which changes no order: it lets the server read the table from its
/// end, an hour at a time.
pub(super) async fn page(server: &Server, page: &Page) -> Result<Vec<Entry>, LedgerFault> {
    let mut sql = format!(
        "SELECT {} FROM {} WHERE {}",
        rowbinary::columns(),
        server.table("usage"),
        conditions(&page.scope)
    );
    if page.after.is_some() {
        let place = "fromUnixTimestamp64Milli({after: Int64}, 'UTC')";
        let _ = write!(
            sql,
            " AND ts <= {place} AND (ts < {place} OR UUIDToNum(id) < UUIDToNum({{after_id: UUID}}))"
        );
    }
    // Ids go by their bytes, which is not how the server orders them.
    sql.push_str(" ORDER BY toStartOfHour(ts) DESC, ts DESC, UUIDToNum(id) DESC LIMIT {limit: UInt64}");
    let mut query = parameters(server.query(&sql), &page.scope).param("limit", u64::from(page.limit));
    if let Some((ts, id)) = page.after {
        query = query.param("after", ts.0).param("after_id", id.to_string());
    }
    let answer = server.ask(query).await?;
    let mut bytes = Bytes(&answer);
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        entries.push(bytes.entry().map_err(strange)?);
    }
    Ok(entries)
}

fn conditions(scope: &Scope) -> String {
    let mut sql = String::from(
        "ts >= fromUnixTimestamp64Milli({from: Int64}, 'UTC') AND ts < fromUnixTimestamp64Milli({to: Int64}, 'UTC')",
    );
    for (at, filter) in scope.filters.iter().enumerate() {
        let kind = match filter.cell() {
            Cell::Id(_) => "UUID",
            Cell::Time(_) => "Int64",
            Cell::Text(_) => "String",
            Cell::Count(_) => "UInt64",
            Cell::Flag(_) => "Bool",
        };
        let _ = write!(sql, " AND {} = {{filter_{at}: {kind}}}", filter.column());
    }
    sql
}

fn parameters(query: Query, scope: &Scope) -> Query {
    let mut query = query.param("from", scope.from.0).param("to", scope.to.0);
    for (at, filter) in scope.filters.iter().enumerate() {
        let name = format!("filter_{at}");
        query = match filter.cell() {
            Cell::Id(id) => query.param(&name, id.to_string()),
            Cell::Time(ts) => query.param(&name, ts.0),
            Cell::Text(text) => query.param(&name, text.as_ref()),
            Cell::Count(count) => query.param(&name, count),
            Cell::Flag(flag) => query.param(&name, flag),
        };
    }
    query
}

fn column(name: &str) -> Option<&'static Column> {
    COLUMNS.iter().find(|column| column.name == name)
}

fn strange(error: NoRow) -> LedgerFault {
    ClickHouseFault::new(Class::OtherSchema, error.to_string()).into()
}
