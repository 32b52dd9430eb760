//! Cells to SQLite's values and back.

use std::borrow::Cow;

use obleth_policy::unit::UnixMs;
use rusqlite::{
    Row, ToSql,
    types::{ToSqlOutput, Type, ValueRef},
};
use uuid::Uuid;

use crate::usage::row::{COLUMNS, Cell, Kind};

impl ToSql for Cell<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let value = match self {
            Self::Id(id) => ValueRef::Blob(id.as_bytes()),
            Self::Time(at) => ValueRef::Integer(at.0),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            // The largest count is far below the largest integer.
            Self::Count(count) => ValueRef::Integer(i64::try_from(*count).unwrap_or(i64::MAX)),
            Self::Flag(flag) => ValueRef::Integer((*flag).into()),
        };
        Ok(ToSqlOutput::Borrowed(value))
    }
}

/// What the cells of the column with this name are.
pub(super) fn kind(column: &str) -> Option<Kind> {
    COLUMNS.iter().find(|known| known.name == column).map(|known| known.kind)
}

/// The cell at a place of a result.
pub(super) fn read(row: &Row<'_>, at: usize, kind: Kind) -> rusqlite::Result<Option<Cell<'static>>> {
    let value = row.get_ref(at)?;
    let strange = |error| rusqlite::Error::FromSqlConversionFailure(at, value.data_type(), error);
    let cell = match (kind, value) {
        (_, ValueRef::Null) => return Ok(None),
        (Kind::Id, ValueRef::Blob(bytes)) => {
            Cell::Id(Uuid::from_slice(bytes).map_err(|error| strange(Box::new(error)))?)
        }
        (Kind::Time, ValueRef::Integer(at)) => Cell::Time(UnixMs(at)),
        (Kind::Text, ValueRef::Text(_)) => Cell::Text(Cow::Owned(value.as_str()?.to_owned())),
        (Kind::Count, ValueRef::Integer(_)) => Cell::Count(count(row, at)?),
        (Kind::Flag, ValueRef::Integer(flag)) => Cell::Flag(flag != 0),
        _ => return Err(rusqlite::Error::InvalidColumnType(at, String::new(), value.data_type())),
    };
    Ok(Some(cell))
}

/// A number that is never negative; zero where there is none.
pub(super) fn count(row: &Row<'_>, at: usize) -> rusqlite::Result<u64> {
    let number: Option<i64> = row.get(at)?;
    let number = number.unwrap_or_default();
    u64::try_from(number)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(at, Type::Integer, Box::new(error)))
}
