//! Gates 6 to 8: what the body asks for, whether there is such a model, and whether the key may use it.
//!
//! The body is scanned in place and never built up as a tree; what must differ for the backend is noted as
//! edits of single members, so that everything else leaves byte for byte as it came.

use obleth_policy::{
    outcome::{Code, Reject},
    route::Route,
    snapshot::Model,
};
use obleth_wire::{
    openai::{self, BodyFault, Dialect, Edits, OutputLimit, RequestFields, StripUsage},
    splice::Splice,
};

use super::{Stop, lookup::Known, parse::Call, read::Body, settle::Tally};
use crate::downstream::Downstream;

/// A request that may be made, and what it takes. What it says of the configuration it borrows from the request's own
/// pin: a count that all cores write has no place on this path.
#[derive(Debug)]
pub(crate) struct Asked<'p> {
    pub(crate) known: &'p Known,
    pub(crate) model: &'p Model,
    pub(crate) body: Body,
    pub(crate) edits: Splice,
    /// The client waits for a stream.
    pub(crate) streamed: bool,
    /// What the gateway asks the backend for that the client did not ask for.
    pub(crate) strip_usage: StripUsage,
    /// The most tokens that the client lets the answer have, if it says so.
    pub(crate) output_limit: Option<u64>,
    /// It names two limits that differ, and backends do not agree on which holds.
    pub(crate) says_two_limits: bool,
    /// How many answers it asks for.
    pub(crate) choices: u64,
    /// What a budget leaves for each answer, where that is less than the client allows.
    pub(crate) output_cap: Option<u64>,
}

pub(super) fn ask<'p>(
    down: &Downstream,
    call: &Call,
    tally: &mut Tally,
    known: &'p Known,
    body: Body,
) -> Result<Asked<'p>, Stop> {
    let inlet = down.inlet();
    let bytes = inlet.get(body.at.clone()).unwrap_or_default();
    let fields = openai::scan_request(bytes, dialect(call.route)).map_err(blame)?;
    let Known { key, snapshot, .. } = known;
    let model = snapshot.model(&fields.model).ok_or(Code::ModelNotFound)?;
    tally.account.asks(model, fields.stream, bytes.len());
    let tenant_grants = snapshot.tenant(key.tenant).is_some_and(|tenant| tenant.grant.allows(model));
    if !key.grant.allows(model) || !tenant_grants {
        return Err(Code::ModelNotAllowed.into());
    }
    let edits = plan(model, &fields, Terms::default());
    Ok(Asked {
        known,
        output_limit: output_limit(call.route, &fields),
        says_two_limits: says_two_limits(&fields),
        choices: fields.choices,
        output_cap: None,
        streamed: fields.stream,
        strip_usage: strip_usage(model, &fields),
        model,
        body,
        edits,
    })
}

/// On what terms a request was let in.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Terms {
    /// What the backend is to order waiting requests by.
    pub(super) priority: Option<i32>,
    /// The answer is made shorter, to this many tokens.
    pub(super) output_limit: Option<u32>,
}

impl Asked<'_> {
    /// Length of the body as it came.
    pub(super) fn bytes(&self) -> u64 {
        u64::try_from(self.body.at.len()).unwrap_or(u64::MAX)
    }

    /// Plans the body's edits anew, for a request that was let in on other terms than it asked for.
    pub(super) fn agree(&mut self, down: &Downstream, route: Route, terms: Terms) {
        let inlet = down.inlet();
        let bytes = inlet.get(self.body.at.clone()).unwrap_or_default();
        // It was read before and has not changed.
        if let Ok(fields) = openai::scan_request(bytes, dialect(route)) {
            self.edits = plan(self.model, &fields, terms);
        }
    }
}

fn dialect(route: Route) -> Dialect {
    match route {
        Route::Completions => Dialect::Completions,
        Route::Embeddings => Dialect::Embeddings,
        _ => Dialect::Chat,
    }
}

/// The most tokens that the client lets the answer have, if it says so where its endpoint reads it.
fn output_limit(route: Route, fields: &RequestFields<'_>) -> Option<u64> {
    match route {
        Route::Completions => fields.max_tokens.as_ref().and_then(|limit| limit.tokens),
        _ => fields.output_limit(),
    }
}

fn says_two_limits(fields: &RequestFields<'_>) -> bool {
    let tokens = |limit: &Option<OutputLimit>| limit.as_ref().and_then(|limit| limit.tokens);
    match (tokens(&fields.max_tokens), tokens(&fields.max_completion_tokens)) {
        (Some(one), Some(other)) => one != other,
        _ => false,
    }
}

fn plan(model: &Model, fields: &RequestFields<'_>, terms: Terms) -> Splice {
    let upstream_model = model.upstream_model.as_deref().unwrap_or(&model.name);
    let edits = Edits {
        upstream_model: (*upstream_model != *fields.model).then_some(upstream_model),
        ask_for_usage: true,
        ask_for_running: model.continuous_usage,
        strip_priority: true,
        priority: terms.priority,
        output_limit: terms.output_limit,
    };
    openai::plan(fields, &edits)
}

fn strip_usage(model: &Model, fields: &RequestFields<'_>) -> StripUsage {
    match (fields.include_usage, fields.continuous_usage) {
        (false, _) if fields.stream => StripUsage::All,
        (true, false) if model.continuous_usage => StripUsage::Running,
        _ => StripUsage::Nothing,
    }
}

fn blame(fault: BodyFault) -> Reject {
    let message = fault.to_string();
    match fault {
        BodyFault::InvalidJson { .. } => Reject::new(Code::InvalidJson, message),
        BodyFault::MissingModel => Reject::new(Code::MissingModel, message).param("model"),
        BodyFault::InvalidParameter { param, .. } => {
            Reject::new(Code::InvalidParameter, message).param(param)
        }
    }
}
