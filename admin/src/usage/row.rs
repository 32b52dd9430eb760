//! A row of the ledger, and the one list of its columns.
//!
//! The tables of both backends, the lists and the CSV are made from [`COLUMNS`], so that a column is everywhere or
//! nowhere. A row is a log's record with the names that its ids had when it was shipped: models and groups can be
//! deleted, and what a request was called must outlive them.

use std::{
    borrow::Cow,
    hash::{Hash, Hasher},
    sync::Arc,
};

use obleth_ledger::{Record, Text};
use obleth_policy::unit::UnixMs;
use uuid::Uuid;

/// Most that one row says of tokens or of money. A backend that claims more must not overflow the sums: a million
/// rows of it still add up in 63 bits.
pub(crate) const MOST: u64 = (1 << 43) - 1;

/// One request that is over.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) record: Record,
    /// Which gateway served it.
    pub(crate) node: Arc<str>,
    /// What the model was called; its id where nobody knows any more. `None` only if no model was known.
    pub(crate) model_name: Option<Arc<str>>,
    /// What the group was called; likewise.
    pub(crate) group_name: Option<Arc<str>>,
}

/// What stands in one column of one row; where nothing does there is none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cell<'r> {
    Id(Uuid),
    Time(UnixMs),
    Text(Cow<'r, str>),
    /// At most [`MOST`].
    Count(u64),
    Flag(bool),
}

impl Cell<'_> {
    /// The same, for as long as this one lasts.
    pub(crate) fn borrowed(&self) -> Cell<'_> {
        match self {
            Self::Id(id) => Cell::Id(*id),
            Self::Time(at) => Cell::Time(*at),
            Self::Text(text) => Cell::Text(Cow::Borrowed(text)),
            Self::Count(count) => Cell::Count(*count),
            Self::Flag(flag) => Cell::Flag(*flag),
        }
    }

    /// The same, for as long as anybody likes.
    pub(crate) fn into_owned(self) -> Cell<'static> {
        match self {
            Self::Id(id) => Cell::Id(id),
            Self::Time(at) => Cell::Time(at),
            Self::Text(text) => Cell::Text(Cow::Owned(text.into_owned())),
            Self::Count(count) => Cell::Count(count),
            Self::Flag(flag) => Cell::Flag(flag),
        }
    }

    const fn kind(&self) -> Kind {
        match self {
            Self::Id(_) => Kind::Id,
            Self::Time(_) => Kind::Time,
            Self::Text(_) => Kind::Text,
            Self::Count(_) => Kind::Count,
            Self::Flag(_) => Kind::Flag,
        }
    }
}

impl Hash for Cell<'_> {
    /// Of what it holds alone: where cells are looked up they are all of one kind.
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::Id(id) => state.write_u128(id.as_u128()),
            Self::Time(at) => state.write_i64(at.0),
            Self::Text(text) => text.hash(state),
            Self::Count(count) => state.write_u64(*count),
            Self::Flag(flag) => state.write_u8((*flag).into()),
        }
    }
}

/// What a column's cells are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Id,
    Time,
    Text,
    Count,
    Flag,
}

/// One column.
#[derive(Debug)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) nullable: bool,
    /// Its cell of a row.
    pub(crate) of: fn(&Row) -> Option<Cell<'_>>,
}

/// Where `id` stands among the columns.
pub(crate) const ID: usize = 0;
/// Where `ts` stands among the columns.
pub(crate) const TS: usize = 1;

/// All columns, in the order of lists, CSV and tables.
pub(crate) const COLUMNS: &[Column] = &[
    always("id", Kind::Id, |row| Some(Cell::Id(row.record.id))),
    always("ts", Kind::Time, |row| Some(Cell::Time(row.record.ts))),
    always("request_id", Kind::Text, |row| Some(text(&row.record.request_id))),
    maybe("session_id", Kind::Text, |row| row.record.session_id.as_ref().map(text)),
    always("node", Kind::Text, |row| Some(Cell::Text(Cow::Borrowed(&row.node)))),
    always("tenant_id", Kind::Id, |row| Some(Cell::Id(row.record.tenant.0))),
    always("key_id", Kind::Id, |row| Some(Cell::Id(row.record.key.0))),
    maybe("group_id", Kind::Id, |row| row.record.group.map(|id| Cell::Id(id.0))),
    maybe("group_name", Kind::Text, |row| row.group_name.as_deref().map(said)),
    maybe("model_id", Kind::Id, |row| row.record.model.map(|id| Cell::Id(id.0))),
    maybe("model", Kind::Text, |row| row.model_name.as_deref().map(said)),
    always("endpoint", Kind::Text, |row| Some(said(row.record.endpoint.label()))),
    maybe("upstream_id", Kind::Id, |row| row.record.upstream.map(|id| Cell::Id(id.0))),
    always("status", Kind::Count, |row| Some(Cell::Count(row.record.status.into()))),
    always("outcome", Kind::Text, |row| Some(said(row.record.outcome.as_str()))),
    maybe("code", Kind::Text, |row| row.record.code.map(|code| said(code.as_str()))),
    always("admission", Kind::Text, |row| Some(said(row.record.admission.as_str()))),
    always("queue_ms", Kind::Count, |row| Some(Cell::Count(row.record.queue_ms.into()))),
    maybe("ttft_ms", Kind::Count, |row| row.record.ttft_ms.map(|ms| Cell::Count(ms.into()))),
    always("total_ms", Kind::Count, |row| Some(Cell::Count(row.record.total_ms.into()))),
    maybe("overhead_us", Kind::Count, |row| row.record.overhead_us.map(|us| Cell::Count(us.into()))),
    always("input_tokens", Kind::Count, |row| Some(count(row.record.tokens.input))),
    always("cached_input_tokens", Kind::Count, |row| Some(count(row.record.tokens.cached_input))),
    always("output_tokens", Kind::Count, |row| Some(count(row.record.tokens.output))),
    maybe("usage_source", Kind::Text, |row| row.record.usage_source.map(|source| said(source.as_str()))),
    maybe("cost_micro_usd", Kind::Count, |row| row.record.cost.map(|cost| count(cost.0))),
    maybe("price_version", Kind::Count, |row| row.record.price_version.map(|at| Cell::Count(at.into()))),
    always("streamed", Kind::Flag, |row| Some(Cell::Flag(row.record.streamed))),
    always("retries", Kind::Count, |row| Some(Cell::Count(row.record.retries.into()))),
];

const fn always(name: &'static str, kind: Kind, of: fn(&Row) -> Option<Cell<'_>>) -> Column {
    Column { name, kind, nullable: false, of }
}

const fn maybe(name: &'static str, kind: Kind, of: fn(&Row) -> Option<Cell<'_>>) -> Column {
    Column { name, kind, nullable: true, of }
}

fn said(text: &str) -> Cell<'_> {
    Cell::Text(Cow::Borrowed(text))
}

fn text(text: &Text) -> Cell<'_> {
    said(text.as_str())
}

fn count(count: u64) -> Cell<'static> {
    Cell::Count(count.min(MOST))
}

impl Row {
    /// All its cells, in the order of [`COLUMNS`].
    pub(crate) fn cells(&self) -> impl Iterator<Item = Option<Cell<'_>>> {
        COLUMNS.iter().map(|column| (column.of)(self))
    }
}

/// A row as a backend gives it back: its cells in the order of [`COLUMNS`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry(Vec<Option<Cell<'static>>>);

impl Entry {
    /// Of these cells; `None` if they are not what the columns say.
    pub(crate) fn new(cells: Vec<Option<Cell<'static>>>) -> Option<Self> {
        let fits = |(column, cell): (&Column, &Option<Cell<'_>>)| match cell {
            None => column.nullable,
            Some(cell) => column.kind == cell.kind(),
        };
        (cells.len() == COLUMNS.len() && COLUMNS.iter().zip(&cells).all(fits)).then_some(Self(cells))
    }

    /// Its cells, in the order of [`COLUMNS`].
    pub(crate) fn cells(&self) -> &[Option<Cell<'static>>] {
        &self.0
    }

    /// Where it stands in lists, which go by time and then by id. There always is such a place.
    pub(crate) fn place(&self) -> Option<(UnixMs, Uuid)> {
        match (self.0.get(TS), self.0.get(ID)) {
            (Some(Some(Cell::Time(ts))), Some(Some(Cell::Id(id)))) => Some((*ts, *id)),
            _ => None,
        }
    }
}
