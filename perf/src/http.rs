//! The few calls a measurement makes outside of load: set the gateway up, steer the backend.
//!
//! One connection per call; it must never be used to measure.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use obleth_wire::http1::{HeadScan, Limits, Method, parse_response};
use serde_json::Value;

/// How long a call may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Posts JSON and gives the JSON of the answer.
///
/// # Errors
/// No connection, or an answer that is not 2xx, with what it said.
pub(crate) fn post(server: SocketAddr, path: &str, token: &str, body: &Value) -> Result<Value> {
    let body = body.to_string();
    let mut socket = TcpStream::connect_timeout(&server, PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: {server}\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer)?;
    let limits = Limits::default();
    let len = HeadScan::default().find_end(&answer, &limits)?.context("no answer")?;
    let head = parse_response(&answer, len, Method::Post, &limits)?;
    let body = answer.get(len..).unwrap_or_default();
    if !(200..300).contains(&head.status) {
        bail!("POST {path}: {} {}", head.status, String::from_utf8_lossy(body));
    }
    Ok(serde_json::from_slice(body)?)
}
