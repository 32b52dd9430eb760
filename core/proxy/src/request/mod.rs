//! The path of a request, one file per stage.
//!
//! [`infer`] reads like a contents page: each stage takes what the stage before it made, so that a request
//! cannot be dispatched without a permit, nor settled twice. A stage that says no returns a [`Stop`]; what
//! the client is told, and how the connection goes on, is decided in one place.
//!
//! | stage | gates of the contract | file |
//! |---|---|---|
//! | parse | 1 head, 2 route | `parse` |
//! | authenticate | 3 credential | `authenticate` |
//! | lookup | 3 store, 4 key and tenant state | `lookup` |
//! | read | 5 size and coding | `read` |
//! | ask | 6 body, 7 model, 8 grant | `ask` |
//! | fund | 10 rate and budget | `fund` |
//! | admit | 12 admission | `admit` |
//! | dispatch | 13 upstream | `dispatch`, `errand`, `exchange`, `verdict` |
//! | stream | the answer's way back | `stream` for events, `relay` for everything else |
//! | settle | figures, and the ledger's note | `settle`, `record` |
//! | reject | every refusal | `reject` |

mod admit;
mod answer;
mod ask;
mod authenticate;
mod dispatch;
mod errand;
mod exchange;
mod fund;
mod ids;
mod lookup;
mod models;
mod parse;
mod read;
mod record;
mod reject;
mod relay;
mod settle;
mod stream;
mod verdict;

use std::rc::Rc;

use obleth_link::Phase;
use obleth_policy::{
    outcome::{Code, Ending, Reject},
    route::Route,
};

pub(crate) use self::ids::RequestIds;
use self::{admit::Admitted, fund::Rates, parse::Call, settle::Tally};
use crate::{downstream::Downstream, shard::Shard, trouble::Cause};

/// Why a request goes no further.
#[derive(Debug)]
enum Stop {
    /// Nothing has been sent yet: the client is told.
    Refused(Reject),
    /// The client left; nobody is told.
    ClientGone(Phase),
    /// The answer had begun and cannot be completed. These are the last words, without the body's end.
    Cut(Code, Vec<u8>),
}

impl From<Code> for Stop {
    fn from(code: Code) -> Self {
        Self::Refused(code.into())
    }
}

impl From<Reject> for Stop {
    fn from(reject: Reject) -> Self {
        Self::Refused(reject)
    }
}

/// What becomes of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// The next request may follow.
    KeepAlive,
    /// Nothing more is said on it.
    Close,
}

/// What is still to be said to a client when its request has been settled: at least the answer's last byte. So what
/// a client has whole is in the ledger, whatever happens to the process.
struct Last {
    bytes: Vec<u8>,
    after: After,
}

impl Last {
    /// Nothing, to a client that has left.
    const NOTHING: Self = Self { bytes: Vec::new(), after: After::Close };

    async fn say(self, down: &Downstream) -> After {
        if !self.bytes.is_empty() {
            match down.send(self.bytes).await {
                Ok(emptied) => down.buffers().give(emptied),
                Err(_) => return After::Close,
            }
        }
        self.after
    }
}

/// Serves one connection: its requests in order, one at a time.
pub(crate) async fn serve(shard: &Rc<Shard>, down: &Downstream) {
    let mut new = true;
    while parse::begins(shard, down, new).await {
        // On the heap, so that a connection without a request is small; made where it stays, because it is large.
        let request = Box::write(Box::new_uninit(), one(shard, down));
        if Box::into_pin(request).await == After::Close {
            return;
        }
        new = false;
    }
}

async fn one(shard: &Rc<Shard>, down: &Downstream) -> After {
    let mut call = match parse::parse(shard, down).await {
        Ok(call) => call,
        Err(parse::NoCall::Closed) => return After::Close,
        Err(parse::NoCall::Refused(reject)) => {
            reject::answer_unparsed(shard, down, &reject).await;
            read::linger(down).await;
            return After::Close;
        }
    };
    let mut tally = Tally::begin(shard, &call);
    let (ending, last) = match serve_call(shard, down, &mut call, &mut tally).await {
        Ok(last) => (tally.completed(), last),
        Err(Stop::Refused(reject)) => {
            tracing::debug!(code = reject.code.as_str(), request_id = %call.request_id, "refused");
            (Ending::refused(&reject), reject::answer(shard, &call, &tally, &reject))
        }
        Err(Stop::ClientGone(phase)) => {
            tally.left(phase);
            (Ending::CLIENT_GONE, Last::NOTHING)
        }
        Err(Stop::Cut(code, bytes)) => {
            tracing::debug!(code = code.as_str(), request_id = %call.request_id, "answer cut");
            (Ending::failed_after_head(code), Last { bytes, after: After::Close })
        }
    };
    settle::settle(tally, ending);
    match last.say(down).await {
        After::KeepAlive => read::finish(down, &mut call).await,
        After::Close => {
            if !call.decoder.is_done() && !down.gone() {
                read::linger(down).await;
            }
            After::Close
        }
    }
}

async fn serve_call(
    shard: &Rc<Shard>,
    down: &Downstream,
    call: &mut Call,
    tally: &mut Tally,
) -> Result<Last, Stop> {
    answer::check_method(call)?;
    match call.route {
        Route::Health => Ok(answer::health(shard, call, tally)),
        Route::Models => models::answer(shard, down, call, tally).await,
        Route::Chat | Route::Completions | Route::Embeddings => infer(shard, down, call, tally).await,
        Route::Unknown => Err(Code::UnknownEndpoint.into()),
    }
}

async fn infer(
    shard: &Rc<Shard>,
    down: &Downstream,
    call: &mut Call,
    tally: &mut Tally,
) -> Result<Last, Stop> {
    let claimed = authenticate::authenticate(shard, down, call)?;
    let known = lookup::lookup(shard, down, call, tally, claimed).await?;
    // Who is refused before it comes to limits is told how they stand, too.
    let rates = || Rates::of(shard, &known);
    let body = read::read(shard, down, call).await.inspect_err(|_| tally.rates = rates())?;
    let asked = ask::ask(down, call, tally, &known, body);
    let mut asked = asked.inspect_err(|_| tally.rates = rates())?;
    fund::fund(shard, down, tally, &mut asked).await?;
    // The slot is free only after the backend's connection is let go: variables go in reverse order.
    let mut permit = admit::admit(shard, down, call, tally, &mut asked).await?;
    let admitted = Admitted { asked: &asked, permit: &mut permit };
    let answering = dispatch::dispatch(shard, down, call, tally, admitted).await?;
    let model = asked.model;
    let endpoint = answering.endpoint();
    if answering.encoded() {
        tally.blame(Cause::Encoded);
    }
    let ended = match answering.streams() {
        true => stream::stream(shard, down, call, tally, answering).await,
        false => relay::relay(shard, down, call, tally, answering).await,
    };
    let now = || shard.timers.clock().now();
    match tally.cause() {
        Some(cause) => shard.trouble.failed_in(model, endpoint, cause, now()),
        None if shard.trouble.is_none() || ended.is_err() => {}
        None => shard.trouble.succeeded(model, endpoint, now()),
    }
    ended
}
