//! The objects of `/usage` and the parameters of its questions, member by member.

use obleth_policy::{outcome::Outcome, route::Route};

use crate::api::shapes::{COUNT, Kind, Member, Shape, maybe, member};

/// As [`Outcome::ALL`].
const OUTCOME_WORDS: &[&str] = &words();
const ENDPOINT_WORDS: &[&str] = &labels();
const INTERVAL_WORDS: &[&str] = &["hour", "day", "week", "month"];
const SOURCES: &[&str] = &["upstream", "counted", "estimated"];
const ADMISSIONS: &[&str] = &["fast", "queued", "degraded", "rejected"];

const fn words() -> [&'static str; Outcome::ALL.len()] {
    let mut words = [""; Outcome::ALL.len()];
    let mut at = 0;
    while at < words.len() {
        words[at] = Outcome::ALL[at].as_str();
        at += 1;
    }
    words
}

const fn labels() -> [&'static str; Route::ALL.len()] {
    let mut labels = [""; Route::ALL.len()];
    let mut at = 0;
    while at < labels.len() {
        labels[at] = Route::ALL[at].label();
        at += 1;
    }
    labels
}

const FROM: Member =
    member("from", Kind::Text, "a time (RFC 3339), or a day of the zone; default 30 days before `to`");
const TO: Member = member("to", Kind::Text, "likewise, and not part of the range itself; default now");
const TZ: Member =
    member("tz", Kind::Text, "a zone of the IANA database, such as `Europe/Berlin`; default `UTC`");
const TENANT: Member = member("tenant_id", Kind::Id, "only this tenant's");
const KEY: Member = member("key_id", Kind::Id, "only this key's");
const GROUP: Member = member("group_name", Kind::Text, "only those of tenants in this group");
const MODEL: Member = member("model", Kind::Text, "only for this model; its name, not an alias");
const ENDPOINT: Member = member("endpoint", Kind::OneOf(ENDPOINT_WORDS), "only at this one");
const OUTCOME: Member = member("outcome", Kind::OneOf(OUTCOME_WORDS), "only those that ended like this");
const STATUS: Member = member("status", Kind::Number(0..=599), "only those answered with this");

pub(super) const USAGE_QUERY: &[Member] = &[
    FROM,
    TO,
    TZ,
    member(
        "by",
        Kind::Text,
        "some of `tenant,key,group,model,endpoint,outcome,status` and one of `hour,day,week,month`",
    ),
    TENANT,
    KEY,
    GROUP,
    MODEL,
    ENDPOINT,
    OUTCOME,
    STATUS,
];

pub(super) const SERIES_QUERY: &[Member] = &[
    FROM,
    TO,
    TZ,
    member("interval", Kind::OneOf(INTERVAL_WORDS), "of the zone's calendar; default `day`"),
    member("by", Kind::Text, "some of `tenant,key,group,model,endpoint,outcome,status`"),
    TENANT,
    KEY,
    GROUP,
    MODEL,
    ENDPOINT,
    OUTCOME,
    STATUS,
];

pub(super) const LOGS_QUERY: &[Member] = &[
    FROM,
    TO,
    TZ,
    TENANT,
    KEY,
    GROUP,
    MODEL,
    ENDPOINT,
    OUTCOME,
    STATUS,
    member("limit", Kind::Number(1..=1000), "default 100"),
    member("after", Kind::Text, "as the `Link` header of the page before says"),
];

pub(super) const EXPORT_QUERY: &[Member] =
    &[FROM, TO, TZ, TENANT, KEY, GROUP, MODEL, ENDPOINT, OUTCOME, STATUS];

const fn count(name: &'static str, about: &'static str) -> Member {
    member(name, Kind::Number(COUNT), about)
}

const FIGURES: Shape = Shape {
    name: "UsageFigures",
    parts: &[],
    members: &[
        count("requests", "refused ones included"),
        member("outcomes", Kind::Object(&OUTCOMES), "how many ended how"),
        count("input_tokens", ""),
        count("cached_input_tokens", "of the input tokens"),
        count("output_tokens", ""),
        maybe("cost_micro_usd", Kind::Number(COUNT), "of the requests whose cost is known; null = of none"),
        count("unpriced_requests", "those that used something that has no price"),
        maybe("mean_queue_ms", Kind::Amount, "of the requests that got a slot; null = there were none"),
        maybe("mean_ttft_ms", Kind::Amount, "of the requests that got content; null = there were none"),
    ],
};

const OUTCOMES: Shape = Shape {
    name: "UsageOutcomes",
    parts: &[],
    members: &[
        count("ok", ""),
        count("rejected", ""),
        count("client_gone", ""),
        count("upstream_error", ""),
        count("upstream_cut", ""),
        count("timeout", ""),
        count("gateway_lost", ""),
    ],
};

const ABOUT_COMMON: &str = "null = not asked for, or none; the others likewise";

const COMMON: Shape = Shape {
    name: "UsageCommon",
    parts: &[],
    members: &[
        maybe("tenant_id", Kind::Id, ABOUT_COMMON),
        maybe("tenant_name", Kind::Text, "also of a deleted one, as the key's"),
        maybe("key_id", Kind::Id, ""),
        maybe("key_name", Kind::Text, ""),
        maybe("group_name", Kind::Text, "as it was called then, as the model"),
        maybe("model", Kind::Text, ""),
        maybe("endpoint", Kind::OneOf(ENDPOINT_WORDS), ""),
        maybe("outcome", Kind::OneOf(OUTCOME_WORDS), ""),
        maybe("status", Kind::Number(0..=599), ""),
    ],
};

const RANGE: Shape = Shape {
    name: "UsageRange",
    parts: &[],
    members: &[
        member("from", Kind::Time, "the first moment that counts"),
        member("to", Kind::Time, "the first one after it that does not"),
        member("tz", Kind::Text, ""),
        maybe("as_of", Kind::Time, "the newest record in the ledger; null = there is none"),
        member("totals", Kind::Object(&FIGURES), "the sum of everything shown"),
    ],
};

pub(super) const USAGE: Shape = Shape {
    name: "Usage",
    parts: &[&RANGE],
    members: &[member(
        "groups",
        Kind::Objects(&USAGE_GROUP),
        "those with requests, most first; [] without `by`",
    )],
};

const USAGE_GROUP: Shape = Shape {
    name: "UsageGroup",
    parts: &[&COMMON, &FIGURES],
    members: &[
        maybe("from", Kind::Time, "null = not grouped by time; the next two likewise"),
        maybe("to", Kind::Time, ""),
        maybe("local", Kind::Text, "`from` on the zone's clock"),
    ],
};

pub(super) const SERIES: Shape = Shape {
    name: "UsageSeries",
    parts: &[&RANGE],
    members: &[
        member("interval", Kind::OneOf(INTERVAL_WORDS), ""),
        member("buckets", Kind::Objects(&BUCKET), "from the first to the last, also those without requests"),
    ],
};

const BUCKET: Shape = Shape {
    name: "UsageBucket",
    parts: &[&FIGURES],
    members: &[
        member("from", Kind::Time, ""),
        member("to", Kind::Time, ""),
        member("local", Kind::Text, "`from` on the zone's clock"),
        member("groups", Kind::Objects(&SERIES_GROUP), "those with requests, most first; [] without `by`"),
    ],
};

const SERIES_GROUP: Shape = Shape { name: "UsageSeriesGroup", parts: &[&COMMON, &FIGURES], members: &[] };

pub(super) const LOG: Shape = Shape {
    name: "UsageRecord",
    parts: &[],
    members: &[
        member("id", Kind::Id, ""),
        member("ts", Kind::Time, "when its head had been read"),
        member("request_id", Kind::Text, "as the client knows it; not unique"),
        maybe("session_id", Kind::Text, "the client's `x-session-id`"),
        member("node", Kind::Text, ""),
        member("tenant_id", Kind::Id, ""),
        member("key_id", Kind::Id, ""),
        maybe("group_id", Kind::Id, ""),
        maybe("group_name", Kind::Text, "as it was called then, as the model"),
        maybe("model_id", Kind::Id, "null = no model was known"),
        maybe("model", Kind::Text, ""),
        member("endpoint", Kind::OneOf(ENDPOINT_WORDS), ""),
        maybe("upstream_id", Kind::Id, "the backend that was asked last"),
        member("status", Kind::Number(0..=599), "what the client got; 499 = it had gone"),
        member("outcome", Kind::OneOf(OUTCOME_WORDS), ""),
        maybe("code", Kind::Text, "`error.code`, where something was the matter"),
        member("admission", Kind::OneOf(ADMISSIONS), ""),
        count("queue_ms", ""),
        maybe("ttft_ms", Kind::Number(COUNT), "to the first byte of content"),
        count("total_ms", ""),
        maybe("overhead_us", Kind::Number(COUNT), "the gateway's own time before the backend was asked"),
        count("input_tokens", ""),
        count("cached_input_tokens", "of the input tokens"),
        count("output_tokens", ""),
        maybe("usage_source", Kind::OneOf(SOURCES), "who counted the tokens; null = nothing was used"),
        maybe("cost_micro_usd", Kind::Number(COUNT), "null = nothing was used, or a part of it has no price"),
        maybe("price_version", Kind::Number(COUNT), ""),
        member("streamed", Kind::Flag, ""),
        count("retries", ""),
        maybe("tenant_name", Kind::Text, "also of a deleted one, as the key's"),
        maybe("key_name", Kind::Text, ""),
    ],
};
