//! Gate 3, the part that may have to ask, and gate 4: whose key it is, and whether it works.
//!
//! 401 is said only when a store has answered that there is no such key. When none can answer, a key that was
//! seen before goes on working, and an unknown one is told to come back.

use std::{future::poll_fn, net::IpAddr, pin::pin, rc::Rc, task::Poll, time::Duration};

use obleth_link::Phase;
use obleth_policy::{
    id::TenantIx,
    key::{KeyAnswer, KeyRecord, judge},
    network::client_address,
    outcome::Code,
};
use obleth_wire::http1::HeaderKind;

use super::{Stop, authenticate::Claimed, ids::is_fit, parse::Call, settle::Tally};
use crate::{
    downstream::{Downstream, Woke},
    keycache::{Flight, Found},
    shard::{Pinned, Shard},
};

/// How long a request waits for the sidecar to look a key up. Longer, and it is as if no store answered.
const LOOKUP_TIME: Duration = Duration::from_secs(2);

/// The same for a key that is known, but not for sure. Without a store it works all the same, so it need not wait long.
const CONFIRM_TIME: Duration = Duration::from_millis(500);

/// A request of a key that works, under the configuration that it will run with.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) key: Rc<KeyRecord>,
    pub(crate) tenant: TenantIx,
    pub(crate) snapshot: Rc<Pinned>,
}

pub(super) async fn lookup(
    shard: &Rc<Shard>,
    down: &Downstream,
    call: &Call,
    tally: &mut Tally,
    claimed: Claimed,
) -> Result<Known, Stop> {
    let key = match shard.keys.find(claimed.digest, down.now(), &shard.end) {
        Found::Key(key) => key,
        Found::NoSuchKey => return Err(Code::InvalidApiKey.into()),
        Found::CannotAsk => stale(shard, down, &claimed)?,
        Found::Asked(flight) => asked(shard, down, &claimed, &flight).await?,
    };
    let now = shard.timers.clock().recent_unix_ms();
    // A store has said until when it knows this secret; that needs no asking again.
    if key.secret_has_ended(now) {
        return Err(Code::InvalidApiKey.into());
    }
    // Pinned after the wait: the snapshot that knows a new key's tenant was sent before the key's answer.
    let snapshot = shard.pin().ok_or(Code::AuthStoreUnavailable)?;
    let tenant = snapshot.tenant(key.tenant);
    // From here on it is somebody's request, and the ledger has it whatever comes.
    let inlet = down.inlet();
    let session = call.head.get(&inlet, HeaderKind::SessionId).filter(|id| is_fit(id));
    tally.account.belongs(&key, tenant, session);
    drop(inlet);
    judge(&key, tenant, now, || client(shard, down, call))?;
    let tenant = tenant.map(|tenant| tenant.ix).ok_or(Code::TenantNotFound)?;
    Ok(Known { key, tenant, snapshot })
}

/// The key once the sidecar has answered, or what may still be used of it if no store could.
async fn asked(
    shard: &Shard,
    down: &Downstream,
    claimed: &Claimed,
    flight: &Flight,
) -> Result<Rc<KeyRecord>, Stop> {
    tracing::debug!(digest = ?claimed.digest, "key looked up");
    // The body may be on its way meanwhile, and the client may leave.
    down.watch();
    let known = shard.keys.stale(&claimed.digest, down.now()).is_some();
    match wait(down, flight, if known { CONFIRM_TIME } else { LOOKUP_TIME }).await? {
        Some(KeyAnswer::Found(key)) => Ok(Rc::new(KeyRecord::clone(&key))),
        Some(KeyAnswer::Unknown) => Err(Code::InvalidApiKey.into()),
        Some(KeyAnswer::Unconfirmed(..) | KeyAnswer::StoreDown) => stale(shard, down, claimed),
        None => {
            // Whoever comes after this one asks again, instead of waiting for an answer that is lost.
            shard.keys.answered(claimed.digest, KeyAnswer::StoreDown, down.now());
            stale(shard, down, claimed)
        }
    }
}

fn stale(shard: &Shard, down: &Downstream, claimed: &Claimed) -> Result<Rc<KeyRecord>, Stop> {
    Ok(shard.keys.stale(&claimed.digest, down.now()).ok_or(Code::AuthStoreUnavailable)?)
}

/// The client's address, as far as it can be believed.
fn client(shard: &Shard, down: &Downstream, call: &Call) -> Option<IpAddr> {
    let inlet = down.inlet();
    let lines = call.head.headers.iter().filter(|header| header.kind == HeaderKind::ForwardedFor);
    let lines = lines.map(|header| header.value.of(&inlet));
    down.peer().map(|peer| client_address(peer, lines, &shard.settings.trusted_proxies))
}

/// The answer; `None` when it did not come in time.
async fn wait(down: &Downstream, flight: &Flight, patience: Duration) -> Result<Option<KeyAnswer>, Stop> {
    let answered = pin!(poll_fn(|cx| flight.poll(cx.waker()).map_or(Poll::Pending, Poll::Ready)));
    down.alarm.set_in(Some(patience));
    let woke = down.wait(answered).await;
    down.alarm.clear();
    match woke {
        Woke::Done(answer) => Ok(Some(answer)),
        Woke::Gone => Err(Stop::ClientGone(Phase::Upload)),
        Woke::Alarm => Ok(None),
        Woke::Expired => Err(Code::Draining.into()),
    }
}
