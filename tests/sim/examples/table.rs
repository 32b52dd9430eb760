//! Prints the fairness figures: obleth beside its rivals, on the same work.
//!
//! `cargo run --release -p obleth-sim --example table`

#![allow(clippy::print_stdout)]

use obleth_sim::table::{LOADS, row};

fn main() {
    println!(
        "worst tenant's error per 10-s window in percent, median / p95; weights 1:2:3:4; 6 seeds, 60 windows"
    );
    for slots in [16, 64] {
        for load in LOADS {
            println!("{}", row(load, slots, (6, 10)));
        }
    }
}
