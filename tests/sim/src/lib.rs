//! Admission on a virtual clock: the coordinator and the cores' sides as they are delivered, with modelled rings,
//! backends, clients, operators and faults around them, and checkers that look after every event.
//!
//! | file | what |
//! |---|---|
//! | [`random`] | numbers that repeat |
//! | [`plan`], `draw` | what a run is made of, by hand or from a seed |
//! | `ring` | the rings between threads: bounded, delaying, outliving their ends |
//! | [`world`] | the run: clock, cores, coordinator, backends |
//! | [`judge`] | what has to hold, after every event |
//! | [`fault`] | what is broken on purpose, to see that a checker sees it |
//! | [`rivals`] | other ways to divide slots, on the same work |
//! | [`figures`], [`table`] | shares per window, how far they are off, and the table of them
//!
//! A development tool: it must never be part of the product, nor need a change in it. It reads no clock and iterates no
//! hash map.

mod draw;
pub mod fault;
pub mod figures;
pub mod judge;
pub mod plan;
pub mod random;
mod ring;
pub mod rivals;

pub mod table;
pub mod world;
