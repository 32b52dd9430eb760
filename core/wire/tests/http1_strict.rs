//! The table of which heads the HTTP/1 codec takes and which it refuses: one row per rule, with both sides.
//!
//! A row that moves from one side to the other is a change of what obleth promises, not a detail.

use obleth_wire::http1::{
    Framing, HeadError, HeadScan, HeaderKind, Limits, Method, RequestHead, ResponseHead, Version,
    parse_request, parse_response, percent_decode,
};

fn request(bytes: &[u8]) -> Result<RequestHead, HeadError> {
    let limits = Limits::default();
    let len = HeadScan::default().find_end(bytes, &limits)?.expect("the row holds a whole head");
    parse_request(bytes, len, &limits)
}

fn response(bytes: &[u8]) -> Result<ResponseHead, HeadError> {
    response_to(Method::Post, bytes)
}

fn response_to(method: Method, bytes: &[u8]) -> Result<ResponseHead, HeadError> {
    let limits = Limits::default();
    let len = HeadScan::default().find_end(bytes, &limits)?.expect("the row holds a whole head");
    parse_response(bytes, len, method, &limits)
}

/// A POST with one more header line.
fn post(line: &str) -> Result<RequestHead, HeadError> {
    request(format!("POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n").as_bytes())
}

fn get(target: &str) -> Result<RequestHead, HeadError> {
    request(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes())
}

fn answer(line: &str) -> Result<ResponseHead, HeadError> {
    response(format!("HTTP/1.1 200 OK\r\n{line}\r\n\r\n").as_bytes())
}

#[track_caller]
fn bad<T: std::fmt::Debug>(result: Result<T, HeadError>) {
    assert!(matches!(result, Err(HeadError::Bad(_))), "{result:?}");
}

#[test]
fn a_request_length_has_one_spelling() {
    assert_eq!(post("X: y").unwrap().framing, Framing::None);
    assert_eq!(post("Content-Length: 0").unwrap().framing, Framing::Length(0));
    assert_eq!(post("content-length:\t17 ").unwrap().framing, Framing::Length(17));
    assert_eq!(post("Content-Length: 18446744073709551615").unwrap().framing, Framing::Length(u64::MAX));
    for value in ["", "+1", "-1", "1 2", "1,1", "0x1", "1.0", "18446744073709551616", "१"] {
        bad(post(&format!("Content-Length: {value}")));
        bad(answer(&format!("Content-Length: {value}")));
    }
    for pair in ["1\r\nContent-Length: 2", "1\r\ncontent-length: 1"] {
        bad(post(&format!("Content-Length: {pair}")));
        bad(answer(&format!("Content-Length: {pair}")));
    }
}

#[test]
fn a_transfer_encoding_is_chunked_once_and_alone() {
    for value in ["chunked", "Chunked", "CHUNKED", " chunked\t"] {
        assert_eq!(post(&format!("Transfer-Encoding: {value}")).unwrap().framing, Framing::Chunked);
        assert_eq!(answer(&format!("Transfer-Encoding: {value}")).unwrap().framing, Framing::Chunked);
    }
    for value in
        ["", "identity", "gzip, chunked", "chunked, chunked", "chunked;q=1", "xchunked", "\"chunked\""]
    {
        bad(post(&format!("Transfer-Encoding: {value}")));
        bad(answer(&format!("Transfer-Encoding: {value}")));
    }
    for pair in [
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 1",
        "Content-Length: 0\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
    ] {
        bad(post(pair));
        bad(answer(pair));
    }
    bad(request(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"));
    bad(response(b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"));
}

#[test]
fn line_ends_are_crlf_only() {
    bad(request(b"GET / HTTP/1.1\nHost: a\r\n\r\n"));
    bad(request(b"GET / HTTP/1.1\r\nHost: a\n\r\n"));
    bad(request(b"GET / HTTP/1.1\r\nHost: a\r\n\n"));
    bad(request(b"GET / HTTP/1.1\rX: y\r\nHost: a\r\n\r\n"));
    bad(request(b"GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n"));
    bad(request(b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n"));
    bad(response(b"HTTP/1.1 200 OK\nA: b\r\n\r\n"));
    bad(response(b"HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n"));
}

#[test]
fn header_lines_are_neither_folded_nor_spaced_nor_empty() {
    bad(post("X: y\r\n folded"));
    bad(post("X: y\r\n\tfolded"));
    bad(answer("X: y\r\n folded"));
    for line in ["X : y", "X\t: y", " X: y", ": y", "X", "X y: z", "X(): y", "X\u{e9}: y"] {
        bad(post(line));
        bad(answer(line));
    }
    let head = post("X:\t y z \t").unwrap();
    assert_eq!(head.headers.len(), 2);
    assert_eq!(post("X:").unwrap().headers.len(), 2);
    assert_eq!(post("X: caf\u{e9}").unwrap().headers.len(), 2);
    assert_eq!(answer("X: caf\u{e9}").unwrap().headers.len(), 1);
}

#[test]
fn control_bytes_are_refused_everywhere() {
    for byte in (0_u8..32).chain([127]).filter(|byte| *byte != b'\t') {
        let c = byte as char;
        bad(post(&format!("X: a{c}b")));
        bad(post(&format!("X{c}: b")));
        bad(get(&format!("/a{c}b")));
        bad(answer(&format!("X: a{c}b")));
        bad(response(format!("HTTP/1.1 200 O{c}K\r\n\r\n").as_bytes()));
    }
    bad(get("/a\tb"));
    assert!(post("X: a\tb").is_ok());
}

#[test]
fn there_is_exactly_one_sane_host() {
    bad(request(b"GET / HTTP/1.1\r\n\r\n"));
    bad(request(b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"));
    bad(request(b"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n"));
    for host in ["", "x/#@y", "a b", "a@b", "a#b", "a/b", "a?b", "a\\b", "a,b", "\u{e9}"] {
        bad(request(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()));
    }
    for host in ["a", "a:8080", "127.0.0.1:80", "[::1]:8080", "api_1.ex-ample.com"] {
        let bytes = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let head = request(bytes.as_bytes()).unwrap();
        assert_eq!(head.host.of(bytes.as_bytes()), host.as_bytes());
        assert_eq!(head.get(bytes.as_bytes(), HeaderKind::Host), Some(host.as_bytes()));
    }
}

#[test]
fn targets_are_paths_that_read_only_one_way() {
    for target in ["http://a/", "https://a/v1/models", "a:443", "*", "v1/models", "?a", "#", ""] {
        bad(get(target));
    }
    for path in [
        "/..",
        "/../a",
        "/a/..",
        "/a/../b",
        "/a/..;/b",
        "/a..b",
        "/.",
        "/./a",
        "/a/.",
        "/a/./b",
        "/%2e%2e/a",
        "/a%2Eb",
        "/.%2e/a",
        "//",
        "//a",
        "/a//b",
        "/a//",
        "/a%2fb",
        "/a%2Fb",
        "/v1%2Fmodels/x",
        "/v1/models%2Fx",
        "/a%5cb",
        "/a%5Cb",
        "/a\\b",
        "/a#b",
        "/a?b#c",
        "/a%",
        "/a%2",
        "/a%zz",
        "/a%00b",
        "/a%0d%0ab",
        "/a%7f",
        "/\u{e9}",
        "/v1/models/%2Fx",
        "/v1/models/a%2F%2Fb",
        "/v1/models/a%2F/b",
        "/v1/models/a%2F..%2Fb",
        "/v1/models/%2e%2e",
        "/v1/models/..",
        "/v1/models/a%2F.",
        "/v1/models/.%2Fa",
        "/v1/models/a%5Cb",
    ] {
        bad(get(path));
    }
    for path in [
        "/",
        "/health",
        "/v1/models",
        "/v1/models/",
        "/v1/models/org/model",
        "/v1/models/org%2Fmodel",
        "/v1/models/org%2fmodel-7.b",
        "/a/.b",
        "/a.b.c",
        "/a%20b",
        "/caf%C3%A9",
        "/v1/files?purpose=a//b/../%2e%2f",
    ] {
        assert!(get(path).is_ok(), "{path}");
    }
    let bytes = b"GET /v1/models/a%2Fb?x=1?y HTTP/1.1\r\nHost: a\r\n\r\n";
    let head = request(bytes).unwrap();
    assert_eq!(head.target.of(bytes), b"/v1/models/a%2Fb?x=1?y");
    assert_eq!(head.path.of(bytes), b"/v1/models/a%2Fb");
    assert_eq!(head.query.unwrap().of(bytes), b"x=1?y");
    assert_eq!(get("/a").unwrap().query, None);
    assert!(get("/a?").unwrap().query.unwrap().is_empty());
}

#[test]
fn percent_encoding_is_decoded_whole_or_not_at_all() {
    assert_eq!(percent_decode(b"plain").unwrap(), &b"plain"[..]);
    assert_eq!(percent_decode(b"org%2Fm%c3%A9%25").unwrap(), "org/mé%".as_bytes());
    for broken in [&b"%"[..], b"a%2", b"%g0", b"%0g", b"a%2fb%"] {
        assert_eq!(percent_decode(broken), None);
    }
}

#[test]
fn versions_other_than_1_0_and_1_1_are_told_so() {
    for line in [
        "GET / HTTP/2.0",
        "PRI * HTTP/2.0",
        "GET / HTTP/0.9",
        "GET / HTTP/1.2",
        "GET / HTTP/11",
        "GET / HTTP/",
        "GET /",
    ] {
        let result = request(format!("{line}\r\nHost: a\r\n\r\n").as_bytes());
        assert_eq!(result.unwrap_err(), HeadError::Version, "{line}");
    }
    for line in [
        "GET / http/1.1",
        "GET / FTP/1.1",
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET / a HTTP/1.1",
        "x",
        " GET / HTTP/1.1",
        "GET\t/ HTTP/1.1",
    ] {
        bad(request(format!("{line}\r\nHost: a\r\n\r\n").as_bytes()));
    }
    let old = request(b"GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").unwrap();
    assert_eq!((old.version, old.keep_alive, old.host.is_empty()), (Version::Http10, false, true));
    assert_eq!(response(b"HTTP/2.0 200 OK\r\n\r\n").unwrap_err(), HeadError::Version);
}

#[test]
fn methods_are_case_sensitive() {
    let rows = [
        ("GET", Method::Get),
        ("HEAD", Method::Head),
        ("POST", Method::Post),
        ("PUT", Method::Put),
        ("PATCH", Method::Patch),
        ("DELETE", Method::Delete),
        ("OPTIONS", Method::Options),
        ("TRACE", Method::Trace),
        ("get", Method::Other),
        ("BREW", Method::Other),
    ];
    for (token, method) in rows {
        let head = request(format!("{token} / HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).unwrap();
        assert_eq!(head.method, method);
    }
    bad(request(b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n"));
    bad(request(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"));
}

#[test]
fn expectations_and_upgrades_we_do_not_meet_are_refused() {
    assert!(post("Expect: 100-Continue").unwrap().expect_continue);
    assert!(!post("X: y").unwrap().expect_continue);
    bad(post("Expect: 200-ok"));
    bad(post("Expect: 100-continue, x"));
    let old = request(b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n").unwrap();
    assert!(!old.expect_continue);
    for line in ["Upgrade: websocket", "Upgrade: WebSocket/13", "Upgrade: h2c, websocket"] {
        bad(post(line));
    }
    let bytes = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n";
    let head = request(bytes).unwrap();
    assert!(head.keep_alive);
    assert!(head.iter(bytes).all(|(_, _, kind)| !kind.goes_upstream()));
}

#[test]
fn connection_options_decide_persistence_and_end_headers_here() {
    assert!(post("X: y").unwrap().keep_alive);
    assert!(!post("Connection: Close").unwrap().keep_alive);
    assert!(!post("Connection: keep-alive , close").unwrap().keep_alive);
    assert!(!post("Connection: keep-alive\r\nConnection: close").unwrap().keep_alive);
    let bytes = b"POST / HTTP/1.1\r\nHost: a\r\nX-Secret: 1\r\nConnection: x-SECRET,, authorization\r\nx-secret: 2\r\nAuthorization: Bearer k\r\nX-Kept: 3\r\n\r\n";
    let head = request(bytes).unwrap();
    let forwarded: Vec<_> = head.iter(bytes).filter(|(_, _, kind)| kind.goes_upstream()).collect();
    assert_eq!(forwarded, [(&b"X-Kept"[..], &b"3"[..], HeaderKind::Other)]);
    assert_eq!(head.get(bytes, HeaderKind::Authorization), Some(&b"Bearer k"[..]));
    let hidden =
        b"POST / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\nConnection: x-forwarded-for\r\n\r\n";
    let head = request(hidden).unwrap();
    assert_eq!(head.get(hidden, HeaderKind::ForwardedFor), Some(&b"192.0.2.1"[..]), "nobody hides his way");
    let options = vec!["x"; 33].join(",");
    bad(post(&format!("Connection: {options}")));
}

#[test]
fn what_crosses_the_gateway_is_decided_by_kind() {
    let stay = [
        "authorization",
        "X-Api-Key",
        "api-key",
        "Cookie",
        "Set-Cookie",
        "HOST",
        "content-length",
        "Content-Type",
        "accept-encoding",
        "transfer-encoding",
        "connection",
        "keep-alive",
        "te",
        "trailer",
        "upgrade",
        "proxy-authorization",
        "Proxy-Connection",
        "http2-settings",
        "expect",
        "x-request-id",
        "x-obleth-anything",
    ];
    for name in stay {
        assert!(!HeaderKind::of(name.as_bytes()).goes_upstream(), "{name}");
    }
    for name in [
        "traceparent",
        "tracestate",
        "user-agent",
        "accept",
        "openai-organization",
        "x-stainless-lang",
        "x-sim-fault",
        "baggage",
        "x-forwarded-for",
        "x-obleth",
    ] {
        assert!(HeaderKind::of(name.as_bytes()).goes_upstream(), "{name}");
    }
    for name in ["content-type", "Cache-Control", "content-encoding", "openai-processing-ms"] {
        assert!(HeaderKind::of(name.as_bytes()).comes_back(), "{name}");
    }
    for name in [
        "set-cookie",
        "server",
        "date",
        "x-ratelimit-limit-requests",
        "connection",
        "x-request-id",
        "content-length",
    ] {
        assert!(!HeaderKind::of(name.as_bytes()).comes_back(), "{name}");
    }
    assert_eq!(HeaderKind::of(b"X-RateLimit-Reset-Tokens"), HeaderKind::RateLimit);
}

#[test]
fn limits_are_exact_and_say_which_one_it_was() {
    let fits = |target: usize| get(&format!("/{}", "a".repeat(target)));
    let fixed = "GET / HTTP/1.1".len();
    assert!(fits((8 << 10) - fixed).is_ok());
    assert_eq!(fits((8 << 10) - fixed + 1).unwrap_err(), HeadError::UriTooLong);
    let with_head = |size: usize| {
        let start = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
        request(format!("{start}{}\r\n\r\n", "b".repeat(size - start.len() - 4)).as_bytes())
    };
    assert_eq!(with_head(64 << 10).unwrap().len, 64 << 10);
    assert_eq!(with_head((64 << 10) + 1).unwrap_err(), HeadError::TooLarge);
    let with_headers = |count: usize| post(vec!["X: y"; count - 1].join("\r\n").as_str());
    assert_eq!(with_headers(100).unwrap().headers.len(), 100);
    assert_eq!(with_headers(101).unwrap_err(), HeadError::TooLarge);
    let unended = vec![b'a'; 9 << 10];
    assert_eq!(HeadScan::default().find_end(&unended, &Limits::default()), Err(HeadError::UriTooLong));
}

#[test]
fn a_head_name_of_70_kb_is_an_error_and_not_a_panic() {
    assert_eq!(post(&format!("{}: y", "n".repeat(70_000))).unwrap_err(), HeadError::TooLarge);
}

#[test]
fn two_empty_lines_may_precede_a_request_and_none_a_response() {
    let bytes = b"\r\n\r\nGET /a HTTP/1.1\r\nHost: a\r\n\r\n";
    let head = request(bytes).unwrap();
    assert_eq!((head.len, head.path.of(bytes)), (bytes.len(), &b"/a"[..]));
    bad(request(b"\r\n\r\n\r\nGET /a HTTP/1.1\r\nHost: a\r\n\r\n"));
    bad(response(b"\r\nHTTP/1.1 200 OK\r\n\r\n"));
}

#[test]
fn pipelined_requests_are_cut_at_the_first_head() {
    let one = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
    let both = [one.as_slice(), b"GET /b HTTP/1.1\r\nHost: b\r\n\r\n"].concat();
    let head = request(&both).unwrap();
    assert_eq!(head.len, one.len());
    let rest = &both[head.len..];
    assert_eq!(request(rest).unwrap().path.of(rest), b"/b");
}

#[test]
fn a_head_survives_a_buffer_that_moves() {
    let mut buf = b"POST /p HTTP/1.1\r\nHost: a\r\nX-Request-Id: 7\r\n\r\n".to_vec();
    let head = request(&buf).unwrap();
    buf.extend(vec![b'z'; 1 << 20]);
    assert_eq!(head.get(&buf, HeaderKind::RequestId), Some(&b"7"[..]));
    assert_eq!(head.get(b"short", HeaderKind::RequestId), Some(&b""[..]));
}

#[test]
fn response_bodies_are_delimited_as_rfc_9112_says() {
    let length = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    assert_eq!(response(length).unwrap().framing, Framing::Length(5));
    assert_eq!(response_to(Method::Head, length).unwrap().framing, Framing::None);
    assert!(response_to(Method::Head, length).unwrap().keep_alive);
    let unframed = response(b"HTTP/1.1 200\r\n\r\n").unwrap();
    assert_eq!((unframed.framing, unframed.keep_alive), (Framing::UntilClose, false));
    for status in [100, 102, 103, 204, 304] {
        let plain = response(format!("HTTP/1.1 {status} X\r\n\r\n").as_bytes()).unwrap();
        assert_eq!((plain.status, plain.framing, plain.keep_alive), (status, Framing::None, true));
        let bytes = format!("HTTP/1.1 {status} X\r\nContent-Length: 3\r\n\r\n");
        let announced = response(bytes.as_bytes()).unwrap();
        assert_eq!((announced.framing, announced.keep_alive), (Framing::None, status == 304));
    }
    for line in
        ["HTTP/1.1 99 X", "HTTP/1.1 600 X", "HTTP/1.1 2000 X", "HTTP/1.1 OK", "HTTP/1.1  200 OK", "200 OK"]
    {
        assert!(response(format!("{line}\r\n\r\n").as_bytes()).is_err(), "{line}");
    }
}

#[test]
fn response_persistence_follows_version_and_options() {
    let kept =
        |head: &str| response(format!("{head}\r\nContent-Length: 0\r\n\r\n").as_bytes()).unwrap().keep_alive;
    assert!(kept("HTTP/1.1 200 OK"));
    assert!(!kept("HTTP/1.1 200 OK\r\nConnection: close"));
    assert!(!kept("HTTP/1.0 200 OK"));
    assert!(kept("HTTP/1.0 200 OK\r\nConnection: Keep-Alive"));
    let timeout = |line: &str| answer(line).unwrap().keep_alive_timeout_secs;
    assert_eq!(timeout("Keep-Alive: timeout=5, max=100"), Some(5));
    assert_eq!(timeout("Keep-Alive: max=100, Timeout=7"), Some(7));
    assert_eq!(timeout("Keep-Alive: timeout=x"), None);
    assert_eq!(timeout("X: y"), None);
}
