//! One client connection: reads requests, routes them, answers them in order.
//!
//! A client that leaves in the middle of an answer is noticed at once and counted with what had been generated for
//! it. Nothing here outlives the connection.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use obleth_wire::http1::{
    BodyDecoder, HeadError, HeadScan, HeaderKind, Limits, Method, Piece, RequestHead, Version, parse_request,
};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::answer;
use crate::ask::{Ask, Endpoint};
use crate::counters::Ending;
use crate::generate::{self, Job, Line, Progress};
use crate::options::{Options, UsageShape};
use crate::plan::Plan;
use crate::server::Site;
use crate::shape::Shape;
use crate::socket::{Socket, fill, gone, send, send_last};

/// The largest body taken in; a larger one gets 413.
const MAX_BODY: usize = 64 << 20;

/// How long a request may take to arrive once its first byte has.
const REQUEST_TIME: Duration = Duration::from_secs(60);

/// A connection and its buffers, which all its requests share.
struct Connection {
    site: Arc<Site>,
    stream: Socket,
    /// Received and not yet answered; starts where a request starts.
    received: Vec<u8>,
    body: Vec<u8>,
    out: Vec<u8>,
    limits: Limits,
}

/// A whole request.
struct Received {
    head: RequestHead,
    /// Bytes of `received` it takes up.
    len: usize,
}

/// Why no request came.
enum NoRequest {
    /// The client closed or sent nothing for too long.
    Quiet,
    /// What it sent is answered with this status and message, and the connection closed.
    Refused(u16, String),
}

/// Serves a connection until either side closes it.
pub(crate) async fn run(stream: TcpStream, site: Arc<Site>) {
    let _open = site.counters.connected();
    let Ok(stream) = Socket::new(stream, site.tls.as_ref()) else { return };
    let limits = Limits::default();
    let mut connection =
        Connection { site, stream, received: Vec::new(), body: Vec::new(), out: Vec::new(), limits };
    while let Ok(true) = connection.exchange().await {}
}

impl Connection {
    /// One request and its answer. True if another one may follow.
    async fn exchange(&mut self) -> io::Result<bool> {
        let idle = Duration::from_millis(self.site.options().keep_alive_ms);
        if self.received.is_empty() {
            match timeout(idle, fill(&self.stream, &mut self.received)).await {
                Ok(Ok(true)) => {}
                _ => {
                    self.stream.close();
                    return Ok(false);
                }
            }
            if let Some(resumed) = self.stream.resumed() {
                self.site.counters.shook_hands(resumed);
            }
        }
        let request = match timeout(REQUEST_TIME, self.receive()).await {
            Ok(Ok(request)) => request,
            Ok(Err(NoRequest::Refused(status, why))) => {
                let body = answer::error(status, "BadRequestError", &why);
                self.reply(status, &body, false).await?;
                return Ok(false);
            }
            Ok(Err(NoRequest::Quiet)) | Err(_) => return Ok(false),
        };
        let keep = self.answer(&request.head).await?;
        self.received.drain(..request.len);
        Ok(keep)
    }

    /// Reads one request; its body is then in `body`.
    async fn receive(&mut self) -> Result<Received, NoRequest> {
        let mut scan = HeadScan::default();
        let len = loop {
            match scan.find_end(&self.received, &self.limits).map_err(refused)? {
                Some(len) => break len,
                None => self.more().await?,
            }
        };
        let head = parse_request(&self.received, len, &self.limits).map_err(refused)?;
        self.body.clear();
        let mut decoder = BodyDecoder::new(head.framing, &self.limits);
        if head.expect_continue && self.received.len() == len && !decoder.is_done() {
            let go_on = send(&self.stream, b"HTTP/1.1 100 Continue\r\n\r\n").await;
            go_on.map_err(|_| NoRequest::Quiet)?;
        }
        let mut at = len;
        loop {
            let rest = self.received.get(at..).unwrap_or_default();
            let step = decoder.decode(rest).map_err(|error| NoRequest::Refused(400, error.to_string()))?;
            at += step.consumed;
            match step.piece {
                Piece::End => return Ok(Received { head, len: at }),
                Piece::Data(range) => {
                    self.body.extend_from_slice(rest.get(range).unwrap_or_default());
                    if self.body.len() > MAX_BODY {
                        return Err(NoRequest::Refused(413, "the body is too large".to_owned()));
                    }
                }
                Piece::More => {
                    // The body's bytes are copied and nothing follows them, so only the head is kept.
                    self.received.truncate(len);
                    at = len;
                    self.more().await?;
                }
            }
        }
    }

    async fn more(&mut self) -> Result<(), NoRequest> {
        match fill(&self.stream, &mut self.received).await {
            Ok(true) => Ok(()),
            _ => Err(NoRequest::Quiet),
        }
    }

    /// Routes a request and answers it. True if the connection can be used again.
    async fn answer(&mut self, head: &RequestHead) -> io::Result<bool> {
        let keep = head.keep_alive;
        let site = Arc::clone(&self.site);
        match (head.method, head.path.of(&self.received)) {
            (Method::Get, b"/health") => self.reply(200, "", keep).await,
            (Method::Get, b"/v1/models") => {
                let options = site.options();
                if !self.authorized(&options, head) {
                    return self.reply(401, &answer::fault_body(401, ""), keep).await;
                }
                let names: Vec<&str> = options.names().collect();
                let names = if names.is_empty() { vec!["sim"] } else { names };
                self.reply(200, &answer::models(names.into_iter()), keep).await
            }
            (Method::Get, b"/sim/stats") => {
                let stats = site.counters.to_json();
                self.reply(200, &String::from_utf8_lossy(&stats), keep).await
            }
            (Method::Get, b"/sim/journal") => {
                let query =
                    head.query.map(|query| String::from_utf8_lossy(query.of(&self.received)).into_owned());
                let after = query.as_deref().and_then(|query| query.strip_prefix("after=")?.parse().ok());
                self.reply(200, &site.counters.journal(after), keep).await
            }
            (Method::Post, b"/sim/reset") => {
                site.counters.reset();
                self.reply(200, "{}", keep).await
            }
            (Method::Post, b"/sim/options") => match site.change_options(&self.body) {
                Ok(options) => {
                    let options = serde_json::to_string(&*options).unwrap_or_default();
                    self.reply(200, &options, keep).await
                }
                Err(why) => self.reply(400, &answer::error(400, "BadRequestError", &why), keep).await,
            },
            (Method::Post, b"/v1/chat/completions") => self.complete(head, Endpoint::Chat).await,
            (Method::Post, b"/v1/completions") => self.complete(head, Endpoint::Completion).await,
            (Method::Post, b"/v1/embeddings") => self.complete(head, Endpoint::Embedding).await,
            (
                _,
                b"/health"
                | b"/v1/models"
                | b"/sim/stats"
                | b"/sim/journal"
                | b"/sim/reset"
                | b"/sim/options"
                | b"/v1/chat/completions"
                | b"/v1/completions"
                | b"/v1/embeddings",
            ) => self.reply(405, r#"{"detail":"Method Not Allowed"}"#, keep).await,
            _ => self.reply(404, r#"{"detail":"Not Found"}"#, keep).await,
        }
    }

    /// A completion or an embedding: counted, checked, generated next to a watch on the client.
    async fn complete(&mut self, head: &RequestHead, endpoint: Endpoint) -> io::Result<bool> {
        let site = Arc::clone(&self.site);
        let id = head.get(&self.received, HeaderKind::RequestId);
        let mut ticket =
            site.counters.arrived(self.received.get(..head.len).unwrap_or_default(), &self.body, id);
        let seen = id.map_or(1, |id| site.counters.count_of(&String::from_utf8_lossy(id)));
        let job = match self.job(head, endpoint, seen) {
            Ok(job) => job,
            Err((status, body)) => {
                self.out.clear();
                ticket.answers(status);
                answer::json(&mut self.out, status, &[], body.as_bytes(), head.keep_alive);
                send_last(&self.stream, &self.out, &mut ticket, Ending::Failed, 0).await?;
                return Ok(head.keep_alive);
            }
        };
        let progress = Progress::default();
        let Self { stream, received, out, .. } = self;
        let line = Line { stream: &*stream, out, ticket: &mut ticket, progress: &progress };
        let keep = tokio::select! {
            biased;
            keep = generate::run(&site, line, &job) => keep.unwrap_or(false),
            () = gone(stream, received) => false,
        };
        ticket.ends(Ending::Aborted, progress.tokens());
        Ok(keep)
    }

    /// What to generate, or the status and body of a refusal. `seen`: requests with this id, this one included.
    fn job(&self, head: &RequestHead, endpoint: Endpoint, seen: u32) -> Result<Job, (u16, String)> {
        let bad = |why: String| (400, answer::error(400, "BadRequestError", &why));
        let options = self.site.options();
        if !self.authorized(&options, head) {
            return Err((401, answer::fault_body(401, "")));
        }
        if head.version == Version::Http10 {
            return Err((505, answer::error(505, "BadRequestError", "HTTP/1.1 is required")));
        }
        let mut plan = Plan::new(&options, head, &self.received).map_err(bad)?;
        if plan.fault_times.is_some_and(|times| seen > times) {
            plan.fault = None;
        }
        let mut ask = Ask::read(endpoint, &self.body).map_err(bad)?;
        let name = ask.model.as_deref().or_else(|| options.names().next()).unwrap_or("sim");
        let model = answer::json_string(name);
        if !options.serves(name) && ask.model.is_some() {
            return Err((404, answer::fault_body(404, &format!("`{name}`"))));
        }
        ask.tells_usage = plan.usage != UsageShape::None;
        if plan.echo || plan.stamp {
            ask.shape = Shape::Prose;
        }
        let echo = plan.echo.then(|| answer::json_string(&String::from_utf8_lossy(&self.body)));
        let reject_over_limit = options.reject_over_limit;
        Ok(Job { ask, plan, model, echo, reject_over_limit, keep_alive: head.keep_alive })
    }

    fn authorized(&self, options: &Options, head: &RequestHead) -> bool {
        let Some(key) = &options.api_key else { return true };
        let sent = head.get(&self.received, HeaderKind::Authorization).unwrap_or_default();
        sent.strip_prefix(b"Bearer ") == Some(key.as_bytes())
    }

    async fn reply(&mut self, status: u16, body: &str, keep_alive: bool) -> io::Result<bool> {
        self.out.clear();
        answer::json(&mut self.out, status, &[], body.as_bytes(), keep_alive);
        send(&self.stream, &self.out).await?;
        Ok(keep_alive)
    }
}

fn refused(error: HeadError) -> NoRequest {
    let status = match error {
        HeadError::Bad(_) => 400,
        HeadError::UriTooLong => 414,
        HeadError::TooLarge => 431,
        HeadError::Version => 505,
    };
    NoRequest::Refused(status, error.to_string())
}
