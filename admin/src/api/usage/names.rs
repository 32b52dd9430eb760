//! What tenants and keys are called, also deleted ones. Numbers are shown without names if the store does not say.

use std::collections::{HashMap, HashSet};

use obleth_policy::id::{KeyId, TenantId};
use uuid::Uuid;

use super::App;
use crate::usage::{
    report::{Dimension, Group},
    row::{COLUMNS, Cell, Entry},
};

/// The names that an answer needs.
#[derive(Debug, Default)]
pub(super) struct Names {
    tenants: HashMap<TenantId, String>,
    keys: HashMap<KeyId, String>,
}

impl Names {
    /// Of what groups have in common.
    pub(super) async fn of_groups(app: &App, by: &[Dimension], groups: &[Group]) -> Self {
        let (mut tenants, mut keys) = (HashSet::new(), HashSet::new());
        for group in groups {
            for (dimension, cell) in by.iter().zip(&group.key) {
                match (dimension, cell) {
                    (Dimension::Tenant, Some(Cell::Id(id))) => drop(tenants.insert(TenantId(*id))),
                    (Dimension::Key, Some(Cell::Id(id))) => drop(keys.insert(KeyId(*id))),
                    _ => {}
                }
            }
        }
        Self::ask(app, tenants, keys).await
    }

    /// Of single rows.
    pub(super) async fn of_entries(app: &App, entries: &[Entry]) -> Self {
        let ids = |column| entries.iter().filter_map(move |entry| id(entry, column));
        Self::ask(app, ids("tenant_id").map(TenantId).collect(), ids("key_id").map(KeyId).collect()).await
    }

    async fn ask(app: &App, tenants: HashSet<TenantId>, keys: HashSet<KeyId>) -> Self {
        if tenants.is_empty() && keys.is_empty() {
            return Self::default();
        }
        let names =
            app.ask(move |db| Ok(Self { tenants: db.tenant_names(tenants)?, keys: db.key_names(keys)? }));
        names.await.unwrap_or_default()
    }

    pub(super) fn tenant(&self, id: Uuid) -> Option<&str> {
        self.tenants.get(&TenantId(id)).map(String::as_str)
    }

    pub(super) fn key(&self, id: Uuid) -> Option<&str> {
        self.keys.get(&KeyId(id)).map(String::as_str)
    }

    /// The names beside a row, in the order of [`NAMES`].
    pub(super) fn beside(&self, entry: &Entry) -> [Option<&str>; NAMES.len()] {
        let tenant = id(entry, "tenant_id").and_then(|id| self.tenant(id));
        [tenant, id(entry, "key_id").and_then(|id| self.key(id))]
    }
}

/// Columns that stand behind those of the ledger.
pub(super) const NAMES: [&str; 2] = ["tenant_name", "key_name"];

fn id(entry: &Entry, column: &str) -> Option<Uuid> {
    let at = COLUMNS.iter().position(|known| known.name == column)?;
    match entry.cells().get(at) {
        Some(Some(Cell::Id(id))) => Some(*id),
        _ => None,
    }
}
