//! Rows to snapshot: the only translation of what operators wrote into what requests run under.
//!
//! It never asks a remote: addresses are those that are known by now. Indexes that it gives out stay with
//! their row, also when the sidecar is started again; a deleted model's is given to another only once nothing
//! of the model runs any more.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use obleth_link::MAX_POOLS;
use obleth_policy::{
    coordinator::GroupShape,
    cost::Rates,
    id::{EndpointId, GroupId, GroupIx, ModelId, PoolIx, TenantId, TenantIx},
    limit::Limits,
    price::Prices,
    snapshot::{Brownout, Division, Endpoint, Model, Secret, Snapshot, Tenant, Timers},
    unit::LimitMs,
};
use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    address::{ApiBase, Host, Target},
    directory::Directory,
    pump::Pump,
    resolve::Names,
    store::rows::{
        Credential, DEFAULT_GROUP, EndpointRow, GroupRow, ModelRow, PricesRow, Registry, TenantRow, Timeouts,
        TokenWeights, grant, network_grant,
    },
    usage::shipper as usage,
};

/// What rows that state nothing fall back to.
#[derive(Clone, Debug)]
pub(crate) struct Defaults {
    /// For models that name no endpoint.
    pub(crate) upstream: Option<(ApiBase, Option<Secret>)>,
    pub(crate) timers: Timers,
    pub(crate) model_max_in_flight: u32,
    pub(crate) brownout: Brownout,
    /// Requests in flight, over all pools.
    pub(crate) ceiling: u32,
}

/// Builds snapshots and hands them to the pump.
#[derive(Debug)]
pub(crate) struct Publisher {
    defaults: Defaults,
    names: Arc<Names>,
    pump: Arc<Pump>,
    latest: Mutex<Latest>,
    /// Whether anything was published.
    has_begun: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Latest {
    registry: Registry,
    directory: Arc<Directory>,
    complained: HashSet<EndpointId>,
    /// Deleted models whose index is not free yet.
    leaving: HashSet<ModelId>,
}

/// Indexes given out so far, and the number of the last snapshot.
#[derive(Debug, Default)]
struct Places {
    generation: u64,
    pools: HashMap<ModelId, PoolIx>,
    /// The lowest index that no model ever had.
    next_pool: u32,
    /// Indexes below it that no model has.
    free_pools: BTreeSet<u32>,
    groups: HashMap<GroupId, GroupIx>,
    tenants: HashMap<TenantId, TenantIx>,
}

/// What a tenant needs to know of its group.
#[derive(Clone, Copy, Debug)]
struct Group {
    ix: GroupIx,
    id: GroupId,
    limits: Limits,
}

impl Group {
    const UNKNOWN: Self = Self { ix: GroupIx::DEFAULT, id: GroupId(Uuid::nil()), limits: Limits::NONE };

    fn of(row: &GroupRow, places: &mut Places) -> Self {
        Self { ix: places.group(row), id: row.id, limits: row.limits() }
    }
}

/// One for the process, as the data plane's tables are: a sidecar that is started again goes on with it.
static PLACES: Mutex<Option<Places>> = Mutex::new(None);

impl Places {
    fn pool(&mut self, id: ModelId) -> PoolIx {
        if let Some(pool) = self.pools.get(&id) {
            return *pool;
        }
        // A fresh one while there is room: what is known of a pool, its books and its lengths, is known by its index.
        let is_fresh = (self.next_pool as usize) < MAX_POOLS || self.free_pools.is_empty();
        let pool = PoolIx(match self.free_pools.first().copied().filter(|_| !is_fresh) {
            Some(free) => free,
            None => self.next_pool,
        });
        self.free_pools.remove(&pool.0);
        self.next_pool = self.next_pool.max(pool.0.saturating_add(1));
        self.pools.insert(id, pool);
        pool
    }

    /// Frees the index of a model that is gone, unless it is busy. Returns whether it is free.
    fn free_pool(&mut self, id: ModelId, is_busy: impl FnOnce(PoolIx) -> bool) -> bool {
        let Some(pool) = self.pools.get(&id).copied() else { return true };
        if is_busy(pool) {
            return false;
        }
        self.pools.remove(&id);
        self.free_pools.insert(pool.0)
    }

    /// The default group has a place of its own, whatever its id.
    fn group(&mut self, row: &GroupRow) -> GroupIx {
        if row.name == DEFAULT_GROUP {
            return GroupIx::DEFAULT;
        }
        let after_default = u32::try_from(self.groups.len()).unwrap_or(u32::MAX).saturating_add(1);
        *self.groups.entry(row.id).or_insert(GroupIx(after_default))
    }

    fn tenant(&mut self, id: TenantId) -> TenantIx {
        let next = TenantIx(u32::try_from(self.tenants.len()).unwrap_or(u32::MAX));
        *self.tenants.entry(id).or_insert(next)
    }
}

impl Publisher {
    pub(crate) fn new(defaults: Defaults, names: Arc<Names>, pump: Arc<Pump>) -> Self {
        Self { defaults, names, pump, latest: Mutex::default(), has_begun: watch::Sender::new(false) }
    }

    /// Takes the names of a registry into use, ahead of its publication.
    pub(crate) fn prepare(&self, registry: &Registry) {
        self.names.want(self.targets(registry));
    }

    /// Publishes a registry that was just read, unless a newer one was published meanwhile.
    pub(crate) fn publish(&self, registry: Registry) {
        let mut latest = self.lock();
        if registry.sequence <= latest.registry.sequence {
            return;
        }
        latest.registry = registry;
        self.prepare(&latest.registry);
        self.push(&mut latest);
    }

    /// Publishes what is known already, with the addresses that names have now.
    pub(crate) fn republish(&self) {
        let mut latest = self.lock();
        if latest.registry.sequence > 0 {
            self.push(&mut latest);
        }
    }

    fn push(&self, latest: &mut Latest) {
        let mut places = PLACES.lock().unwrap_or_else(PoisonError::into_inner);
        let places = places.get_or_insert_default();
        places.generation += 1;
        let Latest { registry, directory, complained, leaving } = latest;
        // Only those that the shards were told of earlier: one that vanishes now may still get requests.
        leaving.retain(|id| !places.free_pool(*id, |pool| self.pump.gauges().pool_in_flight(pool) > 0));
        let before = self.pump.snapshot();
        let listed: HashSet<ModelId> = registry.models.iter().map(|row| row.id).collect();
        leaving
            .extend(before.iter().flat_map(|s| s.models()).map(|m| m.id).filter(|id| !listed.contains(id)));
        let models: Vec<Model> =
            registry.models.iter().map(|row| self.model(row, places, complained)).collect();
        let groups: HashMap<&str, Group> =
            registry.groups.iter().map(|row| (row.name.as_str(), Group::of(row, places))).collect();
        let tenant = |row| self.tenant(row, places, &groups);
        let tenants: Vec<Tenant> = registry.tenants.iter().map(tenant).collect();
        let names = Arc::make_mut(directory);
        models.iter().for_each(|model| names.note_pool(model.pool, model.id, &model.name));
        groups.iter().for_each(|(name, group)| names.note_group((group.ix, group.id), name));
        tenants.iter().for_each(|tenant| names.note_tenant(tenant.ix, tenant.id, &tenant.name));
        let shape = |row: &GroupRow| GroupShape { group: places.group(row), weight: row.weight };
        let groups = registry.groups.iter().map(shape).collect();
        let division = Division { ceiling: self.defaults.ceiling, groups };
        self.pump.publish(Arc::new(Snapshot::new(places.generation, models, tenants, division)));
        self.has_begun.send_replace(true);
    }

    /// Who is behind the indexes.
    pub(crate) fn directory(&self) -> Arc<Directory> {
        Arc::clone(&self.lock().directory)
    }

    fn tenant(&self, row: &TenantRow, places: &mut Places, groups: &HashMap<&str, Group>) -> Tenant {
        let group = groups.get(row.group_name.as_str()).or_else(|| groups.get(DEFAULT_GROUP)).copied();
        let group = group.unwrap_or(Group::UNKNOWN);
        Tenant {
            id: row.id,
            ix: places.tenant(row.id),
            name: row.name.as_str().into(),
            status: row.status,
            weight: row.weight,
            group: group.ix,
            group_id: group.id,
            max_in_flight: row.max_in_flight,
            brownout: row.brownout.unwrap_or(self.defaults.brownout),
            grant: grant(row.allowed_models.as_deref()),
            networks: network_grant(row.allowed_ips.as_deref()),
            limits: row.limits(),
            group_limits: group.limits,
        }
    }

    fn model(&self, row: &ModelRow, places: &mut Places, complained: &mut HashSet<EndpointId>) -> Model {
        let endpoints = match (row.endpoints.as_slice(), &self.defaults.upstream) {
            ([], Some((base, credential))) => {
                // One identity for all models, so that they share connections. It lives as long as the process.
                let id = EndpointId(Uuid::nil());
                let addresses = self.names.locate(&base.target).unwrap_or_default();
                vec![endpoint((id, 0), base, addresses, credential.clone())]
            }
            (rows, _) => rows.iter().filter_map(|row| self.endpoint(row, complained)).collect(),
        };
        Model {
            id: row.id,
            pool: places.pool(row.id),
            name: row.model_name.as_str().into(),
            aliases: row.aliases.iter().map(|alias| alias.as_str().into()).collect(),
            enabled: row.enabled,
            upstream_model: row
                .upstream_model
                .as_deref()
                .filter(|name| *name != row.model_name)
                .map(Into::into),
            max_in_flight: row.max_in_flight.unwrap_or(self.defaults.model_max_in_flight),
            created: row.created_at,
            max_model_len: row.max_model_len,
            endpoints,
            timers: timers(self.defaults.timers, row.timeouts),
            rates: rates(row.weights),
            sends_priority: row.sends_priority,
            continuous_usage: row.continuous_usage,
            prices: prices(row.prices),
        }
    }

    /// `None` for one that must not be used: switched off, or without the credential that belongs to it.
    fn endpoint(&self, row: &EndpointRow, complained: &mut HashSet<EndpointId>) -> Option<Endpoint> {
        if !row.enabled {
            return None;
        }
        let base = ApiBase::parse(&row.api_base).ok();
        let credential = match &row.credential {
            Credential::None => Some(None),
            Credential::Known(secret) => Some(Some(secret.clone())),
            Credential::Unreadable => None,
        };
        let located = base.as_ref().map(|base| self.names.locate(&base.target));
        if let Some(Err(fault)) = located {
            if complained.insert(row.id) {
                tracing::error!(target: "obleth_admin", endpoint = %row.id,
                    "an endpoint's address {fault}; it is not used");
            }
            return None;
        }
        let (Some(base), Some(Ok(addresses)), Some(credential)) = (base, located, credential) else {
            if complained.insert(row.id) {
                tracing::error!(target: "obleth_admin", endpoint = %row.id,
                    "an endpoint's address or credential cannot be read; it is not used until it is set again");
            }
            return None;
        };
        complained.remove(&row.id);
        Some(endpoint((row.id, row.revision), &base, addresses, credential))
    }

    /// Every name that must be resolved; also of what is switched off, so that it can be switched on at once.
    fn targets(&self, registry: &Registry) -> HashSet<Target> {
        let rows = registry.models.iter().flat_map(|model| &model.endpoints);
        let bases = rows.filter_map(|row| ApiBase::parse(&row.api_base).ok());
        let default = self.defaults.upstream.iter().map(|(base, _)| base.clone());
        let is_name = |target: &Target| matches!(target.host, Host::Name(_));
        bases.chain(default).map(|base| base.target).filter(is_name).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Latest> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The ledger's rows are called what the registry calls them, or did in this sidecar's life.
impl usage::Names for Publisher {
    async fn known(&self) {
        // It fails only without a sender, and that is `self`.
        let _ = self.has_begun.subscribe().wait_for(|has_begun| *has_begun).await;
    }

    fn model(&self, id: ModelId) -> Option<Arc<str>> {
        self.lock().directory.model_name(id)
    }

    fn group(&self, id: GroupId) -> Option<Arc<str>> {
        self.lock().directory.group_name(id)
    }
}

fn endpoint(
    (id, revision): (EndpointId, u64),
    base: &ApiBase,
    addresses: Arc<[SocketAddr]>,
    credential: Option<Secret>,
) -> Endpoint {
    let (authority, base_path) = (base.authority.as_str().into(), base.base_path.as_str().into());
    let tls = base.tls.then(|| base.target.host.to_string().into());
    Endpoint { id, revision, tls, authority, base_path, addresses, credential }
}

fn timers(default: Timers, own: Timeouts) -> Timers {
    let pick = |own: Option<u32>, default: LimitMs| own.map_or(default, LimitMs);
    Timers {
        connect: pick(own.connect_ms, default.connect),
        first_byte: pick(own.first_byte_ms, default.first_byte),
        idle: pick(own.idle_ms, default.idle),
        total: pick(own.total_ms, default.total),
    }
}

fn rates(own: TokenWeights) -> Rates {
    let default = Rates::default();
    Rates {
        input_milli: own.input_milli.unwrap_or(default.input_milli),
        output_milli: own.output_milli.unwrap_or(default.output_milli),
        cached_milli: own.cached_milli.unwrap_or(default.cached_milli),
    }
}

fn prices(row: PricesRow) -> Prices {
    // The store holds no negative ones.
    let part = |micro_usd: Option<i64>| micro_usd.and_then(|price| u64::try_from(price).ok());
    Prices {
        version: row.version,
        input: part(row.input),
        cached_input: part(row.cached_input),
        output: part(row.output),
        image: part(row.image),
        second: part(row.second),
        character: part(row.character),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{networks::Networks, resolve::KnownNames};

    fn defaults() -> Defaults {
        Defaults {
            upstream: None,
            timers: Timers::default(),
            model_max_in_flight: 1,
            brownout: Brownout::Never,
            ceiling: 256,
        }
    }

    #[test]
    fn an_index_stays_with_its_row() {
        let mut places = Places::default();
        let id = |n| ModelId(Uuid::from_u128(n));
        assert_eq!((places.pool(id(1)), places.pool(id(2))), (PoolIx(0), PoolIx(1)));
        assert_eq!(
            (places.pool(id(2)), places.pool(id(1)), places.pool(id(3))),
            (PoolIx(1), PoolIx(0), PoolIx(2))
        );
    }

    #[test]
    fn the_default_group_comes_first_whatever_its_id_and_others_keep_their_place() {
        let mut places = Places::default();
        let row = |n: u128, name: &str| GroupRow {
            id: GroupId(Uuid::from_u128(n)),
            ..GroupRow::draft(name.into())
        };
        assert_eq!((places.group(&row(1, "gold")), places.group(&row(2, "iron"))), (GroupIx(1), GroupIx(2)));
        assert_eq!(
            (places.group(&row(3, "default")), places.group(&row(4, "default"))),
            (GroupIx(0), GroupIx(0))
        );
        assert_eq!(
            (places.group(&row(2, "renamed")), places.group(&row(5, "tin"))),
            (GroupIx(2), GroupIx(3))
        );
    }

    #[test]
    fn a_models_own_time_limit_wins_also_when_it_is_off() {
        let default = Timers { connect: LimitMs(2000), idle: LimitMs(7), ..Timers::default() };
        let own = Timeouts { connect_ms: Some(0), total_ms: Some(5), ..Timeouts::default() };
        let expected = Timers { idle: LimitMs(7), total: LimitMs(5), ..Timers::default() };
        assert_eq!(timers(default, own), expected);
    }

    #[tokio::test]
    async fn an_endpoint_that_is_switched_on_has_its_addresses_at_once() {
        let (end, _shards) = obleth_link::links(1, obleth_link::BufferBudget::new(0)).unwrap();
        let ask: crate::resolve::Ask =
            |_, port| Box::pin(async move { Ok(vec![SocketAddr::from(([10, 0, 0, 1], port))]) });
        let names = Arc::new(Names::new(ask, Networks::default(), KnownNames::default()));
        let defaults = defaults();
        let publisher = Publisher::new(defaults, Arc::clone(&names), Arc::new(Pump::new(end, 1)));
        let registry = |enabled| {
            let endpoint = EndpointRow::draft("default".into(), "http://backend:80/v1".into());
            let endpoints = vec![EndpointRow { enabled, ..endpoint }];
            let model = ModelRow { enabled, endpoints, ..ModelRow::draft("m".into()) };
            Registry { sequence: 1, models: vec![model], ..Registry::default() }
        };
        publisher.prepare(&registry(false));
        names.refresh(&|| {}).await;
        publisher.prepare(&registry(true));
        let row = &registry(true).models[0].endpoints[0];
        let published = publisher.endpoint(row, &mut HashSet::new()).unwrap();
        assert_eq!(*published.addresses, [SocketAddr::from(([10, 0, 0, 1], 80))]);
    }

    #[test]
    fn a_new_model_gets_an_index_that_nothing_is_known_of() {
        let mut places = Places::default();
        let id = |n| ModelId(Uuid::from_u128(n));
        assert_eq!(places.pool(id(1)), PoolIx(0));
        assert!(places.free_pool(id(1), |_| false));
        assert_eq!((places.pool(id(2)), places.pool(id(3))), (PoolIx(1), PoolIx(2)));
    }

    #[test]
    fn a_deleted_models_index_is_used_again_when_there_is_no_fresh_one_lowest_first_once_nothing_of_it_runs()
    {
        let first = u32::try_from(MAX_POOLS).unwrap() - 3;
        *PLACES.lock().unwrap() = Some(Places { next_pool: first, ..Places::default() });
        let (end, shards) = obleth_link::links(1, obleth_link::BufferBudget::new(0)).unwrap();
        let pump = Arc::new(Pump::new(end, 1));
        let names =
            Arc::new(Names::new(crate::resolve::ask_system, Networks::default(), KnownNames::default()));
        let defaults = defaults();
        let publisher = Publisher::new(defaults, names, Arc::clone(&pump));
        let sequence = std::cell::Cell::new(0);
        let pools = |models: &[u128]| -> Vec<u32> {
            sequence.set(sequence.get() + 1);
            let row =
                |n: &u128| ModelRow { id: ModelId(Uuid::from_u128(*n)), ..ModelRow::draft(n.to_string()) };
            let models = models.iter().map(row).collect();
            publisher.publish(Registry { sequence: sequence.get(), models, ..Registry::default() });
            pump.snapshot().unwrap().models().iter().map(|model| model.pool.0 - first).collect()
        };
        assert_eq!(pools(&[1, 2, 3]), [0, 1, 2]);
        let busy = shards[0].gauges().pool_in_flight(PoolIx(first)).unwrap();
        busy.add(1);
        assert_eq!(pools(&[3]), [2]);
        assert_eq!(pools(&[3, 4]), [2, 1], "0 is still busy");
        assert_eq!(pools(&[3, 4, 5]), [2, 1, 3]);
        busy.sub(1);
        assert_eq!(pools(&[3, 4, 5, 6]), [2, 1, 3, 0]);
        assert_eq!(pools(&[7]), [4], "a shard may still have the models that vanish now");
        assert_eq!(pools(&[7, 8, 9]), [4, 0, 1]);
    }
}
