//! One shard on a thread, its sidecar played by the test over the real link, a real backend behind it.
//!
//! What only the other end of the link can show: a sidecar that is silent, snapshots that go home, a drain,
//! a shard that sleeps.

use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::rig::{BOTH_DRIVERS, Rig, chat, chat_stream, settings, slate, status};
use obleth_link::{BufferBudget, Command, Event, links};
use obleth_policy::key::KeyDigest;

#[test]
fn a_silent_sidecar_is_503_for_an_unknown_key_and_nothing_for_a_known_one() {
    for epoll in BOTH_DRIVERS {
        let rig = Rig::start(epoll, |settings| settings.key_max_age = Duration::from_millis(1));
        assert_eq!(status(&rig.request(&chat("sk_known", ""))), 200);
        rig.silence();
        // Older than its age allows, and nobody there to confirm it.
        let answer = rig.request(&chat("sk_known", ""));
        assert_eq!(status(&answer), 200, "{answer}");
        let answer = rig.request(&chat("sk_other", ""));
        assert_eq!(status(&answer), 503);
        assert!(
            answer.contains("auth_store_unavailable") && answer.contains("retry-after: 1\r\n"),
            "{answer}"
        );
    }
}

#[test]
fn an_unknown_key_is_looked_up_once_however_often_it_is_tried() {
    let rig = Rig::start(false, |_| ());
    for _ in 0..20 {
        assert_eq!(status(&rig.request(&chat("sk_other", ""))), 401);
    }
    assert_eq!(rig.lookups(), 1);
}

#[test]
fn a_snapshot_goes_home_when_its_last_request_has_ended() {
    for epoll in BOTH_DRIVERS {
        let rig = Rig::start(epoll, |_| ());
        let mut slow = rig.connect();
        slow.write_all(chat("sk_known", "x-sim-fault: stall-before-head\r\n").as_bytes()).unwrap();
        rig.until("the request is in flight", || rig.in_flight() == 1);
        rig.publish(2);
        assert_eq!(status(&rig.request(&chat("sk_known", ""))), 200);
        assert_eq!(rig.retired(), Vec::<u64>::new(), "a request still runs under it");
        drop(slow);
        rig.until("the first snapshot came home", || rig.retired() == [1]);
    }
}

#[test]
fn a_stream_at_full_speed_does_not_starve_the_others() {
    for epoll in BOTH_DRIVERS {
        let rig = Rig::start(epoll, |_| ());
        let mut fast = rig.connect();
        let endless = chat_stream("x-sim-tokens: 2000000\r\n");
        fast.write_all(endless.as_bytes()).unwrap();
        let reader = std::thread::spawn(move || {
            let (mut buf, mut total) = (vec![0; 1 << 20], 0);
            while let Ok(n @ 1..) = fast.read(&mut buf) {
                total += n;
                if total > 20_000_000 {
                    break;
                }
            }
            total
        });
        let mut slowest = Duration::ZERO;
        while !reader.is_finished() {
            let begun = Instant::now();
            assert_eq!(status(&rig.request(&chat("sk_known", ""))), 200);
            slowest = slowest.max(begun.elapsed());
        }
        assert!(reader.join().unwrap() > 20_000_000);
        assert!(slowest < Duration::from_secs(1), "a request waited {slowest:?} beside the stream");
    }
}

#[test]
fn a_drain_lets_a_stream_finish_refuses_what_comes_and_ends_the_shard() {
    for epoll in BOTH_DRIVERS {
        let mut rig = Rig::start(epoll, |settings| settings.drain_timeout = Duration::from_secs(60));
        let mut kept = rig.connect();
        kept.write_all(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        let mut stream = rig.connect();
        let request = chat_stream("x-sim-tokens: 20\r\nx-sim-tps: 40\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        rig.until("the stream is in flight", || rig.in_flight() == 1);
        rig.send(Command::Drain);
        let mut health = String::new();
        kept.read_to_string(&mut health).unwrap(); // ends because the idle connection is closed
        assert!(health.contains(r#"{"status":"ok"}"#));
        let refused = rig.request(&chat("sk_known", ""));
        assert!(status(&refused) == 503 && refused.contains(r#""code":"draining""#), "{refused}");
        assert!(rig.request("GET /health HTTP/1.1\r\nHost: h\r\n\r\n").contains("draining"));
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("data: [DONE]\n\n\r\n0\r\n\r\n"), "{answer}");
        rig.join();
    }
}

#[test]
fn a_drain_that_runs_out_of_time_tells_the_stream_so() {
    for epoll in BOTH_DRIVERS {
        let mut rig = Rig::start(epoll, |settings| settings.drain_timeout = Duration::from_millis(50));
        let mut stream = rig.connect();
        let request = chat_stream("x-sim-fault: stall-after-tokens\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = vec![0; 100_000];
        let first = stream.read(&mut answer).unwrap();
        answer.truncate(first);
        rig.send(Command::Drain);
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.contains(r#""code":"draining""#), "{answer}");
        assert!(!answer.contains("[DONE]") && !answer.ends_with("0\r\n\r\n"), "{answer}");
        rig.join();
    }
}

#[test]
fn a_drain_answers_an_upload_that_it_cannot_wait_for() {
    for epoll in BOTH_DRIVERS {
        let mut rig = Rig::start(epoll, |settings| settings.drain_timeout = Duration::from_millis(50));
        assert_eq!(status(&rig.request(&chat("sk_known", ""))), 200);
        let mut upload = rig.connect();
        let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer sk_known\r\n";
        let announced = format!("{head}Content-Length: 100000\r\nExpect: 100-continue\r\n\r\n");
        upload.write_all(announced.as_bytes()).unwrap();
        let mut go_on = [0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
        upload.read_exact(&mut go_on).unwrap();
        rig.send(Command::Drain);
        let mut answer = String::new();
        upload.read_to_string(&mut answer).unwrap();
        assert!(answer.contains(r#""code":"draining""#), "{answer}");
        rig.join();
    }
}

#[test]
fn a_drain_before_the_first_snapshot_ends_the_shard() {
    for epoll in BOTH_DRIVERS {
        let mut rig = Rig::before_snapshot(epoll, ([127, 0, 0, 1], 1).into(), |_| ());
        rig.send(Command::Drain);
        rig.join();
    }
}

#[test]
fn a_client_that_floods_does_not_stop_the_others() {
    for epoll in BOTH_DRIVERS {
        let rig = Rig::start(epoll, |_| ());
        let health = "GET /health HTTP/1.1\r\nHost: h\r\n\r\n";
        let mut flood = rig.connect();
        let mut answers = flood.try_clone().unwrap();
        let reader = std::thread::spawn(move || {
            let mut sink = vec![0; 1 << 16];
            while let Ok(1..) = answers.read(&mut sink) {}
        });
        let mut slowest = Duration::ZERO;
        let writer = std::thread::spawn(move || {
            let many = health.repeat(1000);
            (0..200).for_each(|_| flood.write_all(many.as_bytes()).unwrap());
            flood.shutdown(std::net::Shutdown::Both).unwrap();
        });
        while !writer.is_finished() {
            let begun = Instant::now();
            assert_eq!(status(&rig.request(health)), 200);
            slowest = slowest.max(begun.elapsed());
        }
        writer.join().unwrap();
        reader.join().unwrap();
        assert!(slowest < Duration::from_secs(1), "a request waited {slowest:?} beside the flood");
    }
}

#[test]
fn an_idle_shard_with_open_connections_uses_no_processor() {
    for epoll in BOTH_DRIVERS {
        let rig = Rig::start(epoll, |_| ());
        let idle: Vec<_> = (0..50).map(|_| rig.connect()).collect();
        rig.until("all are accepted", || rig.connections() == 50);
        let before = rig.shard_cpu();
        std::thread::sleep(Duration::from_secs(1)); // the interval that is measured
        let used = rig.shard_cpu() - before;
        assert!(used < Duration::from_millis(5), "an idle shard ran for {used:?} in a second");
        drop(idle);
    }
}

#[test]
fn a_shard_that_starts_on_a_full_ring_is_heard_of_once_the_sidecar_empties_it() {
    for epoll in BOTH_DRIVERS {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (sidecar, mut ends) = links(1, BufferBudget::new(0)).unwrap();
        let end = ends.remove(0);
        while end.tell(Event::KeyLookup(KeyDigest([0; 32]))).is_ok() {}
        let shard = std::thread::spawn(move || {
            obleth_proxy::run_shard(listener, end, slate(), Arc::new(settings(epoll)))
        });
        // It takes commands only after it has tried to say that it started.
        sidecar.send(0, Command::Ping(1)).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while sidecar.gauges().shard(0).heartbeat.get() < 1 {
            assert!(Instant::now() < deadline, "it does not answer");
            std::thread::yield_now();
        }
        while !matches!(sidecar.take(0), Some(Event::Started)) {
            assert!(Instant::now() < deadline, "it never said that it started");
            std::thread::yield_now();
        }
        sidecar.send(0, Command::Drain).unwrap();
        shard.join().unwrap().unwrap();
    }
}
