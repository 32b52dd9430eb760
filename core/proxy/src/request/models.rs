//! `GET /v1/models` and `GET /v1/models/{id}`: the registry, as far as the key may use it.

use std::rc::Rc;

use obleth_policy::{outcome::Code, snapshot::Model};
use obleth_wire::{http1::percent_decode, json};

use super::{Last, Stop, answer, authenticate, fund::Rates, lookup, parse::Call, settle::Tally};
use crate::{downstream::Downstream, shard::Shard};

pub(super) async fn answer(
    shard: &Rc<Shard>,
    down: &Downstream,
    call: &Call,
    tally: &mut Tally,
) -> Result<Last, Stop> {
    let claimed = authenticate::authenticate(shard, down, call)?;
    let known = lookup::lookup(shard, down, call, tally, claimed).await?;
    tally.rates = Rates::of(shard, &known);
    let granted = |model: &Model| {
        let tenant = known.snapshot.tenant(known.key.tenant);
        known.key.grant.allows(model) && tenant.is_some_and(|tenant| tenant.grant.allows(model))
    };
    let mut body = Vec::with_capacity(256);
    match call.model_id {
        Some(id) => {
            let name = percent_decode(id.of(&down.inlet())).map(|name| name.into_owned());
            let name = name.and_then(|name| String::from_utf8(name).ok()).ok_or(Code::ModelNotFound)?;
            let model = known.snapshot.model(&name).ok_or(Code::ModelNotFound)?;
            if !granted(model) {
                return Err(Code::ModelNotAllowed.into());
            }
            item(&mut body, &name, model);
        }
        None => {
            body.extend_from_slice(br#"{"object":"list","data":["#);
            let usable = known.snapshot.models().iter().filter(|model| model.enabled && granted(model));
            let mut first = true;
            for model in usable {
                for name in std::iter::once(&model.name).chain(&model.aliases) {
                    if !std::mem::take(&mut first) {
                        body.push(b',');
                    }
                    item(&mut body, name, model);
                }
            }
            body.extend_from_slice(b"]}");
        }
    }
    Ok(answer::json(call, tally, &body, 200, answer::after(shard, call)))
}

fn item(out: &mut Vec<u8>, name: &str, model: &Model) {
    let mut number = itoa::Buffer::new();
    out.extend_from_slice(br#"{"id":"#);
    json::write_string(out, name);
    out.extend_from_slice(br#","object":"model","created":"#);
    out.extend_from_slice(number.format(model.created.0.div_euclid(1000)).as_bytes());
    out.extend_from_slice(br#","owned_by":"obleth","max_model_len":"#);
    match model.max_model_len {
        Some(len) => out.extend_from_slice(number.format(len).as_bytes()),
        None => out.extend_from_slice(b"null"),
    }
    out.push(b'}');
}
