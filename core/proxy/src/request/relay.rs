//! The way back of an answer that is not a stream of events: JSON, as a rule.
//!
//! Bytes pass as they come. A small answer that nobody expects to be a stream is held until it is whole, so that it
//! leaves in one write, and so that a backend that breaks off in the middle still becomes an honest status. Usage is
//! read on the side.

use std::rc::Rc;

use obleth_link::Phase;
use obleth_policy::outcome::Code;
use obleth_wire::{
    http1::{Framing, write},
    usage::JsonUsage,
};

use super::{
    Last, Stop, answer,
    dispatch::Answering,
    exchange::{Filled, Interrupt},
    parse::Call,
    settle::Tally,
};
use crate::{downstream::Downstream, shard::Shard, trouble::Cause};

/// Room for a head of ours, so that it does not grow line by line.
const ANSWER_HEAD: usize = 512;
/// An answer up to this size leaves in one piece; a larger one is passed on as it comes.
const HOLD: usize = 64 * 1024;

pub(super) async fn relay(
    shard: &Rc<Shard>,
    down: &Downstream,
    call: &Call,
    tally: &mut Tally,
    answering: Answering<'_>,
) -> Result<Last, Stop> {
    let Answering { permit, mut answer, deadlines, streamed, .. } = answering;
    let after = answer::after(shard, call);
    let mut usage = JsonUsage::new();
    let mut held = Vec::new();
    let mut out = Vec::new();
    let mut head_sent = false;
    let mut last = 0;
    let known_length = match answer.head.framing {
        Framing::Length(length) => Some(length),
        Framing::None => Some(0),
        Framing::Chunked | Framing::UntilClose => None,
    };
    let hold = if streamed && known_length.is_none() { 0 } else { HOLD };
    if let Some(whole) = answer.take_whole() {
        usage.push_whole(&whole);
        tally.account.passed(whole.len());
        held = whole;
    }
    loop {
        let ended = answer.decode(|data| {
            usage.push(data);
            tally.account.passed(data.len());
            held.extend_from_slice(data);
        });
        let ended = match ended {
            Ok(ended) => ended,
            Err(_) => {
                tally.blame(Cause::BadBody);
                return Err(broken(head_sent, Code::UpstreamCut));
            }
        };
        // However the framing ends it, JSON that stops in its middle was broken off.
        if ended && usage.is_unfinished() {
            tally.blame(Cause::Cut);
            return Err(broken(head_sent, Code::UpstreamCut));
        }
        if ended || held.len() > hold || (head_sent && !held.is_empty()) {
            if !head_sent {
                out = shard.buffers.take(held.len().saturating_add(ANSWER_HEAD));
                answer::relayed(&mut out, call, tally, &answer.head, &answer.head_bytes);
                let length = known_length.or(ended.then(|| u64::try_from(held.len()).unwrap_or(u64::MAX)));
                match length {
                    // RFC 9110 §8.6: a 204 has no length.
                    Some(_) if answer.head.status == 204 => {}
                    Some(length) => write::header_u64(&mut out, "content-length", length),
                    None => drop(write::header(&mut out, "transfer-encoding", b"chunked")),
                }
                answer::end(&mut out, after);
            }
            let chunked = known_length.is_none() && (head_sent || !ended);
            match chunked {
                true => write::chunk(&mut out, &held),
                false => out.extend_from_slice(&held),
            }
            if chunked && ended {
                out.extend_from_slice(write::LAST_CHUNK);
            }
            held.clear();
            head_sent = true;
            tally.first_byte(down.now());
            let used = usage.finish();
            tally.used(used, None);
            permit.used(used, 0);
            if !ended {
                out = match down.send(out).await {
                    Ok(emptied) => emptied,
                    Err(_) => return Err(Stop::ClientGone(Phase::Answer)),
                };
            }
        }
        if ended {
            shard.buffers.give(held);
            if answer.has_surplus() {
                tally.blame(Cause::Surplus);
            }
            answer.done_with_upstream(shard);
            return Ok(Last { bytes: out, after });
        }
        if let Err(late) = deadlines.arm(down, deadlines.timers.idle) {
            late.blame(tally);
            return Err(broken(head_sent, late.code()));
        }
        match answer.upstream.fill(down, last).await {
            Ok((Filled::Bytes, got)) => last = got,
            Ok((Filled::Closed, _)) => {
                // A body that runs until the close has ended; the decoder cannot know, so its framing is ended here.
                if answer.end_at_close().is_err() {
                    tally.blame(Cause::Cut);
                    return Err(broken(head_sent, Code::UpstreamCut));
                }
            }
            Err(Interrupt::ClientGone) => return Err(Stop::ClientGone(Phase::Answer)),
            Err(interrupt) => {
                interrupt.blame(tally);
                return Err(broken(head_sent, interrupt.code()));
            }
        }
    }
}

/// A failure is a status as long as nothing has been sent.
fn broken(head_sent: bool, code: Code) -> Stop {
    if head_sent { Stop::Cut(code, Vec::new()) } else { code.into() }
}
