//! Reading columns into the row types: ids, lists of names and of ranges, time zones, absent rows.

use obleth_policy::network::Cidr;
use rusqlite::{Row, types::Type};
use serde_json::Value;
use uuid::Uuid;

use super::fault::{Fault, StoreError};
use crate::usage::calendar::Zone;

pub(super) fn unreadable(
    at: usize,
    error: impl std::error::Error + Send + Sync + 'static,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(at, Type::Text, Box::new(error))
}

/// An id column.
pub(super) fn id(row: &Row<'_>, at: usize) -> rusqlite::Result<Uuid> {
    Uuid::try_parse(row.get_ref(at)?.as_str()?).map_err(|error| unreadable(at, error))
}

/// A column that holds a JSON list of names, or null.
pub(super) fn names(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<Vec<String>>> {
    let text: Option<String> = row.get(at)?;
    text.map(|text| serde_json::from_str(&text).map_err(|error| unreadable(at, error))).transpose()
}

/// The inverse of [`names`].
pub(super) fn names_text(names: Option<&[String]>) -> Option<String> {
    names.map(|names| Value::from(names.to_vec()).to_string())
}

/// A column that holds a JSON list of addresses and ranges, or null.
pub(super) fn networks(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<Vec<Cidr>>> {
    let parse = |text: String| text.parse().map_err(|error| unreadable(at, error));
    names(row, at)?.map(|texts| texts.into_iter().map(parse).collect()).transpose()
}

/// The inverse of [`networks`].
pub(super) fn networks_text(networks: Option<&[Cidr]>) -> Option<String> {
    let texts = networks.map(|networks| networks.iter().map(ToString::to_string).collect::<Vec<_>>());
    names_text(texts.as_deref())
}

/// A column that holds the name of a time zone.
pub(super) fn zone(row: &Row<'_>, at: usize) -> rusqlite::Result<Zone> {
    let unknown = rusqlite::Error::IntegralValueOutOfRange(at, 0);
    Zone::of(row.get_ref(at)?.as_str()?).ok_or(unknown)
}

/// Exactly one row must have changed; anything else means that the file changed under our hands.
pub(super) fn changed_one(rows: usize) -> Result<(), StoreError> {
    if rows == 1 { Ok(()) } else { Err(Fault::Damaged.into()) }
}
