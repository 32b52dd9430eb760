//! The usage log: one record per request that a key of ours made, kept so that neither the death of the process nor
//! that of the machine's power loses one.
//!
//! ```text
//! shard ── note() ──> slate          a ring in a file mapped shared, one per shard: outlives the process
//!                       │ copied by the log thread, at once and then every 50 ms
//!                       v
//!                     segments       files that are written from their beginning to their end and synced: outlive the power
//!                       │ read()
//!                       v
//!                     the sink       takes records in batches and remembers the place that it has reached
//! ```
//!
//! A request that goes to a backend has two notes, both whole records: a *start* when it goes ("what its row would be if
//! nothing more were heard of it") and an *end* before its last byte leaves. One that is refused has an end only. Both notes
//! of a request go to the same slate. The sink gets the ends; [`open`] makes one of every start that has none.
//!
//! # What is promised
//!
//! | when | what |
//! |---|---|
//! | the process dies, at any moment, also in recovery | nothing that [`Slate::note`] took is lost, and nothing is there twice |
//! | the power goes | what [`Tail::durable`] covers is there; the rest, 50 ms or so, may be lost, but never doubled |
//! | a byte is damaged | one note at most is lost, and with it the row of a request that began and ended in one round of the log thread; what follows is read; it is counted |
//! | the disk is full, read-only, or slow | slates hold what they can; after that notes are lost and counted; it is tried again every second |
//! | the disk is full at a start | a log that was set up before opens, with what its slates hold and the room that they still have |
//! | the log is full | new notes are dropped and counted; what has begun may still end, in a reserve; released segments make room |
//!
//! Two things are said loudly in the process's log, and only when they change: that the disk refuses, and that the log is
//! full.
//!
//! One thing is not held off: while a file system is frozen (`fsfreeze`, some snapshots), every page of a slate that is stored
//! into for the first time since it was written back waits for the thaw, and the shard with it.
//!
//! # Why a ring that is copied
//!
//! Notes could be written into the segment itself, mapped. But a store into a mapped page waits while the file is synced
//! (448 bytes, 10,000 times a second, with a sync every 50 ms: p99 9–12 µs, at most 0.26–1.4 ms). A ring that nobody syncs
//! takes the same notes in 40 ns (p99 3.4–4.9 µs, at most 0.18 ms), and it needs no room on the disk that grows.
//!
//! # The folder
//!
//! | file | what |
//! |---|---|
//! | `log.meta` | three lines: `obleth usage log, format 1`, `node NAME`, `log UUID`; a folder of another format is refused, and one of another node if that was said; else the name is taken from here |
//! | `00000000000000000001.log` … | segments, by number; each start of the process begins one with a number above all before it, and above the sink's checkpoint |
//! | `spare.log` | room for the next segment, if the disk had any; empty |
//! | `stream-0000.slate` … | slates, by shard; every start goes on with those that are there |
//!
//! The folder itself is locked (`flock`) while a process has it open. Numbers are little-endian, ids are 16 bytes as they
//! are written, everything is aligned to 8 bytes, and what is reserved is zero.
//!
//! # The frame
//!
//! Slates and segments consist of frames. One of a note takes 512 bytes at most, of any kind 64 KiB.
//!
//! | bytes | what |
//! |---|---|
//! | 0–3 | CRC-32 (IEEE) of everything behind it, begun with the CRC-32 of the log's id, so that no other log's frame fits |
//! | 4–5 | length in words of 8 bytes, these 24 included |
//! | 6 | kind: 1 start, 2 end, 3 reached; others, of later versions, are passed over |
//! | 7 | `0xA7` |
//! | 8–11 | stream: the shard's number; `0xFFFF_FFFF` for frames that the log made itself |
//! | 12–15 | reserved |
//! | 16–23 | position: how many bytes its stream had before it, ever; 0 for the log's own |
//! | 24– | the record; for kind 3, pairs of stream and position of 8 bytes each |
//!
//! A stream's positions go on from one start of the process to the next. In a slate of *n* bytes a frame stands at its
//! position modulo *n*, going around if it has to; its first word is written last. So a slate needs no header: what of it is
//! missing in the log are the whole frames of its stream from the position on that the log has reached. New notes go behind the
//! last one of them; all others, of whatever lap, are before that, and so are never taken for news.
//!
//! # The record
//!
//! | bytes | what |
//! |---|---|
//! | 0–7 | time, milliseconds since 1970, signed |
//! | 8–23, 24–39, 40–55 | its own id; tenant; key |
//! | 56–71, 72–87, 88–103 | group; model; endpoint of the backend (zeros if there is none) |
//! | 104–111, 112–119, 120–127 | tokens: input, cached input, output |
//! | 128–135, 136–139 | cost in millionths of a dollar; version of the prices |
//! | 140–143, 144–147, 148–151 | milliseconds: queue, first content, whole |
//! | 152–155 | the gateway's own microseconds |
//! | 156–157 | status |
//! | 158–159 | bits, from the lowest: there is a group, model, backend, first content, own time, cost, price version; it was streamed; there is a session |
//! | 160 | endpoint: 1 chat, 2 completions, 3 embeddings, 4 models, 5 health, 6 other |
//! | 161 | outcome: 1 ok, 2 rejected, 3 client gone, 4 upstream error, 5 upstream cut, 6 timeout, 7 gateway lost |
//! | 162 | admission: 1 fast, 2 queued, 3 degraded, 4 rejected |
//! | 163 | tokens said by: 0 nobody, 1 upstream, 2 counted, 3 estimated |
//! | 164 | retries |
//! | 165, 166, 167 | length of the three texts |
//! | 168– | code, request id and session id, UTF-8, one after the other; then zeros up to a multiple of 8 |
//!
//! # The segment
//!
//! | bytes | what |
//! |---|---|
//! | 0–7 | `oblethWL` |
//! | 8–11 | format, 1 |
//! | 12–15 | CRC-32 of these 48 bytes, with zeros here |
//! | 16–23 | its number |
//! | 24–39 | the log's id |
//! | 40–47 | end notes that the log had before it, ever |
//! | 48– | frames |
//!
//! The first frame says how far every stream is; then come copies of the starts that are still without an end, so that older
//! segments may go; then the first frame once more, so that no damaged sector takes both. What follows are notes as they
//! came from the slates, but for starts whose ends came with them: the slate has both until the end is durable, and the end
//! says that its stream is past the start.
//!
//! A segment is preallocated, and cut to its length when the next one begins. It is begun as `spare.log` and gets its name
//! when its beginning is durable; where it cannot be begun, the last one gets longer. A damaged header costs nothing: the
//! file's name and `log.meta` say the same.
//!
//! # Recovery
//!
//! [`open`] reads the newest segment whose beginning is whole, and what follows it, if anything: that says how far the streams
//! are and what is open, whatever older segments say. It cuts them behind their last frames, and reads every slate from where
//! they say it was. Of older segments the headers say how many records wait there. A new segment begins with what the segments had: positions, and starts without an end. What was
//! missing goes behind that, in one write with one sync; then, in one more, an end for every start without one. If a write is
//! cut short, what there is of it counts like any other frame, and the next start adds the rest. Slates are made anew, or
//! removed, only after that, and only where there is none, its size has changed, or its shard is gone.
//!
//! If the disk refuses any of it, the log opens all the same, and the log thread does it once it can.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

// What tests inside and outside of the crate share knows it by this name.
#[cfg(test)]
extern crate self as obleth_ledger;

mod desk;
mod drained;
mod encoding;
mod folder;
mod found;
mod frame;
mod mapping;
mod position;
mod record;
mod recovery;
mod segment;
mod slate;
mod tail;
mod writer;

#[cfg(test)]
mod tests;

pub use folder::{FORMAT, OpenError};
pub use position::{NoPosition, Position};
pub use record::{Admission, Kind, MAX_TEXT, Record, Text, Tokens, UsageSource};
pub use recovery::{Checkpoint, Opened, Options, Recovered, open};
pub use slate::Slate;
pub use tail::{Batch, Figures, Noted, Tail};
pub use writer::{LogWriter, Stop};
