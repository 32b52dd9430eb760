//! Questions to the embedded ledger.
//!
//! A report is one statement, run once per bucket over the bucket's own stretch of time, so the whole range is read
//! once whatever the number of buckets. All of it sees one state of the file.

use std::fmt::Write as _;

use obleth_policy::{outcome::Outcome, unit::UnixMs};
use rusqlite::{Connection, Row, Statement, ToSql};

use super::cells::{count, kind, read};
use crate::{
    store::fault::Fault,
    usage::{
        fault::LedgerFault,
        report::{Dimension, Filter, Group, MOST_GROUPS, Page, Report, Reported, Scope, Sums},
        row::{COLUMNS, Cell, Entry},
    },
};

/// See [`super::Embedded::report`].
pub(super) fn report(conn: &mut Connection, report: &Report) -> Result<Reported, LedgerFault> {
    let tx = conn.transaction()?;
    let mut answer = Reported { groups: Vec::new(), as_of: newest(&tx)? };
    let mut statement = tx.prepare(&sums_sql(report))?;
    bind_filters(&mut statement, &report.scope)?;
    for (bucket, edges) in report.edges.windows(2).enumerate() {
        let &[from, to] = edges else { continue };
        statement.raw_bind_parameter(1, from.0)?;
        statement.raw_bind_parameter(2, to.0)?;
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next()? {
            let group = group(row, bucket, &report.by)?;
            // Without a dimension there is one group, also of nothing.
            if group.sums.requests == 0 {
                continue;
            }
            if answer.groups.len() == MOST_GROUPS {
                return Err(LedgerFault::TooManyGroups);
            }
            answer.groups.push(group);
        }
    }
    Ok(answer)
}

fn newest(conn: &Connection) -> rusqlite::Result<Option<UnixMs>> {
    conn.query_row("SELECT max(ts) FROM requests", [], |row| Ok(row.get::<_, Option<i64>>(0)?.map(UnixMs)))
}

/// The statement of a report: its parameters are the bucket's two edges, then the filters' values.
fn sums_sql(report: &Report) -> String {
    let mut sql = String::from("SELECT ");
    for dimension in &report.by {
        let _ = write!(sql, "{}, ", dimension.column());
    }
    sql.push_str("count(*), ");
    for outcome in Outcome::ALL {
        let _ = write!(sql, "sum(outcome = '{}'), ", outcome.as_str());
    }
    sql.push_str(
        "sum(input_tokens), sum(cached_input_tokens), sum(output_tokens), sum(cost_micro_usd),
         sum(usage_source IS NOT NULL AND cost_micro_usd IS NULL), sum(admission <> 'rejected'),
         sum(iif(admission <> 'rejected', queue_ms, 0)), count(ttft_ms), sum(ttft_ms)
         FROM requests WHERE ts >= ? AND ts < ?",
    );
    write_filters(&mut sql, &report.scope);
    if !report.by.is_empty() {
        let columns: Vec<_> = report.by.iter().map(|dimension| dimension.column()).collect();
        let _ = write!(sql, " GROUP BY {}", columns.join(", "));
    }
    sql
}

fn write_filters(sql: &mut String, scope: &Scope) {
    for filter in &scope.filters {
        let _ = write!(sql, " AND {} = ?", filter.column());
    }
}

/// Binds the filters' values behind the range.
fn bind_filters(statement: &mut Statement<'_>, scope: &Scope) -> rusqlite::Result<()> {
    let cells = scope.filters.iter().map(Filter::cell);
    cells.enumerate().try_for_each(|(at, cell)| statement.raw_bind_parameter(at + 3, cell))
}

fn group(row: &Row<'_>, bucket: usize, by: &[Dimension]) -> Result<Group, LedgerFault> {
    let mut key = Vec::with_capacity(by.len());
    for (at, dimension) in by.iter().enumerate() {
        key.push(read(row, at, kind(dimension.column()).ok_or(Fault::Other)?)?);
    }
    let mut at = by.len();
    let mut next = || {
        at += 1;
        count(row, at - 1)
    };
    let mut sums = Sums { requests: next()?, ..Sums::default() };
    for outcome in &mut sums.outcomes {
        *outcome = next()?;
    }
    sums.input_tokens = next()?;
    sums.cached_input_tokens = next()?;
    sums.output_tokens = next()?;
    let cost = next()?;
    sums.unpriced = next()?;
    sums.admitted = next()?;
    sums.queue_ms = next()?;
    sums.first_tokens = next()?;
    sums.ttft_ms = next()?;
    let is_known = row.get_ref(by.len() + 1 + sums.outcomes.len() + 3)? != rusqlite::types::ValueRef::Null;
    sums.cost_micro_usd = is_known.then_some(cost);
    Ok(Group { bucket, key, sums })
}

/// See [`super::Embedded::page`].
pub(super) fn page(conn: &Connection, page: &Page) -> Result<Vec<Entry>, LedgerFault> {
    let names: Vec<_> = COLUMNS.iter().map(|column| column.name).collect();
    let mut sql = format!("SELECT {} FROM requests WHERE ts >= ? AND ts < ?", names.join(", "));
    write_filters(&mut sql, &page.scope);
    if page.after.is_some() {
        sql.push_str(" AND (ts, id) < (?, ?)");
    }
    sql.push_str(" ORDER BY ts DESC, id DESC LIMIT ?");
    // The range ends where the page begins: SQLite takes one end of it from an index, and must not walk over all the
    // pages before.
    let to = page.after.map_or(page.scope.to.0, |(ts, _)| page.scope.to.0.min(ts.0.saturating_add(1)));
    let mut values: Vec<Box<dyn ToSql + '_>> = vec![Box::new(page.scope.from.0), Box::new(to)];
    for filter in &page.scope.filters {
        values.push(Box::new(filter.cell()));
    }
    if let Some((ts, id)) = page.after {
        values.push(Box::new(ts.0));
        values.push(Box::new(Cell::Id(id)));
    }
    values.push(Box::new(page.limit));
    let mut statement = conn.prepare(&sql)?;
    let mut rows = statement.query(rusqlite::params_from_iter(values))?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next()? {
        let cells = COLUMNS.iter().enumerate().map(|(at, column)| read(row, at, column.kind));
        entries.push(Entry::new(cells.collect::<rusqlite::Result<_>>()?).ok_or(Fault::Damaged)?);
    }
    Ok(entries)
}
