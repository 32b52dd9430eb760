//! What models and groups are called, as their records are read.
//!
//! It makes a row of a record where that comes out of the log, so that it is moved once. It must not ask for every record:
//! whoever knows the names is asked under a lock.

use std::{hash::Hash, sync::Arc};

use foldhash::HashMap;
use obleth_ledger::Record;
use obleth_policy::id::{GroupId, ModelId};

use super::Names;
use crate::usage::row::Row;

/// Makes rows of records, with the names of now: models and groups can be deleted. Where nobody knows a name the id stands
/// for it.
pub(super) struct Namer<N> {
    names: Arc<N>,
    node: Arc<str>,
    models: Called<ModelId>,
    groups: Called<GroupId>,
}

impl<N: Names> Namer<N> {
    pub(super) fn new(names: Arc<N>, node: Arc<str>) -> Self {
        Self { names, node, models: Called::new(), groups: Called::new() }
    }

    #[inline]
    pub(super) fn row(&mut self, record: Record) -> Row {
        let model = |id: ModelId| self.names.model(id).unwrap_or_else(|| id.to_string().into());
        let group = |id: GroupId| self.names.group(id).unwrap_or_else(|| id.to_string().into());
        Row {
            node: Arc::clone(&self.node),
            model_name: record.model.map(|id| self.models.name(id, model)),
            group_name: record.group.map(|id| self.groups.name(id, group)),
            record,
        }
    }
}

/// What things of a kind are called. Many records have few of them.
struct Called<I> {
    last: Option<(I, Arc<str>)>,
    known: HashMap<I, Arc<str>>,
}

impl<I: Copy + Eq + Hash> Called<I> {
    fn new() -> Self {
        Self { last: None, known: HashMap::default() }
    }

    #[inline]
    fn name(&mut self, id: I, ask: impl FnOnce(I) -> Arc<str>) -> Arc<str> {
        match &self.last {
            Some((last, name)) if *last == id => Arc::clone(name),
            _ => {
                let name = Arc::clone(self.known.entry(id).or_insert_with(|| ask(id)));
                self.last = Some((id, Arc::clone(&name)));
                name
            }
        }
    }
}
