//! Every event leaves when it comes: alone, at once, the first with the head, the last with the body's end.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::{
    http::{Request, Response, events},
    process::until,
    world::World,
};

/// Time between the backend's tokens.
const PACE: Duration = Duration::from_millis(20);
/// Tokens of a paced stream.
const TOKENS: usize = 30;

/// The times at which the backend made the tokens that one read brought.
fn stamps(raw: &[u8]) -> Vec<u128> {
    let text = String::from_utf8_lossy(raw);
    let contents = text.split("\"content\":\"").skip(1).filter_map(|rest| rest.split('"').next());
    contents.filter_map(|content| content.trim().parse().ok()).collect()
}

fn paced(world: &World) -> Response {
    let request = world
        .chat(r#","stream":true"#)
        .header("x-sim-stamp", 1)
        .header("x-sim-tps", 1000 / PACE.as_millis())
        .header("x-sim-tokens", TOKENS)
        .header("x-sim-latency-ms", 60);
    world.ask(&request)
}

/// What a stream's timing shows: the most tokens in one read, and how late each token was.
fn timing(answer: &Response) -> (usize, Vec<Duration>) {
    let (now, unix_now) = (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap());
    let mut most = 0;
    let mut late = Vec::new();
    for arrival in &answer.arrivals {
        let made = stamps(&arrival.raw);
        most = most.max(made.len());
        let arrived = unix_now - now.duration_since(arrival.at);
        late.extend(made.iter().map(|stamp| {
            Duration::from_micros(u64::try_from(arrived.as_micros().saturating_sub(*stamp)).unwrap())
        }));
    }
    late.sort_unstable();
    (most, late)
}

#[test]
fn no_two_events_of_a_paced_stream_share_a_read_and_each_is_prompt() {
    assert_prompt(&World::start());
}

/// Checks the way of a paced stream.
#[track_caller]
pub(crate) fn assert_prompt(world: &World) {
    // A busy machine may keep this test from reading in time; a gateway that merges does so every time.
    until("a stream arrives event by event, each within 5 ms", || {
        let answer = paced(world);
        let (most, late) = timing(&answer);
        assert_eq!(late.len(), TOKENS, "{}", answer.text());
        most == 1 && late[TOKENS / 2] < Duration::from_millis(5) && late[TOKENS - 3] < PACE
    });
}

#[test]
fn the_head_leaves_with_the_first_event_and_done_with_the_end_of_the_body() {
    let world = World::start();
    for _ in 0..10 {
        let answer = paced(&world);
        let first = String::from_utf8_lossy(&answer.arrivals[0].raw).into_owned();
        assert!(first.starts_with("HTTP/1.1 200") && first.contains("\r\n\r\n"), "{first}");
        assert!(first.contains("data: {"), "the head came alone: {first}");
        let last = String::from_utf8_lossy(&answer.arrivals.last().unwrap().raw).into_owned();
        assert!(last.contains("data: [DONE]\n\n") && last.ends_with("\r\n0\r\n\r\n"), "{last:?}");
        assert_eq!(events(&answer.body).last().map(String::as_str), Some("[DONE]"));
    }
}

#[test]
fn an_answer_that_is_small_leaves_in_one_write() {
    let world = World::start();
    let mut connection = world.connect();
    for _ in 0..20 {
        let answer = connection.ask(&world.chat(""));
        assert_eq!(answer.arrivals.len(), 1, "head and body in one read");
    }
}

/// So many streams at once, each with an event every 50 ms: how late each event was, sorted, and how many shared
/// their read with another.
fn crowd(to: SocketAddr, request: &Request) -> (Vec<Duration>, usize) {
    const STREAMS: usize = 200;
    let (mut late, mut shared) = (Vec::new(), 0);
    thread::scope(|scope| {
        let streams: Vec<_> = (0..STREAMS).map(|_| scope.spawn(|| request.to(to))).collect();
        for stream in streams {
            let answer = stream.join().unwrap();
            assert!(answer.text().ends_with("data: [DONE]\n\n"), "{}", answer.text());
            shared += answer
                .arrivals
                .iter()
                .map(|arrival| stamps(&arrival.raw).len().saturating_sub(1))
                .sum::<usize>();
            late.extend(timing(&answer).1);
        }
    });
    late.sort_unstable();
    (late, shared)
}

#[test]
fn of_two_hundred_paced_streams_none_is_held_back_for_another() {
    const TOKENS: usize = 60;
    let world = World::start();
    let request = world
        .chat(r#","stream":true"#)
        .header("x-sim-stamp", 1)
        .header("x-sim-tps", 20)
        .header("x-sim-tokens", TOKENS)
        .header("x-sim-latency-ms", 300);
    // A busy machine is late by itself, and so much that only a direct call at about the same time tells.
    until("events are as prompt as those of a direct call", || {
        let (direct, direct_shared) = crowd(world.sim.addr, &request);
        let (through, shared) = crowd(world.gateway.data, &request);
        assert_eq!(through.len(), 200 * TOKENS);
        let at = |late: &[Duration], share: usize| late[late.len() * share / 100];
        println!(
            "p50 {:?}, p99 {:?}, {shared} shared; direct: p50 {:?}, p99 {:?}, {direct_shared} shared",
            at(&through, 50),
            at(&through, 99),
            at(&direct, 50),
            at(&direct, 99)
        );
        let slack = Duration::from_millis(5);
        at(&through, 50) < at(&direct, 50) + slack
            && at(&through, 99) < at(&direct, 99) + slack * 4
            && shared < direct_shared + through.len() / 100
    });
    world.until_idle();
}
