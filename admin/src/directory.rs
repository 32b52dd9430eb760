//! Who is behind the indexes that the coordinator reports about: names for operators.
//!
//! Built with every snapshot. What is deleted keeps its name here, because it may still run; that is bounded like the
//! indexes themselves, by what was ever registered in the life of the process.

use std::{collections::HashMap, sync::Arc};

use obleth_policy::id::{GroupId, GroupIx, ModelId, PoolIx, TenantId, TenantIx};

/// See the module's text. One per change; immutable once it is published.
#[derive(Clone, Debug, Default)]
pub(crate) struct Directory {
    pools: HashMap<PoolIx, Arc<PoolLabel>>,
    groups: HashMap<GroupIx, Arc<str>>,
    tenants: HashMap<TenantIx, Arc<TenantLabel>>,
    models_by_id: HashMap<ModelId, Arc<str>>,
    groups_by_id: HashMap<GroupId, Arc<str>>,
}

/// A pool is its model's.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PoolLabel {
    pub(crate) id: ModelId,
    pub(crate) model: String,
}

/// A tenant.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TenantLabel {
    pub(crate) id: TenantId,
    pub(crate) name: String,
}

impl Directory {
    /// `None` for what an earlier life of the sidecar has seen deleted; the other two likewise.
    pub(crate) fn pool(&self, ix: PoolIx) -> Option<&Arc<PoolLabel>> {
        self.pools.get(&ix)
    }

    pub(crate) fn group(&self, ix: GroupIx) -> Option<&str> {
        self.groups.get(&ix).map(|name| &**name)
    }

    pub(crate) fn tenant(&self, ix: TenantIx) -> Option<&Arc<TenantLabel>> {
        self.tenants.get(&ix)
    }

    /// What a model was called last.
    pub(crate) fn model_name(&self, id: ModelId) -> Option<Arc<str>> {
        self.models_by_id.get(&id).cloned()
    }

    /// What a group was called last.
    pub(crate) fn group_name(&self, id: GroupId) -> Option<Arc<str>> {
        self.groups_by_id.get(&id).cloned()
    }

    pub(crate) fn note_pool(&mut self, ix: PoolIx, id: ModelId, model: &str) {
        if self.models_by_id.get(&id).is_none_or(|known| **known != *model) {
            self.models_by_id.insert(id, model.into());
        }
        let known = self.pools.get(&ix).is_some_and(|label| label.id == id && label.model == model);
        if !known {
            self.pools.insert(ix, Arc::new(PoolLabel { id, model: model.to_owned() }));
        }
    }

    pub(crate) fn note_group(&mut self, (ix, id): (GroupIx, GroupId), name: &str) {
        if self.groups_by_id.get(&id).is_none_or(|known| **known != *name) {
            self.groups_by_id.insert(id, name.into());
        }
        self.groups.insert(ix, name.into());
    }

    pub(crate) fn note_tenant(&mut self, ix: TenantIx, id: TenantId, name: &str) {
        let known = self.tenants.get(&ix).is_some_and(|label| label.id == id && label.name == name);
        if !known {
            self.tenants.insert(ix, Arc::new(TenantLabel { id, name: name.to_owned() }));
        }
    }
}
