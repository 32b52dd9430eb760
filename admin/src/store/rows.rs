//! The store's nouns, typed. Each row is also the JSON that the admin API shows and the audit trail keeps:
//! one struct per noun, with what must not be seen left out of its `Serialize`.

use std::fmt::Display;

use obleth_policy::{
    id::{EndpointId, GroupId, KeyId, ModelId, TenantId},
    key::{KeyDigest, KeyRecord},
    limit::Limits,
    network::{Cidr, NetworkGrant},
    protocol::KeyShape,
    snapshot::{Brownout, ModelGrant, Secret, TenantStatus},
    unit::UnixMs,
};
use serde::{Serialize, Serializer};
use uuid::Uuid;

use super::budgets::{BudgetRow, limits};
use crate::{clock, usage::calendar::Zone};

/// The group that always exists and that new tenants belong to.
pub(crate) const DEFAULT_GROUP: &str = "default";
/// Weight of whatever states none.
pub(crate) const DEFAULT_WEIGHT: u32 = 100;

/// Tenants that share a weight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct GroupRow {
    #[serde(serialize_with = "as_text")]
    pub(crate) id: GroupId,
    pub(crate) name: String,
    /// 1 or more.
    pub(crate) weight: u32,
    /// Whose days and months its budgets go by.
    #[serde(serialize_with = "as_zone")]
    pub(crate) time_zone: Zone,
    pub(crate) budgets: Vec<BudgetRow>,
    #[serde(serialize_with = "as_time")]
    pub(crate) created_at: UnixMs,
}

/// The party that requests are accounted to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct TenantRow {
    #[serde(serialize_with = "as_text")]
    pub(crate) id: TenantId,
    pub(crate) name: String,
    /// 1 or more.
    pub(crate) weight: u32,
    pub(crate) group_name: String,
    #[serde(serialize_with = "as_status")]
    pub(crate) status: TenantStatus,
    /// `null` = unlimited, 0 = none; the next two likewise.
    pub(crate) tokens_per_minute: Option<i64>,
    pub(crate) requests_per_minute: Option<i64>,
    pub(crate) max_in_flight: Option<u32>,
    /// `null` = all, empty = none.
    pub(crate) allowed_models: Option<Vec<String>>,
    /// From where its keys may be used; `null` = everywhere, empty = nowhere.
    #[serde(serialize_with = "as_networks")]
    pub(crate) allowed_ips: Option<Vec<Cidr>>,
    /// What happens to its requests that would wait long; `null` = the default.
    #[serde(serialize_with = "as_brownout")]
    pub(crate) brownout: Option<Brownout>,
    /// Whose days and months its budgets and its keys' go by.
    #[serde(serialize_with = "as_zone")]
    pub(crate) time_zone: Zone,
    pub(crate) budgets: Vec<BudgetRow>,
    #[serde(serialize_with = "as_time")]
    pub(crate) created_at: UnixMs,
}

/// One credential of a tenant. The secret itself is nowhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct KeyRow {
    #[serde(serialize_with = "as_text")]
    pub(crate) id: KeyId,
    #[serde(serialize_with = "as_text")]
    pub(crate) tenant_id: TenantId,
    pub(crate) name: String,
    /// First seven characters of the newest secret, for display; not unique.
    pub(crate) key_prefix: String,
    pub(crate) disabled: bool,
    #[serde(serialize_with = "as_maybe_time")]
    pub(crate) expires_at: Option<UnixMs>,
    /// `null` = all, empty = none.
    pub(crate) allowed_models: Option<Vec<String>>,
    /// From where it may be used; `null` = everywhere, empty = nowhere.
    #[serde(serialize_with = "as_networks")]
    pub(crate) allowed_ips: Option<Vec<Cidr>>,
    /// 1 or more.
    pub(crate) weight: u32,
    /// `null` = unlimited, 0 = none; the next two likewise.
    pub(crate) tokens_per_minute: Option<i64>,
    pub(crate) requests_per_minute: Option<i64>,
    pub(crate) max_in_flight: Option<u32>,
    pub(crate) budgets: Vec<BudgetRow>,
    /// Until when a secret that was rotated away still works; `null` = only the newest does.
    #[serde(serialize_with = "as_maybe_time")]
    pub(crate) previous_secret_ends_at: Option<UnixMs>,
    #[serde(serialize_with = "as_time")]
    pub(crate) created_at: UnixMs,
    /// Of the newest secret.
    #[serde(skip)]
    pub(crate) digest: KeyDigest,
    #[serde(skip)]
    pub(crate) deleted: bool,
}

/// A secret that was rotated away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OldSecret {
    pub(crate) digest: KeyDigest,
    /// First moment at which it is unknown.
    pub(crate) ends_at: UnixMs,
}

/// A key that was written, and all secrets whose holders must see it: what shards remember goes by digest.
#[derive(Clone, Debug)]
pub(crate) struct KeyChange {
    pub(crate) row: KeyRow,
    /// Those that still work, and those that this change ended.
    pub(crate) old: Vec<OldSecret>,
}

/// A model of the registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ModelRow {
    #[serde(serialize_with = "as_text")]
    pub(crate) id: ModelId,
    pub(crate) model_name: String,
    pub(crate) aliases: Vec<String>,
    pub(crate) enabled: bool,
    /// What the backend calls it; `null` = the same.
    pub(crate) upstream_model: Option<String>,
    /// Slots; `null` = the default.
    pub(crate) max_in_flight: Option<u32>,
    /// Context length in tokens, as the operator stated it.
    pub(crate) max_model_len: Option<u32>,
    /// Most preferred first; empty = the default upstream.
    pub(crate) endpoints: Vec<EndpointRow>,
    pub(crate) timeouts: Timeouts,
    #[serde(flatten)]
    pub(crate) weights: TokenWeights,
    /// Its backends order what waits by `priority`.
    pub(crate) sends_priority: bool,
    /// Its backends count tokens while they stream.
    pub(crate) continuous_usage: bool,
    /// Those in effect.
    pub(crate) prices: PricesRow,
    #[serde(serialize_with = "as_time")]
    pub(crate) created_at: UnixMs,
}

/// What a model's tokens weigh for the fair share; `null` = the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct TokenWeights {
    #[serde(rename = "input_weight", serialize_with = "as_thousandths")]
    pub(crate) input_milli: Option<u32>,
    #[serde(rename = "output_weight", serialize_with = "as_thousandths")]
    pub(crate) output_milli: Option<u32>,
    /// A cached input token, as a fraction of an uncached one.
    #[serde(rename = "cached_input_weight", serialize_with = "as_thousandths")]
    pub(crate) cached_milli: Option<u32>,
}

/// What a model's use costs, in micro-USD; `null` = no price.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct PricesRow {
    /// 1 for the first list; 0 = there never was one.
    pub(crate) version: u32,
    /// Per million tokens; the next two likewise.
    #[serde(rename = "input_micro_usd")]
    pub(crate) input: Option<i64>,
    #[serde(rename = "cached_input_micro_usd")]
    pub(crate) cached_input: Option<i64>,
    #[serde(rename = "output_micro_usd")]
    pub(crate) output: Option<i64>,
    #[serde(rename = "image_micro_usd")]
    pub(crate) image: Option<i64>,
    #[serde(rename = "second_micro_usd")]
    pub(crate) second: Option<i64>,
    /// Per million characters.
    #[serde(rename = "character_micro_usd")]
    pub(crate) character: Option<i64>,
}

/// One version of a model's prices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct PriceVersionRow {
    #[serde(serialize_with = "as_text")]
    pub(crate) id: Uuid,
    #[serde(flatten)]
    pub(crate) prices: PricesRow,
    /// Since when it was in effect.
    #[serde(serialize_with = "as_time")]
    pub(crate) created_at: UnixMs,
}

/// Time limits of a model in milliseconds; `null` = the default, 0 = off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Timeouts {
    pub(crate) connect_ms: Option<u32>,
    pub(crate) first_byte_ms: Option<u32>,
    pub(crate) idle_ms: Option<u32>,
    pub(crate) total_ms: Option<u32>,
}

/// One backend of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct EndpointRow {
    #[serde(skip)]
    pub(crate) id: EndpointId,
    /// Unique within the model.
    pub(crate) name: String,
    /// As it was typed.
    pub(crate) api_base: String,
    #[serde(rename = "has_api_key", serialize_with = "as_presence")]
    pub(crate) credential: Credential,
    /// The lowest number is preferred; of equal ones the first on the list.
    pub(crate) priority: u32,
    /// One that is not gets no requests.
    pub(crate) enabled: bool,
    /// Grows with every change of address or credential.
    #[serde(skip)]
    pub(crate) revision: u64,
}

/// What an endpoint authenticates itself with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Credential {
    /// Nothing.
    None,
    /// This, as a bearer token.
    Known(Secret),
    /// Something is stored, but it does not decrypt: the endpoint must not be used without it.
    Unreadable,
}

/// One line of the audit trail, before it gets an id and a time.
#[derive(Clone, Debug)]
pub(crate) struct Act {
    /// Who did it.
    pub(crate) actor: String,
    /// What, as `tenant.create`.
    pub(crate) action: &'static str,
}

/// Part of a list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Page {
    /// At most this many rows.
    pub(crate) limit: u32,
    /// Only rows older than this one.
    pub(crate) after: Option<Uuid>,
}

/// Everything that a snapshot is built from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Registry {
    /// Counts reads of the store: of two registries the higher one is newer.
    pub(crate) sequence: u64,
    pub(crate) groups: Vec<GroupRow>,
    pub(crate) tenants: Vec<TenantRow>,
    /// Oldest first.
    pub(crate) models: Vec<ModelRow>,
}

impl GroupRow {
    /// A group with every attribute at its default. The store gives it its id and time.
    pub(crate) fn draft(name: String) -> Self {
        Self {
            id: GroupId(Uuid::nil()),
            name,
            weight: DEFAULT_WEIGHT,
            time_zone: Zone::UTC,
            budgets: Vec::new(),
            created_at: UnixMs(0),
        }
    }

    /// What its tenants may use together.
    pub(crate) fn limits(&self) -> Limits {
        limits((None, None), &self.budgets)
    }
}

impl TenantRow {
    /// A tenant with every attribute at its default. The store gives it its id and time.
    pub(crate) fn draft(name: String) -> Self {
        Self {
            id: TenantId(Uuid::nil()),
            name,
            weight: DEFAULT_WEIGHT,
            group_name: DEFAULT_GROUP.to_owned(),
            status: TenantStatus::Active,
            tokens_per_minute: None,
            requests_per_minute: None,
            max_in_flight: None,
            allowed_models: None,
            allowed_ips: None,
            brownout: None,
            time_zone: Zone::UTC,
            budgets: Vec::new(),
            created_at: UnixMs(0),
        }
    }

    /// What it may use.
    pub(crate) fn limits(&self) -> Limits {
        limits((self.tokens_per_minute, self.requests_per_minute), &self.budgets)
    }
}

impl KeyRow {
    /// A key with every attribute at its default. The store gives it its id and time.
    pub(crate) fn draft(tenant_id: TenantId, name: String, secret: &str, digest: KeyDigest) -> Self {
        Self {
            id: KeyId(Uuid::nil()),
            tenant_id,
            name,
            key_prefix: key_prefix(secret),
            disabled: false,
            expires_at: None,
            allowed_models: None,
            allowed_ips: None,
            weight: DEFAULT_WEIGHT,
            tokens_per_minute: None,
            requests_per_minute: None,
            max_in_flight: None,
            budgets: Vec::new(),
            previous_secret_ends_at: None,
            created_at: UnixMs(0),
            digest,
            deleted: false,
        }
    }

    /// What the data plane needs to know of it, reached by a secret that ends at `secret_ends_at`, or by the
    /// newest one.
    pub(crate) fn record(&self, secret_ends_at: Option<UnixMs>) -> KeyRecord {
        KeyRecord {
            id: self.id,
            tenant: self.tenant_id,
            disabled: self.disabled,
            deleted: self.deleted,
            expires_at: self.expires_at,
            grant: grant(self.allowed_models.as_deref()),
            networks: network_grant(self.allowed_ips.as_deref()),
            shape: self.shape(),
            limits: self.limits(),
            secret_ends_at,
        }
    }

    /// What it may use.
    pub(crate) fn limits(&self) -> Limits {
        limits((self.tokens_per_minute, self.requests_per_minute), &self.budgets)
    }

    /// What it brings to the division of slots.
    pub(crate) fn shape(&self) -> KeyShape {
        KeyShape { weight: self.weight, max_in_flight: self.max_in_flight }
    }
}

impl ModelRow {
    /// A model with every attribute at its default. The store gives it its id and time.
    pub(crate) fn draft(model_name: String) -> Self {
        Self {
            id: ModelId(Uuid::nil()),
            model_name,
            aliases: Vec::new(),
            enabled: true,
            upstream_model: None,
            max_in_flight: None,
            max_model_len: None,
            endpoints: Vec::new(),
            timeouts: Timeouts::default(),
            weights: TokenWeights::default(),
            sends_priority: false,
            continuous_usage: false,
            prices: PricesRow::default(),
            created_at: UnixMs(0),
        }
    }
}

impl EndpointRow {
    /// An endpoint with every attribute at its default. The store gives it its id.
    pub(crate) fn draft(name: String, api_base: String) -> Self {
        Self {
            id: EndpointId(Uuid::nil()),
            name,
            api_base,
            credential: Credential::None,
            priority: 0,
            enabled: true,
            revision: 1,
        }
    }
}

/// A list of names as the data plane understands it.
pub(crate) fn grant(allowed: Option<&[String]>) -> ModelGrant {
    allowed.map_or(ModelGrant::All, |names| {
        ModelGrant::Only(names.iter().map(|name| Box::from(name.as_str())).collect())
    })
}

/// A list of ranges as the data plane understands it.
pub(crate) fn network_grant(allowed: Option<&[Cidr]>) -> NetworkGrant {
    allowed.map_or(NetworkGrant::All, |ranges| NetworkGrant::Only(ranges.into()))
}

/// What is shown of a secret.
pub(crate) fn key_prefix(secret: &str) -> String {
    secret.chars().take(7).collect()
}

/// A tenant's status as it is stored and shown.
pub(crate) const fn status_text(status: TenantStatus) -> &'static str {
    match status {
        TenantStatus::Active => "active",
        TenantStatus::Suspended => "suspended",
        TenantStatus::Archived => "archived",
    }
}

/// The inverse of [`status_text`].
pub(crate) fn status_from(text: &str) -> Option<TenantStatus> {
    [TenantStatus::Active, TenantStatus::Suspended, TenantStatus::Archived]
        .into_iter()
        .find(|status| status_text(*status) == text)
}

fn as_text<T: Display, S: Serializer>(value: &T, out: S) -> Result<S::Ok, S::Error> {
    out.collect_str(value)
}

fn as_zone<S: Serializer>(zone: &Zone, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_str(zone.name())
}

fn as_time<S: Serializer>(at: &UnixMs, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_str(&clock::text(*at))
}

fn as_maybe_time<S: Serializer>(at: &Option<UnixMs>, out: S) -> Result<S::Ok, S::Error> {
    at.map(clock::text).serialize(out)
}

fn as_networks<S: Serializer>(networks: &Option<Vec<Cidr>>, out: S) -> Result<S::Ok, S::Error> {
    match networks {
        Some(ranges) => out.collect_seq(ranges.iter().map(Cidr::to_string)),
        None => out.serialize_none(),
    }
}

fn as_status<S: Serializer>(status: &TenantStatus, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_str(status_text(*status))
}

fn as_brownout<S: Serializer>(policy: &Option<Brownout>, out: S) -> Result<S::Ok, S::Error> {
    policy.map(Brownout::as_str).serialize(out)
}

fn as_thousandths<S: Serializer>(milli: &Option<u32>, out: S) -> Result<S::Ok, S::Error> {
    milli.map(|milli| f64::from(milli) / 1000.0).serialize(out)
}

fn as_presence<S: Serializer>(credential: &Credential, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_bool(*credential != Credential::None)
}
