//! Gates 6 to 8: what the body asks for, whether there is such a model, and whether the key may use it.
//!
//! The body is scanned in place and never built up as a tree; what must differ for the backend is noted as
//! edits of single members, so that everything else leaves byte for byte as it came.

use obleth_policy::{
    admission::Ticket,
    outcome::{Code, Reject},
    route::Route,
    snapshot::Model,
};
use obleth_wire::{
    openai::{self, BodyFault, Dialect, Edits},
    splice::Splice,
};

use super::{Stop, lookup::Known, parse::Call, read::Body};
use crate::downstream::Downstream;

/// A request that may be made, and what it takes. What it says of the configuration it borrows from the request's own
/// pin: a count that all cores write has no place on this path.
#[derive(Debug)]
pub(crate) struct Asked<'p> {
    pub(crate) ticket: Ticket,
    pub(crate) model: &'p Model,
    pub(crate) body: Body,
    pub(crate) edits: Splice,
    /// The client waits for a stream.
    pub(crate) streamed: bool,
    /// The gateway asks the backend for usage that the client did not ask for.
    pub(crate) strip_usage: bool,
}

pub(super) fn ask<'p>(
    down: &Downstream,
    call: &Call,
    known: &'p Known,
    body: Body,
) -> Result<Asked<'p>, Stop> {
    let dialect = match call.route {
        Route::Completions => Dialect::Completions,
        Route::Embeddings => Dialect::Embeddings,
        _ => Dialect::Chat,
    };
    let inlet = down.inlet();
    let bytes = inlet.get(body.at.clone()).unwrap_or_default();
    let fields = openai::scan_request(bytes, dialect).map_err(blame)?;
    let Known { key, tenant, snapshot } = known;
    let model = snapshot.model(&fields.model).ok_or(Code::ModelNotFound)?;
    let tenant_grants = snapshot.tenant(key.tenant).is_some_and(|tenant| tenant.grant.allows(model));
    if !key.grant.allows(model) || !tenant_grants {
        return Err(Code::ModelNotAllowed.into());
    }
    let upstream_model = model.upstream_model.as_deref().unwrap_or(&model.name);
    let edits = openai::plan(
        &fields,
        &Edits {
            upstream_model: (*upstream_model != *fields.model).then_some(upstream_model),
            ask_for_usage: true,
            strip_priority: true,
        },
    );
    Ok(Asked {
        ticket: Ticket { pool: model.pool, tenant: *tenant },
        streamed: fields.stream,
        strip_usage: fields.stream && !fields.include_usage,
        model,
        body,
        edits,
    })
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
