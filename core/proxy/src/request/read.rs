//! Gate 5: the body comes in, whole and within its limits, and what is left of it goes out of the way.
//!
//! Not a byte of a body is asked for before the credential has been accepted. The body ends up in one piece
//! behind the head, in the connection's own buffer, chunked or not.

use std::{ops::Range, rc::Rc, time::Duration};

use obleth_link::{BufferBudget, Phase};
use obleth_policy::outcome::{Code, Reject};
use obleth_wire::http1::{Framing, HeaderKind, Piece};

use super::{After, Stop, parse::Call};
use crate::{
    downstream::{Downstream, Woke},
    shard::Shard,
};

/// The slowest upload that is waited for, in bytes per second. A slower one holds memory for nothing.
const SLOWEST: u64 = 16 * 1024;
/// Room for a large body is taken in steps of this, as it arrives: announcing a body costs nobody else anything.
const ROOM_STEP: u64 = 256 * 1024;
/// A rest of a body that is still taken in, so that the connection can be used again.
const SMALL_REST: u64 = 64 * 1024;
/// How long taking in a rest, or discarding one, may take.
const REST_TIME: Duration = Duration::from_secs(2);
/// A rest of a body that is discarded, so that the client reads the refusal instead of a reset.
const DISCARD_LIMIT: usize = 16 * 1024 * 1024;

/// A body in the inlet, with the room it takes up.
#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) at: Range<usize>,
    _room: Room,
}

/// Room for a large body; given back on drop.
#[derive(Debug)]
struct Room {
    shard: Rc<Shard>,
    bytes: u64,
}

impl Room {
    /// Makes sure that `total` bytes are covered.
    fn cover(&mut self, total: u64) -> Result<(), Code> {
        if total <= BufferBudget::FREE || total <= self.bytes {
            return Ok(());
        }
        let bytes = total.next_multiple_of(ROOM_STEP);
        let more = bytes.saturating_sub(self.bytes);
        if !self.shard.end.buffered.reserve(more) {
            return Err(Code::Overloaded);
        }
        self.shard.end.gauges().buffered_bytes.add(more);
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.shard.end.buffered.release(self.bytes);
            self.shard.end.gauges().buffered_bytes.sub(self.bytes);
        }
    }
}

pub(super) async fn read(shard: &Rc<Shard>, down: &Downstream, call: &mut Call) -> Result<Body, Stop> {
    let limit = shard.settings.max_request_bytes;
    let coded = call
        .head
        .get(&down.inlet(), HeaderKind::ContentEncoding)
        .is_some_and(|coding| !coding.eq_ignore_ascii_case(b"identity"));
    if coded {
        return Err(Code::UnsupportedEncoding.into());
    }
    let mut room = Room { shard: Rc::clone(shard), bytes: 0 };
    if let Framing::Length(length) = call.head.framing {
        if length > limit {
            return Err(too_large(limit));
        }
        down.expect_large(call.used.saturating_add(usize::try_from(length).unwrap_or(usize::MAX)));
    }
    if std::mem::take(&mut call.body_withheld) && down.inlet().len() <= call.used {
        down.send(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec())
            .await
            .map_err(|_| Stop::ClientGone(Phase::Upload))?;
    }
    let start = call.used;
    let pause = shard.settings.client.body_pause;
    let begun = down.now();
    loop {
        let step = down.edit_inlet(|buf| take_in(buf, call))?;
        let length = u64::try_from(call.used.saturating_sub(start)).unwrap_or(u64::MAX);
        if length > limit {
            return Err(too_large(limit));
        }
        room.cover(length)?;
        if step == Step::Whole {
            return Ok(Body { at: start..call.used, _room: room });
        }
        let now = down.now();
        let earned = Duration::from_secs(length.checked_div(SLOWEST).unwrap_or(0));
        down.alarm.set(now.plus(pause).min(begun.plus(pause.saturating_add(earned))));
        let have = down.inlet().len();
        let woke = down.more_than(have).await;
        down.alarm.clear();
        match woke {
            Woke::Done(()) => {}
            Woke::Gone => return Err(Stop::ClientGone(Phase::Upload)),
            Woke::Alarm => return Err(Code::RequestTimeout.into()),
            Woke::Expired => return Err(Code::Draining.into()),
        }
    }
}

fn too_large(limit: u64) -> Stop {
    Reject::new(
        Code::RequestTooLarge,
        format!("The body is larger than this gateway accepts ({limit} bytes)."),
    )
    .into()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Whole,
    More,
}

/// Decodes what has arrived behind `call.used`, in place: payload moves up to it, framing disappears.
fn take_in(buf: &mut Vec<u8>, call: &mut Call) -> Result<Step, Reject> {
    let mut raw = call.used;
    let step = loop {
        let input = buf.get(raw..).unwrap_or_default();
        let decoded = call.decoder.decode(input).map_err(|error| {
            Reject::new(Code::BadRequest, format!("The request is not valid HTTP/1.1: {error}."))
        })?;
        let from = raw;
        raw = raw.saturating_add(decoded.consumed);
        match decoded.piece {
            Piece::Data(range) => {
                let (start, end) = (from.saturating_add(range.start), from.saturating_add(range.end));
                if start != call.used {
                    buf.copy_within(start..end, call.used);
                }
                call.used = call.used.saturating_add(range.len());
            }
            Piece::More => break Step::More,
            Piece::End => break Step::Whole,
        }
    };
    if raw != call.used {
        buf.drain(call.used..raw.min(buf.len()));
    }
    Ok(step)
}

/// Whether the rest of the body is small enough, or may be, to be taken in for the connection's sake.
pub(super) fn rest_is_small(call: &Call) -> bool {
    !call.body_withheld && call.decoder.remaining().is_none_or(|rest| rest <= SMALL_REST)
}

/// After an answer: takes in what is left of the body, so that the next request can follow.
pub(super) async fn finish(down: &Downstream, call: &mut Call) -> After {
    let start = call.used;
    let mut waits = false;
    let limit = usize::try_from(SMALL_REST).unwrap_or(usize::MAX);
    let whole = loop {
        match down.edit_inlet(|buf| take_in(buf, call)) {
            Ok(Step::Whole) => break true,
            Ok(Step::More) if call.used.saturating_sub(start) <= limit => {}
            _ => break false,
        }
        if !std::mem::replace(&mut waits, true) {
            down.alarm.set_in(Some(REST_TIME));
        }
        let have = down.inlet().len();
        if !matches!(down.more_than(have).await, Woke::Done(())) {
            break false;
        }
    };
    down.alarm.clear();
    if !whole {
        linger(down).await;
        return After::Close;
    }
    down.finish_request(call.used);
    After::KeepAlive
}

/// Ends a connection on which the client may still be sending: our answer arrives, then the rest is thrown
/// away, and only then the socket closes. Without this the client's kernel discards the answer.
pub(super) async fn linger(down: &Downstream) {
    down.shut_write();
    down.alarm.set_in(Some(REST_TIME));
    down.discard(DISCARD_LIMIT).await;
    down.alarm.clear();
}
