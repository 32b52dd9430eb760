//! The objects of the admin API, member by member: what answers show and what bodies may say.
//!
//! The OpenAPI document and the page for people are written from these. Answers are compared with them in
//! tests, and bodies too, so a member that is not here, or is here and nowhere else, does not get through.

use std::ops::RangeInclusive;

use super::{
    IN_FLIGHT, RATES, WEIGHTS,
    backend::PRIORITIES,
    keys::GRACE_SECS,
    models::{FRACTIONS, LIMITS_MS, MODEL_LEN, TOKEN_WEIGHTS},
    prices::PRICES,
};

/// An object.
#[derive(Debug)]
pub(super) struct Shape {
    /// What it is called in the document.
    pub(super) name: &'static str,
    /// Has all members of these, too.
    pub(super) parts: &'static [&'static Shape],
    /// Its own, in their order.
    pub(super) members: &'static [Member],
}

impl Shape {
    /// All members, those of the parts first.
    pub(super) fn members(&self) -> impl Iterator<Item = &'static Member> + use<> {
        self.parts.iter().flat_map(|part| part.members).chain(self.members)
    }
}

/// One member of an object.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) nullable: bool,
    /// For people; empty where the name says it all.
    pub(super) about: &'static str,
}

/// What a member's value is.
#[derive(Debug)]
pub(super) enum Kind {
    Id,
    Time,
    Text,
    Flag,
    Number(RangeInclusive<i64>),
    /// Not only whole ones.
    Decimal(RangeInclusive<u32>),
    /// Not only whole ones, and without a bound.
    Amount,
    OneOf(&'static [&'static str]),
    Texts,
    Object(&'static Shape),
    Objects(&'static Shape),
}

pub(super) const fn member(name: &'static str, kind: Kind, about: &'static str) -> Member {
    Member { name, kind, nullable: false, about }
}

pub(super) const fn maybe(name: &'static str, kind: Kind, about: &'static str) -> Member {
    Member { name, kind, nullable: true, about }
}

pub(super) const COUNT: RangeInclusive<i64> = 0..=(1 << 53) - 1;
const VERSIONS: RangeInclusive<i64> = 0..=u32::MAX as i64;
const STATUSES: &[&str] = &["active", "suspended", "archived"];
const BROWNOUTS: &[&str] = &["allow", "never", "reject"];
const ABOUT_BROWNOUT: &str =
    "what happens to requests that would wait long: a shorter answer, nothing, a refusal; null = the default";
const PERIOD_NAMES: &[&str] = &["daily", "monthly", "lifetime"];
const ABOUT_ZONE: &str = "IANA name of the zone whose days and months budgets go by; default `UTC`";
const ABOUT_RATE: &str = "null = unlimited, 0 = none";
const ABOUT_MODELS: &str = "names or aliases; null = all, [] = none";
const ABOUT_IPS: &str = "addresses and ranges; null = everywhere, [] = nowhere";

pub(super) const HEALTH: Shape = Shape {
    name: "Health",
    parts: &[],
    members: &[
        member("status", Kind::OneOf(&["ok", "degraded"]), ""),
        member("store", Kind::Text, "`ok`, or the class of its fault"),
        member("redis", Kind::Text, "`disabled` where it is not configured"),
        member("postgres", Kind::Text, "`disabled` where it is not configured"),
    ],
};

pub(super) const STATS: Shape = Shape {
    name: "Stats",
    parts: &[],
    members: &[
        member("in_flight", Kind::Number(COUNT), "requests at a backend now"),
        member("queued", Kind::Number(COUNT), ""),
        member("max_in_flight", Kind::Number(COUNT), "the process-wide ceiling"),
        member("pools", Kind::Objects(&POOL), "one per model"),
    ],
};

const POOL: Shape = Shape {
    name: "Pool",
    parts: &[],
    members: &[
        member("model", Kind::Text, ""),
        member("in_flight", Kind::Number(COUNT), ""),
        member("queued", Kind::Number(COUNT), ""),
        member("max_in_flight", Kind::Number(COUNT), ""),
    ],
};

/// What all levels of the tree show.
const FIGURES: Shape = Shape {
    name: "Figures",
    parts: &[],
    members: &[
        member("weight", Kind::Number(WEIGHTS), ""),
        member("in_flight", Kind::Number(COUNT), ""),
        member("queued", Kind::Number(COUNT), ""),
        maybe("oldest_wait_ms", Kind::Number(COUNT), "null = nobody waits"),
        member("served_tokens", Kind::Amount, "weighted, since the coordinator started"),
        maybe("share", Kind::Amount, "of what the pool served in the last 10 s; null = nothing"),
        maybe(
            "entitlement",
            Kind::Amount,
            "of the pool, by weight among those with requests; null = it has none",
        ),
    ],
};

pub(super) const LIVE_POOL: Shape = Shape {
    name: "LivePool",
    parts: &[&POOL],
    members: &[
        member("pool", Kind::Id, "its model's id"),
        member("kept", Kind::Number(COUNT), "slots that a core keeps for its next request"),
        member("contended", Kind::Flag, "somebody has waited a moment ago"),
        member("groups", Kind::Objects(&LIVE_GROUP), "those that had requests"),
    ],
};

const LIVE_GROUP: Shape = Shape {
    name: "LiveGroup",
    parts: &[&FIGURES],
    members: &[member("name", Kind::Text, ""), member("tenants", Kind::Objects(&LIVE_TENANT), "")],
};

const LIVE_TENANT: Shape = Shape {
    name: "LiveTenant",
    parts: &[&FIGURES],
    members: &[
        member("id", Kind::Id, ""),
        member("name", Kind::Text, ""),
        maybe("max_in_flight", Kind::Number(IN_FLIGHT), "over all pools; null = unlimited"),
        member("keys", Kind::Objects(&LIVE_KEY), ""),
    ],
};

const LIVE_KEY: Shape = Shape {
    name: "LiveKey",
    parts: &[&FIGURES],
    members: &[member("id", Kind::Id, ""), maybe("name", Kind::Text, "null while the store does not answer")],
};

pub(super) const HISTORY: Shape = Shape {
    name: "FairshareHistory",
    parts: &[],
    members: &[
        member("every_ms", Kind::Number(COUNT), "time between two samples under traffic"),
        member("samples", Kind::Objects(&SAMPLE), ""),
    ],
};

const SAMPLE: Shape = Shape {
    name: "Sample",
    parts: &[],
    members: &[
        member("at", Kind::Time, ""),
        member("covers_ms", Kind::Number(COUNT), "time since the sample before"),
        member("pools", Kind::Objects(&POOL_SAMPLE), "those with anything in flight, queued or served"),
    ],
};

const POOL_SAMPLE: Shape = Shape {
    name: "PoolSample",
    parts: &[&SAMPLE_FIGURES],
    members: &[
        member("model", Kind::Text, ""),
        member("pool", Kind::Id, "its model's id"),
        member("tenants", Kind::Objects(&TENANT_SAMPLE), "those with most, up to 200 in all pools together"),
    ],
};

const SAMPLE_FIGURES: Shape = Shape {
    name: "SampleFigures",
    parts: &[],
    members: &[
        member("in_flight", Kind::Number(COUNT), ""),
        member("queued", Kind::Number(COUNT), ""),
        member("served_tokens", Kind::Amount, "weighted, in the time that the sample covers"),
    ],
};

const TENANT_SAMPLE: Shape = Shape {
    name: "TenantSample",
    parts: &[&SAMPLE_FIGURES],
    members: &[member("id", Kind::Id, ""), member("name", Kind::Text, "")],
};

pub(super) const VERSION: Shape = Shape {
    name: "Version",
    parts: &[],
    members: &[member("version", Kind::Text, ""), member("commit", Kind::Text, "")],
};

pub(super) const GROUP: Shape = Shape {
    name: "Group",
    parts: &[],
    members: &[
        member("id", Kind::Id, ""),
        member("name", Kind::Text, ""),
        member("weight", Kind::Number(WEIGHTS), "share against the other groups"),
        member("time_zone", Kind::Text, ABOUT_ZONE),
        member("budgets", Kind::Objects(&BUDGET), "of all its tenants together"),
        member("created_at", Kind::Time, ""),
    ],
};

pub(super) const GROUP_EDIT: Shape = Shape {
    name: "GroupEdit",
    parts: &[],
    members: &[
        member("name", Kind::Text, "unique"),
        member("weight", Kind::Number(WEIGHTS), "default 100"),
        member("time_zone", Kind::Text, ABOUT_ZONE),
    ],
};

/// A budget, as it is shown and as it is set.
pub(super) const BUDGET: Shape = Shape {
    name: "Budget",
    parts: &[],
    members: &[
        PERIOD,
        maybe("limit_tokens", Kind::Number(RATES), ABOUT_RATE),
        maybe("limit_micro_usd", Kind::Number(RATES), ABOUT_RATE),
    ],
};

/// What a budget is for.
pub(super) const PERIOD: Member = member("period", Kind::OneOf(PERIOD_NAMES), "");

pub(super) const TENANT: Shape = Shape { name: "Tenant", parts: &[&MADE, &TENANT_EDIT], members: &[BUDGETS] };

const BUDGETS: Member = member("budgets", Kind::Objects(&BUDGET), "at most one per period");

/// What the store adds to whatever is created.
const MADE: Shape = Shape {
    name: "Made",
    parts: &[],
    members: &[member("id", Kind::Id, ""), member("created_at", Kind::Time, "")],
};

pub(super) const TENANT_EDIT: Shape = Shape {
    name: "TenantEdit",
    parts: &[],
    members: &[
        member("name", Kind::Text, "unique among tenants that were not deleted"),
        member("weight", Kind::Number(WEIGHTS), "share against its siblings in the group; default 100"),
        member("group_name", Kind::Text, "default `default`"),
        member("status", Kind::OneOf(STATUSES), "keys work only while it is `active`"),
        maybe("tokens_per_minute", Kind::Number(RATES), ABOUT_RATE),
        maybe("requests_per_minute", Kind::Number(RATES), ABOUT_RATE),
        maybe("max_in_flight", Kind::Number(IN_FLIGHT), ABOUT_RATE),
        maybe("allowed_models", Kind::Texts, ABOUT_MODELS),
        maybe("allowed_ips", Kind::Texts, ABOUT_IPS),
        maybe("brownout", Kind::OneOf(BROWNOUTS), ABOUT_BROWNOUT),
        member("time_zone", Kind::Text, ABOUT_ZONE),
    ],
};

pub(super) const KEY: Shape = Shape { name: "Key", parts: &[&MADE, &KEY_MADE, &KEY_EDIT], members: &[] };

pub(super) const KEY_WITH_SECRET: Shape = Shape {
    name: "KeyWithSecret",
    parts: KEY.parts,
    members: &[member("secret", Kind::Text, "shown this once")],
};

const KEY_MADE: Shape = Shape {
    name: "KeyMade",
    parts: &[],
    members: &[
        member("tenant_id", Kind::Id, ""),
        member("key_prefix", Kind::Text, "first seven characters of the newest secret; not unique"),
        BUDGETS,
        maybe("previous_secret_ends_at", Kind::Time, "until when a secret that was rotated away still works"),
    ],
};

pub(super) const KEY_EDIT: Shape = Shape {
    name: "KeyEdit",
    parts: &[],
    members: &[
        member("name", Kind::Text, "unique within the tenant"),
        member("disabled", Kind::Flag, "default false"),
        maybe("expires_at", Kind::Time, "null = never"),
        maybe("allowed_models", Kind::Texts, ABOUT_MODELS),
        maybe("allowed_ips", Kind::Texts, ABOUT_IPS),
        member("weight", Kind::Number(WEIGHTS), "share against the tenant's other keys; default 100"),
        maybe("tokens_per_minute", Kind::Number(RATES), ABOUT_RATE),
        maybe("requests_per_minute", Kind::Number(RATES), ABOUT_RATE),
        maybe("max_in_flight", Kind::Number(IN_FLIGHT), ABOUT_RATE),
    ],
};

/// The parameter that leaves one tenant's keys.
pub(super) const OWNER_ID: Member = member("tenant_id", Kind::Id, "");

pub(super) const NEW_KEY: Shape =
    Shape { name: "NewKey", parts: &[&KEY_EDIT], members: &[member("tenant_id", Kind::Id, "its owner")] };

pub(super) const ROTATION: Shape = Shape {
    name: "Rotation",
    parts: &[],
    members: &[member(
        "grace_secs",
        Kind::Number(GRACE_SECS),
        "how long the old secret goes on working; 0 ends it and all earlier ones at once; default 3600",
    )],
};

pub(super) const MODEL: Shape = Shape {
    name: "Model",
    parts: &[&MADE],
    members: &[
        member("model_name", Kind::Text, "what clients ask for"),
        member("aliases", Kind::Texts, "further names of the same model"),
        member("enabled", Kind::Flag, ""),
        maybe("upstream_model", Kind::Text, "what the backend calls it; null = the same"),
        maybe("max_in_flight", Kind::Number(IN_FLIGHT), "slots; null = the default"),
        maybe("max_model_len", Kind::Number(MODEL_LEN), "context length in tokens"),
        member("endpoints", Kind::Objects(&ENDPOINT), "where it runs; [] = the default upstream"),
        member("timeouts", Kind::Object(&TIMEOUTS), ""),
        maybe("input_weight", Kind::Decimal(TOKEN_WEIGHTS), "of one input token; null = 1"),
        maybe("output_weight", Kind::Decimal(TOKEN_WEIGHTS), "of one output token; null = 2"),
        maybe("cached_input_weight", Kind::Decimal(FRACTIONS), ABOUT_CACHED),
        member("sends_priority", Kind::Flag, ABOUT_PRIORITY),
        member("continuous_usage", Kind::Flag, ABOUT_CONTINUOUS),
        member("prices", Kind::Object(&MODEL_PRICES), "in effect for requests that start now"),
    ],
};

const MODEL_PRICES: Shape =
    Shape { name: "Prices", parts: &[&PRICE_VERSION_NUMBER, &PRICES_EDIT], members: &[] };

/// One version of a model's prices.
pub(super) const PRICE_VERSION: Shape =
    Shape { name: "PriceVersion", parts: &[&MADE, &PRICE_VERSION_NUMBER, &PRICES_EDIT], members: &[] };

const PRICE_VERSION_NUMBER: Shape = Shape {
    name: "PriceVersionNumber",
    parts: &[],
    members: &[member(
        "version",
        Kind::Number(VERSIONS),
        "what rows of the ledger name; grows by 1 with every change; 0 = there never were prices",
    )],
};

const PRICES_EDIT: Shape = Shape {
    name: "PricesEdit",
    parts: &[],
    members: &[
        maybe(
            "input_micro_usd",
            Kind::Number(PRICES),
            "per million input tokens; null = no price, for all parts",
        ),
        maybe(
            "cached_input_micro_usd",
            Kind::Number(PRICES),
            "per million cached input tokens; null = as input",
        ),
        maybe("output_micro_usd", Kind::Number(PRICES), "per million output tokens"),
        maybe("image_micro_usd", Kind::Number(PRICES), "per image"),
        maybe("second_micro_usd", Kind::Number(PRICES), "per second of sound"),
        maybe("character_micro_usd", Kind::Number(PRICES), "per million characters"),
    ],
};

const ABOUT_CACHED: &str = "what a cached input token counts of an uncached one; null = 0.1";
const ABOUT_CONTINUOUS: &str =
    "its backends are asked for `continuous_usage_stats`, so that answers that break off are counted exactly";
const ABOUT_PRIORITY: &str = "its backends order what waits by `priority`: requests get one";

const ENDPOINT: Shape = Shape {
    name: "Endpoint",
    parts: &[],
    members: &[
        member("name", Kind::Text, "unique within the model"),
        member("api_base", Kind::Text, ""),
        member("has_api_key", Kind::Flag, "a credential is stored"),
        member(
            "priority",
            Kind::Number(PRIORITIES),
            "the lowest is preferred; of equal ones the first listed",
        ),
        member("enabled", Kind::Flag, "one that is not gets no requests"),
    ],
};

const TIMEOUTS: Shape = Shape {
    name: "Timeouts",
    parts: &[],
    members: &[
        maybe("connect_ms", Kind::Number(LIMITS_MS), "null = the default, 0 = off; the others likewise"),
        maybe("first_byte_ms", Kind::Number(LIMITS_MS), ""),
        maybe("idle_ms", Kind::Number(LIMITS_MS), ""),
        maybe("total_ms", Kind::Number(LIMITS_MS), ""),
    ],
};

pub(super) const MODEL_EDIT: Shape = Shape {
    name: "ModelEdit",
    parts: &[],
    members: &[
        member("model_name", Kind::Text, "unique among names and aliases"),
        member("aliases", Kind::Texts, ""),
        member("enabled", Kind::Flag, "default true"),
        maybe("upstream_model", Kind::Text, ""),
        maybe("max_in_flight", Kind::Number(IN_FLIGHT), ""),
        maybe("max_model_len", Kind::Number(MODEL_LEN), ""),
        member("api_base", Kind::Text, "short for one endpoint; with or without a final /v1"),
        maybe("api_key", Kind::Text, "its credential; never shown again"),
        member("endpoints", Kind::Objects(&ENDPOINT_EDIT), ""),
        maybe("timeouts", Kind::Object(&TIMEOUTS), ""),
        maybe("input_weight", Kind::Decimal(TOKEN_WEIGHTS), "at most three decimals, as the next two"),
        maybe("output_weight", Kind::Decimal(TOKEN_WEIGHTS), ""),
        maybe("cached_input_weight", Kind::Decimal(FRACTIONS), ABOUT_CACHED),
        member("sends_priority", Kind::Flag, "default false"),
        member("continuous_usage", Kind::Flag, "default false; only for vLLM"),
        maybe("prices", Kind::Object(&PRICES_EDIT), "null = none; a change makes a new version"),
    ],
};

const ENDPOINT_EDIT: Shape = Shape {
    name: "EndpointEdit",
    parts: &[],
    members: &[
        member("name", Kind::Text, "default `default`; unique within the model"),
        member("api_base", Kind::Text, "with or without a final /v1"),
        maybe("api_key", Kind::Text, "never shown again; absent = as it was, null = none"),
        member("priority", Kind::Number(PRIORITIES), "the lowest is preferred; default 0"),
        member("enabled", Kind::Flag, "default true"),
    ],
};

pub(super) const REFUSAL: Shape = Shape {
    name: "Error",
    parts: &[],
    members: &[member(
        "error",
        Kind::Object(&Shape {
            name: "ErrorDetail",
            parts: &[],
            members: &[
                member("message", Kind::Text, "for people"),
                member("type", Kind::Text, ""),
                maybe("param", Kind::Text, "the member or query parameter that is at fault"),
                member("code", Kind::Text, "for programs"),
                member("request_id", Kind::Text, "as in the header x-request-id"),
            ],
        }),
        "",
    )],
};
