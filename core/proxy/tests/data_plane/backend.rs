//! Backends that misbehave in ways that only a socket of one's own can: each is a few lines of the test.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::rig::{BOTH_DRIVERS, Rig, chat, chat_stream, status};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";

/// A backend that handles each connection with `serve`; counts the requests that `serve` says it saw.
fn backend(
    serve: impl Fn(TcpStream, &AtomicUsize) + Send + Sync + 'static,
) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(AtomicUsize::new(0));
    let (serve, count) = (Arc::new(serve), Arc::clone(&seen));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (serve, count) = (Arc::clone(&serve), Arc::clone(&count));
            std::thread::spawn(move || serve(stream.unwrap(), &count));
        }
    });
    (address, seen)
}

/// Reads up to the end of a head; false when the connection ends first.
fn read_head(stream: &mut TcpStream) -> bool {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return false,
        }
    }
    true
}

/// Reads a small request whole.
fn read_request(stream: &mut TcpStream) -> bool {
    let mut body = [0; 4096];
    read_head(stream) && stream.read(&mut body).is_ok_and(|n| n > 0)
}

#[test]
fn interim_answers_without_end_are_a_502() {
    let (address, _) = backend(|mut stream, _| {
        read_request(&mut stream);
        while stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").is_ok() {}
    });
    for epoll in BOTH_DRIVERS {
        let rig = Rig::in_front_of(epoll, address);
        let answer = rig.request(&chat("sk_known", ""));
        assert!(status(&answer) == 502 && answer.contains("upstream_cut"), "{answer}");
        assert_eq!(status(&rig.request("GET /health HTTP/1.1\r\nHost: h\r\n\r\n")), 200);
    }
}

#[test]
fn an_early_refusal_of_a_large_body_counts_and_nothing_is_asked_twice() {
    let (address, seen) = backend(|mut stream, seen| {
        if read_request(&mut stream) {
            stream.write_all(OK).unwrap();
        }
        if read_head(&mut stream) {
            seen.fetch_add(1, Ordering::SeqCst);
            stream.write_all(b"HTTP/1.1 413 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let _ = stream.read(&mut [0; 1024]); // and closes with most of it unread
        }
    });
    for epoll in BOTH_DRIVERS {
        seen.store(0, Ordering::SeqCst);
        let rig = Rig::in_front_of(epoll, address);
        assert_eq!(status(&rig.request(&chat("sk_known", ""))), 200);
        let body = format!(r#"{{"model":"demo","x":"{}"}}"#, "y".repeat(9 << 20));
        let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer sk_known\r\n";
        let answer = rig.request(&format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()));
        assert_eq!(seen.load(Ordering::SeqCst), 1, "{answer}");
        // What the backend said may be lost with its reset, and then the answer is a 502.
        assert!([413, 502].contains(&status(&answer)), "{answer}");
    }
}

#[test]
fn an_answer_is_heard_though_the_backend_takes_no_more_of_the_body() {
    let (address, _) = backend(|mut stream, _| {
        read_head(&mut stream);
        stream.write_all(b"HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n").unwrap();
        let mut later = stream.try_clone().unwrap();
        std::thread::park_timeout(Duration::from_secs(30)); // it neither reads nor closes
        let _ = later.read(&mut [0]);
    });
    for epoll in BOTH_DRIVERS {
        let rig = Rig::in_front_of(epoll, address);
        let body = format!(r#"{{"model":"demo","x":"{}"}}"#, "y".repeat(20 << 20));
        let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer sk_known\r\n";
        let begun = Instant::now();
        let answer = rig.request(&format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()));
        assert!(status(&answer) == 413 && begun.elapsed() < Duration::from_secs(10), "{answer}");
    }
}

#[test]
fn a_request_that_ran_for_a_while_on_a_reused_connection_is_not_run_again() {
    let (address, seen) = backend(|mut stream, seen| {
        if read_request(&mut stream) {
            stream.write_all(OK).unwrap();
        }
        if read_request(&mut stream) {
            seen.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(600)); // it works, and then it dies
        }
    });
    for epoll in BOTH_DRIVERS {
        seen.store(0, Ordering::SeqCst);
        let rig = Rig::in_front_of(epoll, address);
        assert_eq!(status(&rig.request(&chat("sk_known", ""))), 200);
        assert_eq!(status(&rig.request(&chat("sk_known", ""))), 502);
        assert_eq!(seen.load(Ordering::SeqCst), 1);
    }
}

#[test]
fn a_refusal_whose_words_do_not_come_keeps_its_status() {
    let (address, _) = backend(|mut stream, _| {
        read_request(&mut stream);
        stream.write_all(b"HTTP/1.1 429 No\r\nRetry-After: 3\r\nContent-Length: 100\r\n\r\n").unwrap();
        let _ = stream.read(&mut [0]); // stays silent until the gateway leaves
    });
    let rig = Rig::in_front_of(false, address);
    let begun = Instant::now();
    let answer = rig.request(&chat("sk_known", ""));
    assert!(status(&answer) == 429 && answer.contains("retry-after: 3\r\n"), "{answer}");
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_stream_that_is_not_of_events_leaves_piece_by_piece() {
    let (address, _) = backend(|mut stream, _| {
        read_request(&mut stream);
        let head =
            b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";
        stream.write_all(head).unwrap();
        stream.write_all(b"3\r\n{}\n\r\n").unwrap();
        let _ = stream.read(&mut [0]); // the rest never comes
    });
    for epoll in BOTH_DRIVERS {
        let rig = Rig::in_front_of(epoll, address);
        let mut client = rig.connect();
        client.write_all(chat_stream("").as_bytes()).unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"3\r\n{}\n\r\n") {
            let mut buf = [0; 4096];
            let n = client.read(&mut buf).expect("the first piece is held back");
            answer.extend_from_slice(&buf[..n]);
        }
    }
}

#[test]
fn a_connect_that_is_given_up_leaves_no_descriptor_behind() {
    use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, socket};
    let full = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&full, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    listen(&full, 0).unwrap();
    let address: SocketAddr = getsockname(&full).unwrap().try_into().unwrap();
    let limit = Duration::from_millis(200);
    let mut queue = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, limit) {
        queue.push(stream); // until the queue takes no more
    }
    for epoll in BOTH_DRIVERS {
        let rig = Rig::in_front_of(epoll, address);
        let connecting = || {
            let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
            let port = format!(":{:04X} 02", address.port()); // in state SYN_SENT
            table.lines().filter(|line| line.contains(&port)).count()
        };
        for _ in 0..5 {
            let answer = rig.request(&chat("sk_known", ""));
            assert!(status(&answer) == 502 && answer.contains("upstream_unreachable"), "{answer}");
        }
        rig.until("no connect is under way", || connecting() == 0);
    }
}
