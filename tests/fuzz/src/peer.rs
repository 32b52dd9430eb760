//! Another server (hyper) reads the same connection: never two interpretations.
//!
//! It exists because request smuggling is a disagreement: whatever obleth accepts, another reader of the same bytes must
//! take apart in the same way or refuse, and may refuse only for a reason that is named here.

use std::{
    cell::RefCell,
    future::{Future, Ready, ready},
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, Waker},
};

use hyper::{
    Request, Response,
    body::{Body, Bytes, Frame, Incoming},
    http::request::Parts,
    rt::{Read, ReadBufCursor, Write},
    server::conn::http1,
    service::service_fn,
};
use obleth_wire::http1::{Framing, Version};

use crate::{connection, head};

/// More polls than a connection on which nothing waits can need for an input of the size that the engine makes.
const MOST_POLLS: usize = 200;

/// What hyper made of one request: its head, and its payload if the body was complete.
struct Seen {
    head: Parts,
    payload: Option<Vec<u8>>,
}

/// Checks that hyper reads `text` as `requests`, as far as those go.
pub(crate) fn agrees(text: &[u8], requests: &[connection::Request]) {
    if requests.is_empty() {
        return;
    }
    let seen = read(text);
    for (at, wanted) in requests.iter().enumerate() {
        let Some(found) = seen.get(at) else {
            assert!(may_be_refused(wanted), "hyper refuses {wanted:?}");
            return;
        };
        same_head(&found.head, wanted);
        match (&found.payload, &wanted.payload) {
            (None, None) => return,
            (Some(found), Some(wanted)) => assert_eq!(found, wanted, "another payload"),
            // hyper reads trailers, which are dropped here.
            (None, Some(_)) => {
                assert!(wanted.has_trailers, "hyper reads no body of {wanted:?}");
                return;
            }
            (Some(_), None) => {
                // A coding that is broken in a way that hyper forgives is refused here.
                assert_eq!(wanted.framing, Framing::Chunked, "hyper reads a body of {wanted:?}");
                return;
            }
        }
        // To hyper, what follows a CONNECT is a tunnel.
        if !wanted.keep_alive || wanted.method == "CONNECT" {
            return;
        }
    }
}

fn same_head(found: &Parts, wanted: &connection::Request) {
    assert_eq!(found.method.as_str(), wanted.method);
    assert_eq!(found.uri.to_string().as_bytes(), wanted.target);
    let version =
        if wanted.version == Version::Http11 { hyper::Version::HTTP_11 } else { hyper::Version::HTTP_10 };
    assert_eq!(found.version, version);
    assert_eq!(found.headers.len(), wanted.lines.len(), "another number of header lines");
    for (name, _) in &wanted.lines {
        let found = found.headers.get_all(name).iter().map(|value| value.as_bytes());
        assert!(found.eq(head::all(&wanted.lines, name)), "other values of {name}");
    }
}

/// Reasons for which hyper refuses a head that is unambiguous all the same.
fn may_be_refused(request: &connection::Request) -> bool {
    // Its URIs hold fewer characters, and a CONNECT names an authority.
    let odd_target = request.target.iter().any(|byte| b"<>`\"{}^|\\".contains(byte));
    // Lengths near the end of 64 bits have a meaning of their own there.
    let vast = matches!(request.framing, Framing::Length(length) if length > u64::MAX - 2);
    odd_target || request.method == "CONNECT" || vast
}

/// What hyper makes of a connection on which a client sends `text` and closes.
fn read(text: &[u8]) -> Vec<Seen> {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let service = service_fn(|request: Request<Incoming>| {
        let seen = Rc::clone(&seen);
        async move {
            let (head, body) = request.into_parts();
            let at = seen.borrow().len();
            seen.borrow_mut().push(Seen { head, payload: None });
            let payload = collect(body).await;
            seen.borrow_mut()[at].payload = payload;
            answer().await
        }
    });
    {
        let connection = http1::Builder::new()
            .half_close(true)
            .max_headers(256)
            .serve_connection(Socket { sent: text.to_vec(), at: 0 }, service);
        let mut connection = pin!(connection);
        // The socket never waits, so the connection stops waking itself only when it is over.
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..MOST_POLLS {
            if connection.as_mut().poll(&mut context).is_ready() {
                break;
            }
        }
    }
    Rc::into_inner(seen).map(RefCell::into_inner).unwrap_or_default()
}

fn answer() -> Ready<Result<Response<Empty>, io::Error>> {
    ready(Ok(Response::new(Empty)))
}

/// The payload of a body, if it is complete.
async fn collect(mut body: Incoming) -> Option<Vec<u8>> {
    let mut payload = Vec::new();
    while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        if let Ok(data) = frame.ok()?.into_data() {
            payload.extend_from_slice(&data);
        }
    }
    Some(payload)
}

/// A response without a body.
struct Empty;

impl Body for Empty {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        true
    }
}

/// A connection on which everything has arrived and everything can be sent.
struct Socket {
    sent: Vec<u8>,
    at: usize,
}

impl Read for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let len = into.remaining().min(self.sent.len() - self.at);
        into.put_slice(&self.sent[self.at..self.at + len]);
        self.at += len;
        Poll::Ready(Ok(()))
    }
}

impl Write for Socket {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
