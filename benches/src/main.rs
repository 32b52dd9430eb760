//! One function in a loop: what a decision, an admission, a grant and a usage note cost, beside what else
//! there is.
//!
//! `cargo run --release -p obleth-benches` prints it all. With the name of a bench and a number it repeats that one so
//! often and prints nothing, for callgrind. It must never measure anything but the product's own code and its rivals'.

mod admission;
mod allocations;
mod counter;
mod decision;
mod limits;
mod measure;
mod round_robin;
mod round_trip;
mod skew;
mod table;
mod usage;
mod workload;

use std::process::ExitCode;

use measure::{Bench, Cost};
use round_trip::Sleepers;
use table::{cells, head, nanoseconds, row, say};

const DECISION: &str = "500 ns; 150 ns";
const ADMISSION: &str = "500 ns; 200 ns";
const NOTE: &str = "500 ns; 300 ns";
const LIMIT: &str = "300 ns";

/// What is repeated on one thread, in the order of the table.
#[rustfmt::skip]
const BENCHES: [Bench; 23] = [
    Bench { name: "grant-10", what: "least and grant, 10 tenants queued", limits: DECISION, warm_up: 1_000, make: || decision::grants(10) },
    Bench { name: "grant-1000", what: "least and grant, 1,000 tenants queued", limits: DECISION, warm_up: 5_000, make: || decision::grants(1_000) },
    Bench { name: "grant-10000", what: "least and grant, 10,000 tenants queued", limits: DECISION, warm_up: 30_000, make: || decision::grants(10_000) },
    Bench { name: "turn-10", what: "a whole turn of the tree, 10 tenants queued", limits: DECISION, warm_up: 1_000, make: || decision::tree(10, 1) },
    Bench { name: "turn-1000", what: "a whole turn of the tree, 1,000 tenants queued", limits: DECISION, warm_up: 5_000, make: || decision::tree(1_000, 1) },
    Bench { name: "turn-10000", what: "a whole turn of the tree, 10,000 tenants queued", limits: DECISION, warm_up: 30_000, make: || decision::tree(10_000, 1) },
    Bench { name: "turn-backlog", what: "the same, 8 requests of each", limits: DECISION, warm_up: 30_000, make: || decision::tree(10_000, 8) },
    Bench { name: "coordinator-10", what: "ticket in, grant out, 10 tenants queued", limits: "", warm_up: 1_000, make: || decision::coordinator(10) },
    Bench { name: "coordinator-1000", what: "ticket in, grant out, 1,000 tenants queued", limits: "", warm_up: 5_000, make: || decision::coordinator(1_000) },
    Bench { name: "coordinator-10000", what: "ticket in, grant out, 10,000 tenants queued", limits: "", warm_up: 30_000, make: || decision::coordinator(10_000) },
    Bench { name: "round-robin-10", what: "rival: round robin, 10 tenants queued", limits: "", warm_up: 1_000, make: || round_robin::turns(10) },
    Bench { name: "round-robin-1000", what: "rival: round robin, 1,000 tenants queued", limits: "", warm_up: 5_000, make: || round_robin::turns(1_000) },
    Bench { name: "round-robin-10000", what: "rival: round robin, 10,000 tenants queued", limits: "", warm_up: 30_000, make: || round_robin::turns(10_000) },
    Bench { name: "admission-1", what: "admission from stock, 1 key", limits: ADMISSION, warm_up: 30_000, make: || admission::stocked(1) },
    Bench { name: "admission-1000", what: "admission from stock, 1,000 keys", limits: ADMISSION, warm_up: 30_000, make: || admission::stocked(1_000) },
    Bench { name: "admission-contended", what: "admission by ticket, both sides, 1,000 tenants queued", limits: "", warm_up: 30_000, make: || admission::contended(1_000) },
    Bench { name: "counter", what: "rival: shared counter", limits: "", warm_up: 1_000, make: counter::alone },
    Bench { name: "usage-note", what: "usage note, encoded and on the slate", limits: NOTE, warm_up: 30_000, make: usage::notes },
    Bench { name: "usage-notes", what: "both usage notes of a request", limits: NOTE, warm_up: 30_000, make: usage::requests },
    Bench { name: "usage-logged", what: "the same, and the log thread's turn", limits: "", warm_up: 30_000, make: usage::logged },
    Bench { name: "usage-read", what: "the same, and read from the log", limits: "", warm_up: 30_000, make: usage::read },
    Bench { name: "limits-rates", what: "limits reserved and settled, both rates of a tenant", limits: LIMIT, warm_up: 30_000, make: limits::rates },
    Bench { name: "limits-all", what: "the same, rates of key and tenant and a budget of all three scopes", limits: LIMIT, warm_up: 30_000, make: limits::all_scopes },
];

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [] => print_all(),
        [name, operations] => {
            let bench = BENCHES.iter().find(|bench| bench.name == name);
            let (Some(bench), Ok(operations)) = (bench, operations.parse()) else { return refuse() };
            bench.repeat(operations);
            ExitCode::SUCCESS
        }
        _ => refuse(),
    }
}

fn refuse() -> ExitCode {
    let names: Vec<_> = BENCHES.iter().map(|bench| bench.name).collect();
    say(&format!("usage: obleth-benches [NAME OPERATIONS]\nnames: {}", names.join(" ")));
    ExitCode::FAILURE
}

fn print_all() -> ExitCode {
    costs();
    shares();
    match round_trips() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("no round trips: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn costs() {
    head(&["one operation", "least", "median", "instructions", "allocations", "must; goal"]);
    let print = |what: &str, cost: &Cost, limits: &str| {
        let ends = [vec![what.to_owned()], cells(cost).to_vec(), vec![limits.to_owned()]];
        row(&ends.concat());
    };
    let mut is_counted = true;
    for bench in &BENCHES {
        let cost = bench.measure();
        is_counted &= cost.instructions.is_some();
        print(bench.what, &cost, bench.limits);
    }
    let counter = counter::Counter::new(64);
    let together = [
        ("admission from stock, two threads", measure::on_two_threads(|| admission::stocked(1)), ADMISSION),
        ("rival: shared counter, two threads", measure::on_two_threads(|| |count| counter.run(count)), ""),
    ];
    for (what, cost, limits) in together {
        match cost {
            Some(cost) => print(what, &cost, limits),
            None => say(&format!("{what}: no round without an interruption; try again on a quieter machine")),
        }
    }
    if !is_counted {
        say("\nInstructions need valgrind: `apt-get install valgrind`.");
    }
}

fn shares() {
    head(&["two cores, a tenant that half is due to, its connections on one", "gets"]);
    let print = |what: &str, share: f64| row(&[what.to_owned(), format!("{:.1} %", share * 100.0)]);
    print("coordinator", skew::share_of_the_first(skew::Coordinated::new()));
    print("rival: round robin per core", skew::share_of_the_first(skew::PerCore::new()));
    print("rival: shared counter", skew::share_of_the_first(skew::Counted::new()));
}

fn round_trips() -> std::io::Result<()> {
    head(&["from ticket to grant between two threads", "p50", "p99"]);
    let cases =
        [("both awake", false, false), ("coordinator asleep", false, true), ("both asleep", true, true)];
    for (what, shard, coordinator) in cases {
        let (median, p99) = round_trip::measure(Sleepers { shard, coordinator })?;
        row(&[what.to_owned(), nanoseconds(median as f64), nanoseconds(p99 as f64)]);
    }
    Ok(())
}
