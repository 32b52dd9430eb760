//! The configuration that requests run under: tenants, models and their endpoints, whole and immutable.
//!
//! The sidecar builds one per change and publishes it as an `Arc`; a request pins the one it started with, so
//! that a model cannot change under its hands. Keys are not in here: there may be millions, and they are
//! looked up one by one.

use std::{fmt, net::SocketAddr, sync::Arc};

use foldhash::{HashMap, HashMapExt};

use crate::{
    coordinator::{GroupShape, PoolShape, Shares, TenantShape},
    cost::Rates,
    id::{EndpointId, GroupId, GroupIx, ModelId, PoolIx, TenantId, TenantIx},
    limit::Limits,
    network::NetworkGrant,
    price::Prices,
    unit::{LimitMs, UnixMs},
};

/// Endpoints that one model may have. The data plane keeps a bit for each while a request looks for one.
pub const MAX_ENDPOINTS: usize = 32;

/// Everything but the keys. Owned by whoever pins it; freed by the sidecar that built it.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Grows by one with every published change.
    pub generation: u64,
    models: Vec<Arc<Model>>,
    by_name: HashMap<Box<str>, Arc<Model>>,
    tenants: HashMap<TenantId, Tenant>,
    shares: Arc<Shares>,
}

impl Snapshot {
    /// Puts the rows together. An alias never hides a model's own name; of two equal aliases the older
    /// model's holds (the store refuses both when they are written).
    #[must_use]
    pub fn new(generation: u64, models: Vec<Model>, tenants: Vec<Tenant>, division: Division) -> Self {
        let shares = Arc::new(Shares {
            ceiling: division.ceiling,
            pools: models.iter().map(Model::shape).collect(),
            groups: division.groups,
            tenants: tenants.iter().map(Tenant::shape).collect(),
        });
        let models: Vec<Arc<Model>> = models.into_iter().map(Arc::new).collect();
        let mut by_name = HashMap::with_capacity(models.len());
        for model in &models {
            by_name.entry(model.name.clone()).or_insert_with(|| Arc::clone(model));
        }
        for model in &models {
            for alias in &model.aliases {
                by_name.entry(alias.clone()).or_insert_with(|| Arc::clone(model));
            }
        }
        let tenants = tenants.into_iter().map(|t| (t.id, t)).collect();
        Self { generation, models, by_name, tenants, shares }
    }

    /// The enabled model that answers to `name`, be it its own name or an alias.
    #[must_use]
    pub fn model(&self, name: &str) -> Option<&Arc<Model>> {
        self.by_name.get(name).filter(|model| model.enabled)
    }

    /// Every model, in the order in which the registry lists them.
    #[must_use]
    pub fn models(&self) -> &[Arc<Model>] {
        &self.models
    }

    /// How slots are divided under this configuration.
    #[must_use]
    pub fn shares(&self) -> &Arc<Shares> {
        &self.shares
    }

    /// A tenant that exists.
    #[must_use]
    pub fn tenant(&self, id: TenantId) -> Option<&Tenant> {
        self.tenants.get(&id)
    }
}

/// What models and tenants do not say about the division of slots.
#[derive(Clone, Debug, Default)]
pub struct Division {
    /// Requests in flight, over all pools.
    pub ceiling: u32,
    /// The groups that tenants may be in.
    pub groups: Vec<GroupShape>,
}

/// A model of the registry.
#[derive(Clone, Debug)]
pub struct Model {
    /// Stable identity.
    pub id: ModelId,
    /// Its pool of slots; one per model.
    pub pool: PoolIx,
    /// What clients ask for.
    pub name: Box<str>,
    /// Further names for the same model and the same pool.
    pub aliases: Vec<Box<str>>,
    /// A disabled model does not exist for clients.
    pub enabled: bool,
    /// What the backend calls it, where that differs from `name`.
    pub upstream_model: Option<Box<str>>,
    /// Slots: requests in flight at the same time.
    pub max_in_flight: u32,
    /// When it was registered; what `GET /v1/models` shows as `created`.
    pub created: UnixMs,
    /// Context length in tokens, as the operator stated it.
    pub max_model_len: Option<u32>,
    /// Where it runs, most preferred first: the enabled ones, at most [`MAX_ENDPOINTS`].
    pub endpoints: Vec<Endpoint>,
    /// How long each phase of an exchange may take.
    pub timers: Timers,
    /// What its tokens weigh for the fair share.
    pub rates: Rates,
    /// Its backends order what waits by `priority` (vLLM's `--scheduling-policy priority`): requests get one.
    pub sends_priority: bool,
    /// Its backends count tokens while they stream (vLLM's `continuous_usage_stats`): they are asked to.
    pub continuous_usage: bool,
    /// What its use costs.
    pub prices: Prices,
}

impl Model {
    fn shape(&self) -> PoolShape {
        PoolShape { pool: self.pool, max_in_flight: self.max_in_flight }
    }
}

/// One backend of a model.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Stable identity; what connections are pooled by.
    pub id: EndpointId,
    /// Changes with every edit of address or credential, so that a connection made before is not reused.
    pub revision: u64,
    /// Host that the backend's certificate must be for, a name or an address, where it is spoken to under TLS.
    pub tls: Option<Box<str>>,
    /// `host:port` as it goes into the `Host` header.
    pub authority: Box<str>,
    /// Path in front of `/chat/completions`, without a final slash: `/v1` as a rule.
    pub base_path: Box<str>,
    /// Resolved addresses, in the order in which they are tried. Empty while the name does not resolve.
    pub addresses: Arc<[SocketAddr]>,
    /// The backend's own credential, sent as a bearer token.
    pub credential: Option<Secret>,
}

/// Time limits of one exchange with a backend. Zero turns one off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timers {
    /// Until the connection stands.
    pub connect: LimitMs,
    /// From the request's last byte to the answer's first.
    pub first_byte: LimitMs,
    /// Between two reads of the answer.
    pub idle: LimitMs,
    /// From dispatch to the answer's last byte.
    pub total: LimitMs,
}

/// The party that requests are accounted to.
#[derive(Clone, Debug)]
pub struct Tenant {
    /// Stable identity.
    pub id: TenantId,
    /// Place in per-core tables.
    pub ix: TenantIx,
    /// For people.
    pub name: Box<str>,
    /// Whether its keys work.
    pub status: TenantStatus,
    /// Share against its siblings in the group; 1 or more.
    pub weight: u32,
    /// The group it belongs to.
    pub group: GroupIx,
    /// Its stable identity.
    pub group_id: GroupId,
    /// Requests that it may have in flight, over all models; `None` is no limit.
    pub max_in_flight: Option<u32>,
    /// What happens when its requests would wait long.
    pub brownout: Brownout,
    /// Models that any key of this tenant may use at most.
    pub grant: ModelGrant,
    /// From where any key of this tenant may be used at most.
    pub networks: NetworkGrant,
    /// What its keys may use together.
    pub limits: Limits,
    /// What its group's tenants may use together.
    pub group_limits: Limits,
}

impl Tenant {
    fn shape(&self) -> TenantShape {
        let Self { ix: tenant, group, weight, max_in_flight, .. } = *self;
        TenantShape { tenant, group, weight, max_in_flight }
    }
}

/// What happens to a tenant's request that would wait past the brownout limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Brownout {
    /// It waits, and gets a shorter answer.
    Allow,
    /// It waits.
    #[default]
    Never,
    /// It is refused.
    Reject,
}

impl Brownout {
    /// As operators write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Never => "never",
            Self::Reject => "reject",
        }
    }

    /// The policy of this name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        [Self::Allow, Self::Never, Self::Reject].into_iter().find(|policy| policy.as_str() == name)
    }
}

/// Whether a tenant's keys work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TenantStatus {
    /// They do.
    Active,
    /// Not for now.
    Suspended,
    /// Not any more; kept for its history.
    Archived,
}

/// Which models may be used: all of them, or those on a list (an empty list allows none).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ModelGrant {
    /// Every model, also future ones.
    #[default]
    All,
    /// Only these, by name or alias.
    Only(Arc<[Box<str>]>),
}

impl ModelGrant {
    /// Whether `model` is granted under its own name or one of its aliases: they are one model.
    #[must_use]
    pub fn allows(&self, model: &Model) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.iter().any(|n| *n == model.name || model.aliases.contains(n)),
        }
    }
}

/// Text that must not be seen. It has no `Display`, and its `Debug` tells only that there is one.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl Secret {
    /// Takes the text in.
    #[must_use]
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    /// Hands the text out, for the one place that sends it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn model(name: &str, aliases: &[&str], enabled: bool) -> Model {
        Model {
            id: ModelId(Uuid::nil()),
            pool: PoolIx(0),
            name: name.into(),
            aliases: aliases.iter().map(|a| (*a).into()).collect(),
            enabled,
            upstream_model: None,
            max_in_flight: 1,
            created: UnixMs(0),
            max_model_len: None,
            endpoints: Vec::new(),
            timers: Timers::default(),
            rates: Rates::default(),
            sends_priority: false,
            continuous_usage: false,
            prices: Prices::default(),
        }
    }

    fn snapshot(models: Vec<Model>) -> Snapshot {
        Snapshot::new(1, models, Vec::new(), Division::default())
    }

    #[test]
    fn an_alias_finds_its_model_and_never_hides_another_ones_name() {
        let snapshot = snapshot(vec![model("a", &["x", "b"], true), model("b", &["x"], true)]);
        let name = |asked| snapshot.model(asked).map(|m| &*m.name);
        assert_eq!(name("x"), Some("a"));
        assert_eq!(name("b"), Some("b"));
        assert_eq!(name("c"), None);
    }

    #[test]
    fn a_disabled_model_does_not_exist_for_clients() {
        let snapshot = snapshot(vec![model("a", &["x"], false)]);
        assert!(snapshot.model("a").is_none());
        assert!(snapshot.model("x").is_none());
        assert_eq!(snapshot.models().len(), 1);
    }

    #[test]
    fn an_empty_list_grants_nothing_and_an_alias_grants_the_model() {
        let m = model("a", &["x"], true);
        let only = |names: &[&str]| ModelGrant::Only(names.iter().map(|n| Box::from(*n)).collect());
        assert!(ModelGrant::All.allows(&m));
        assert!(!only(&[]).allows(&m));
        assert!(only(&["x"]).allows(&m));
        assert!(!only(&["other"]).allows(&m));
    }

    #[test]
    fn a_secret_does_not_show_in_debug_output() {
        assert_eq!(format!("{:?}", Secret::new("sk-upstream")), "Secret(…)");
    }
}
