//! A backend that cannot keep a secret: whatever it is sent as a credential, it repeats.
//!
//! It answers as the request's `x-want` says: with that status, or `garbage`, or `cut`.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

use serde_json::json;

/// See the module's text.
pub(super) struct Echo {
    pub(super) addr: SocketAddr,
    /// All requests that came, one behind the other.
    pub(super) heard: Arc<Mutex<Vec<u8>>>,
}

impl Echo {
    /// Listens until the test process ends.
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&heard);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let log = Arc::clone(&log);
                std::thread::spawn(move || echo(stream, &log));
            }
        });
        Self { addr, heard }
    }
}

fn echo(mut stream: TcpStream, heard: &Mutex<Vec<u8>>) {
    let (mut request, mut chunk) = (Vec::new(), [0; 4096]);
    while !request.ends_with(b"}") {
        match stream.read(&mut chunk) {
            Ok(got @ 1..) => request.extend_from_slice(&chunk[..got]),
            _ => return,
        }
    }
    heard.lock().unwrap().extend_from_slice(&request);
    let text = String::from_utf8_lossy(&request);
    let line = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(known, _)| known.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
    };
    let (credential, want) = (line("authorization"), line("x-want"));
    let said = json!({"error": {"message": format!("Incorrect key: `{credential}`, sent as {credential}.")}});
    let said = said.to_string();
    let head = format!(
        "x-credential: {credential}\r\nwww-authenticate: {credential}\r\nopenai-organization: {credential}\r\nset-cookie: c={credential}\r\n"
    );
    let answer = match want {
        "garbage" => format!("HTTP/1.1 200 OK\r\n{credential}\r\n\r\n"),
        "cut" => format!("HTTP/1.1 400 Bad\r\n{head}content-length: 5000\r\n\r\n{said}"),
        status => format!(
            "HTTP/1.1 {status} Bad\r\n{head}content-type: application/json\r\ncontent-length: {}\r\n\r\n{said}",
            said.len()
        ),
    };
    // A client that does not want the answer is no matter of the test.
    let _ = stream.write_all(answer.as_bytes());
}
