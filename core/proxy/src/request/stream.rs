//! The way back of a stream of events.
//!
//! The head waits for the first event and leaves with it; from then on every event leaves at once. Events that
//! one read brought share a write, but none waits for another. `[DONE]` leaves together with the end of the
//! body. A backend that breaks off becomes an error event and a body without an end, so that no client takes
//! the part for the whole.

use std::{pin::pin, rc::Rc, time::Duration};

use obleth_link::Phase;
use obleth_policy::{
    outcome::{Code, Reject},
    unit::Instant,
};
use obleth_wire::{
    http1::{ResponseHead, write},
    openai::StreamFilter,
};

use super::{
    After, Last, Stop, answer,
    dispatch::Answering,
    exchange::{Answer, Filled, Interrupt},
    parse::Call,
    reject,
    settle::Tally,
};
use crate::{
    downstream::{Downstream, Woke},
    shard::Shard,
    trouble::Cause,
};

/// The head leaves alone when no event has come for so long.
const HEAD_HOLD: Duration = Duration::from_secs(10);
/// A comment is sent to the client when nothing else has been for so long, to keep proxies from closing.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(15);
const HEARTBEAT: &[u8] = b": hb\n\n";
/// How long the backend may take to end its body after `[DONE]`, for its connection to be used again.
const DRAIN_PATIENCE: Duration = Duration::from_millis(50);

/// A backend's head, parsed, and the bytes it points into.
type Head<'a> = (&'a ResponseHead, &'a [u8]);

/// The client's side of a stream.
struct Events<'a> {
    down: &'a Downstream,
    call: &'a Call,
    /// What is to be written next; its capacity is kept from write to write.
    out: Vec<u8>,
    head_sent: bool,
    /// What has left ends with an event, so that a comment may follow.
    between_events: bool,
    last_sent: Instant,
}

pub(super) async fn stream(
    shard: &Rc<Shard>,
    down: &Downstream,
    call: &Call,
    tally: &mut Tally,
    answering: Answering<'_>,
) -> Result<Last, Stop> {
    let Answering { permit, mut answer, deadlines, strip_usage, .. } = answering;
    let after = answer::after(shard, call);
    let mut events = Events {
        down,
        call,
        out: Vec::with_capacity(1024),
        head_sent: false,
        between_events: true,
        last_sent: down.now(),
    };
    let mut filter = StreamFilter::new(strip_usage);
    let mut payload = Vec::new();
    loop {
        let decoded = answer.decode(|data| filter.push(data, &mut payload));
        tally.used(filter.usage(), Some(filter.content_events()));
        permit.used(filter.usage(), filter.content_events());
        let ended = match decoded {
            Ok(ended) => ended,
            Err(_) => {
                tally.blame(Cause::BadBody);
                return Err(events.break_off(Code::UpstreamCut));
            }
        };
        events.between_events = !filter.is_mid_event();
        if ended {
            let whole = payload.len();
            filter.finish(&mut payload);
            if !filter.done() && !filter.error_event() {
                // A part of an event is of no use to anybody, and the error event could not follow it.
                payload.truncate(whole);
            }
            tally.used(filter.usage(), Some(filter.content_events()));
            permit.used(filter.usage(), filter.content_events());
        }
        let done = filter.done();
        // Without `[DONE]` the end is none, unless the backend has said itself that it failed.
        let complete = done || (ended && filter.error_event());
        // Comments before the first event wait with the head.
        let due = !payload.is_empty() && (filter.has_event() || events.head_sent);
        if complete || due {
            if filter.has_event() {
                tally.first_byte(down.now());
            }
            events.put(tally, (&answer.head, &answer.head_bytes), after, &payload);
            if complete {
                events.out.extend_from_slice(write::LAST_CHUNK);
            }
            payload.clear();
            if !complete {
                events.flush().await?;
            }
        }
        if complete {
            if answer.has_surplus() {
                tally.blame(Cause::Surplus);
            }
            answer.drain_upstream(shard, DRAIN_PATIENCE);
            if filter.error_event() {
                tally.failed(Code::UpstreamError);
                tally.blame(Cause::ErrorEvent);
            }
            return Ok(Last { bytes: events.out, after });
        }
        if ended {
            tally.blame(Cause::NoDone);
            return Err(events.break_off(Code::UpstreamCut));
        }
        // The prefill of a long prompt comes before the first event, not between two of them.
        let limit = match filter.has_event() {
            true => deadlines.timers.idle,
            false => deadlines.timers.first_byte,
        };
        if let Err(late) = deadlines.arm(down, limit) {
            late.blame(tally);
            return Err(events.break_off(late.code()));
        }
        let deadline = deadlines.end(down.now(), limit);
        match events.more(tally, &mut answer, deadline, after).await? {
            Ok(Filled::Bytes) => {}
            Ok(Filled::Closed) => {
                if answer.end_at_close().is_err() {
                    tally.blame(Cause::Cut);
                    return Err(events.break_off(Code::UpstreamCut));
                }
            }
            Err(interrupt) => {
                interrupt.blame(tally);
                return Err(events.break_off(interrupt.code()));
            }
        }
    }
}

impl Events<'_> {
    /// Adds payload to what is to be written, with the head before it if that has not gone yet.
    fn put(&mut self, tally: &Tally, (head, head_bytes): Head<'_>, after: After, payload: &[u8]) {
        if !std::mem::replace(&mut self.head_sent, true) {
            answer::relayed(&mut self.out, self.call, tally, head, head_bytes);
            write::header(&mut self.out, "transfer-encoding", b"chunked");
            write::header(&mut self.out, "x-accel-buffering", b"no");
            answer::end(&mut self.out, after);
        }
        write::chunk(&mut self.out, payload);
    }

    async fn flush(&mut self) -> Result<(), Stop> {
        let out = std::mem::take(&mut self.out);
        self.out = self.down.send(out).await.map_err(|_| Stop::ClientGone(Phase::Answer))?;
        self.last_sent = self.down.now();
        Ok(())
    }

    /// Waits for more of the answer. While it waits, the head may leave alone, and heartbeats go out; the read
    /// itself is never given up. The outer error is the client's, the inner one the wait's.
    async fn more(
        &mut self,
        tally: &Tally,
        answer: &mut Answer,
        deadline: Option<Instant>,
        after: After,
    ) -> Result<Result<Filled, Interrupt>, Stop> {
        let down = self.down;
        let handle = answer.upstream.handle.clone();
        let room = answer.upstream.room(0);
        let received = std::mem::take(&mut answer.upstream.buf);
        // Only the head of `answer` is needed while its reader is busy.
        let Answer { upstream, head, head_bytes, .. } = answer;
        let mut read = pin!(upstream.line.append(received, room));
        let interrupt = loop {
            let quiet = if self.head_sent { HEARTBEAT_EVERY } else { HEAD_HOLD };
            let tick = self.last_sent.plus(quiet);
            self.down.alarm.set(deadline.map_or(tick, |deadline| deadline.min(tick)));
            match self.down.wait(read.as_mut()).await {
                Woke::Done((got, buf)) => {
                    upstream.buf = buf;
                    upstream.broken = got.is_err();
                    return Ok(Ok(if matches!(got, Ok(1..)) { Filled::Bytes } else { Filled::Closed }));
                }
                Woke::Gone => break Interrupt::ClientGone,
                Woke::Expired => break Interrupt::Expired,
                Woke::Alarm if deadline.is_some_and(|deadline| deadline <= down.now()) => {
                    break Interrupt::Timeout;
                }
                Woke::Alarm => {
                    let comment = if self.head_sent && self.between_events { HEARTBEAT } else { b"" };
                    self.put(tally, (head, head_bytes), after, comment);
                    if self.flush().await.is_err() {
                        break Interrupt::ClientGone;
                    }
                }
            }
        };
        handle.shut_both();
        let _ = read.await;
        match interrupt {
            Interrupt::ClientGone => Err(Stop::ClientGone(Phase::Answer)),
            other => Ok(Err(other)),
        }
    }

    /// The answer cannot be completed: says so in an event if the head has gone, else leaves it to a status.
    fn break_off(&mut self, code: Code) -> Stop {
        if !self.head_sent {
            return code.into();
        }
        let mut event = if self.between_events { b"data: ".to_vec() } else { b"\n\ndata: ".to_vec() };
        event.extend_from_slice(&reject::body(&Reject::from(code), &self.call.request_id));
        event.extend_from_slice(b"\n\n");
        write::chunk(&mut self.out, &event);
        Stop::Cut(code, std::mem::take(&mut self.out))
    }
}
