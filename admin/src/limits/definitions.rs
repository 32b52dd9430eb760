//! From rows to what the owner of the limits is told, pure: what is told is what differs from what was told before.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use obleth_policy::{
    id::{KeyId, TenantId},
    limit::{Definition, Limits, Period, Scope, Turn},
    unit::UnixMs,
};
use uuid::Uuid;

use super::turns::Turns;
use crate::{
    store::rows::{KeyRow, Registry},
    usage::calendar::Zone,
};

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Definitions {
    /// Of every scope that has limits.
    told: BTreeMap<Scope, Told>,
    /// When the periods of those end that have any.
    ends: BTreeSet<(UnixMs, Scope)>,
    /// Of every tenant.
    zones: HashMap<TenantId, Zone>,
    /// Keys that have limits, by their tenant.
    keys: HashMap<TenantId, HashSet<KeyId>>,
    turns: Turns,
}

#[derive(Clone, Debug)]
struct Told {
    definition: Definition,
    /// Whose days are its days.
    zone: Zone,
}

impl Definitions {
    /// All of them.
    pub(super) fn all(&self) -> Vec<Definition> {
        self.told.values().map(|told| told.definition).collect()
    }

    /// Takes in what groups and tenants are now. Returns what has changed, also of keys.
    pub(super) fn follow(&mut self, registry: &Registry, now: UnixMs) -> Vec<Definition> {
        let mut changed = Vec::new();
        let mut present = HashSet::new();
        for row in &registry.groups {
            present.insert(Scope::Group(row.id));
            changed.extend(self.put(Scope::Group(row.id), row.limits(), &row.time_zone, now));
        }
        for row in &registry.tenants {
            present.insert(Scope::Tenant(row.id));
            changed.extend(self.put(Scope::Tenant(row.id), row.limits(), &row.time_zone, now));
            if self.zones.get(&row.id) != Some(&row.time_zone) {
                self.zones.insert(row.id, row.time_zone.clone());
                changed.extend(self.move_keys(row.id, &row.time_zone, now));
            }
        }
        let tenants = |scope: &Scope| if let Scope::Tenant(id) = scope { Some(*id) } else { None };
        let left: HashSet<TenantId> = present.iter().filter_map(tenants).collect();
        self.zones.retain(|id, _| left.contains(id));
        let gone_keys = self.keys.extract_if(|id, _| !left.contains(id)).flat_map(|(_, keys)| keys);
        let mut gone: Vec<Scope> = gone_keys.map(Scope::Key).collect();
        // Keys come before all others.
        let others = self.told.range(Scope::Tenant(TenantId(Uuid::nil()))..).map(|(scope, _)| *scope);
        gone.extend(others.filter(|scope| !present.contains(scope)));
        changed.extend(gone.into_iter().filter_map(|scope| self.put(scope, Limits::NONE, &Zone::UTC, now)));
        changed
    }

    /// Takes in what a key is now. Returns what has changed.
    pub(super) fn follow_key(&mut self, row: &KeyRow, now: UnixMs) -> Option<Definition> {
        let limits = if row.deleted { Limits::NONE } else { row.limits() };
        if limits.is_none() {
            if let Some(keys) = self.keys.get_mut(&row.tenant_id) {
                keys.remove(&row.id);
            }
        } else {
            self.keys.entry(row.tenant_id).or_default().insert(row.id);
        }
        // Its tenant's row may be on its way; it puts this right.
        let zone = self.zones.get(&row.tenant_id).cloned().unwrap_or(Zone::UTC);
        self.put(Scope::Key(row.id), limits, &zone, now)
    }

    /// Defines the periods that are under way now. Returns what has changed.
    pub(super) fn renew(&mut self, now: UnixMs) -> Vec<Definition> {
        let ended = self.ends.iter().take_while(|(ends, _)| *ends <= now);
        let ended: Vec<Told> = ended.filter_map(|(_, scope)| self.told.get(scope).cloned()).collect();
        let put = |told: Told| self.put(told.definition.scope, told.definition.limits, &told.zone, now);
        ended.into_iter().filter_map(put).collect()
    }

    /// When the first of all periods ends.
    pub(super) fn next_end(&self) -> Option<UnixMs> {
        self.ends.first().map(|(ends, _)| *ends)
    }

    fn move_keys(&mut self, tenant: TenantId, zone: &Zone, now: UnixMs) -> Vec<Definition> {
        let keys: Vec<KeyId> = self.keys.get(&tenant).into_iter().flatten().copied().collect();
        let limits =
            |told: &BTreeMap<Scope, Told>, scope| told.get(&scope).map(|told| told.definition.limits);
        keys.into_iter()
            .filter_map(|key| {
                let scope = Scope::Key(key);
                self.put(scope, limits(&self.told, scope)?, zone, now)
            })
            .collect()
    }

    /// What must be told if these are the limits of a scope from now on.
    fn put(&mut self, scope: Scope, limits: Limits, zone: &Zone, now: UnixMs) -> Option<Definition> {
        let before = self.told.remove(&scope);
        if let Some(before) = &before {
            self.ends.remove(&(before.ends(), scope));
        }
        if limits.is_none() {
            let none = Definition { scope, limits, day: Turn::FOREVER, month: Turn::FOREVER };
            return before.map(|_| none);
        }
        let [day, month] = self.turns.at(zone, now);
        let has = |period| limits.iter().any(|(measure, _)| measure.period() == period);
        // Only periods that matter: others must wake nobody when they end.
        let pick = |period, turn| if has(period) { turn } else { Turn::FOREVER };
        let (day, month) = (pick(Period::Daily, day), pick(Period::Monthly, month));
        let definition = Definition { scope, limits, day, month };
        let told = Told { definition, zone: zone.clone() };
        if told.ends() < Turn::FOREVER.ends {
            self.ends.insert((told.ends(), scope));
        }
        self.told.insert(scope, told);
        (before.map(|before| before.definition) != Some(definition)).then_some(definition)
    }
}

impl Told {
    /// When the first of its periods ends.
    fn ends(&self) -> UnixMs {
        self.definition.day.ends.min(self.definition.month.ends)
    }
}
