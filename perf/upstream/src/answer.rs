//! The bytes of answers: heads, JSON bodies, stream events, error bodies, as vLLM's server words them.
//!
//! Everything here is a function of its arguments, so that two equal requests get equal bytes.

use std::fmt::Write as _;

use obleth_wire::http1::write;

use crate::ask::{Ask, Endpoint};
use crate::options::UsageShape;
use crate::plan::Plan;
use crate::shape::Shape;

/// The `created` of every answer: fixed, so that answers can be compared.
const CREATED: u64 = 1_700_000_000;

/// The completion's tokens, over and over. Two hold characters of more than one byte, so that a stream can be cut
/// inside one.
const WORDS: [&str; 24] = [
    "Hello",
    "from",
    "the",
    "simulated",
    "backend",
    "behind",
    "the",
    "gateway.",
    "Each",
    "word",
    "is",
    "one",
    "token",
    "–",
    "counted",
    "once,",
    "streamed",
    "as",
    "it",
    "is",
    "made,",
    "and",
    "naïvely",
    "repeated.",
];

/// Writes the text of token number `index`.
pub(crate) fn token(out: &mut String, index: u32) {
    if index > 0 {
        out.push(' ');
    }
    out.push_str(WORDS[index as usize % WORDS.len()]);
}

/// Text as a JSON string, with its quotes.
pub(crate) fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Writes a whole answer with a JSON body.
pub(crate) fn json(out: &mut Vec<u8>, status: u16, extra: &[(&str, &str)], body: &[u8], keep_alive: bool) {
    write::status_line(out, status);
    write::header(out, "server", b"obleth-sim-upstream");
    write::header(out, "content-type", b"application/json");
    write::header_u64(out, "content-length", body.len() as u64);
    for (name, value) in extra {
        write::header_bytes(out, name.as_bytes(), value.as_bytes());
    }
    if !keep_alive {
        write::header(out, "connection", b"close");
    }
    write::end_head(out);
    out.extend_from_slice(body);
}

/// Writes the head of a stream.
pub(crate) fn stream_head(out: &mut Vec<u8>, plan: &Plan, keep_alive: bool) {
    write::status_line(out, 200);
    write::header(out, "server", b"obleth-sim-upstream");
    write::header(out, "content-type", b"text/event-stream; charset=utf-8");
    write::header(out, "transfer-encoding", b"chunked");
    for (name, value) in plan_headers(plan) {
        write::header_bytes(out, name.as_bytes(), value.as_bytes());
    }
    if !keep_alive {
        write::header(out, "connection", b"close");
    }
    write::end_head(out);
}

/// The header lines a plan adds, as name and value.
pub(crate) fn plan_headers(plan: &Plan) -> impl Iterator<Item = (&str, &str)> {
    plan.headers
        .iter()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim(), value.trim()))
}

fn usage(prompt: u64, completion: u64) -> String {
    let total = prompt + completion;
    format!(r#"{{"prompt_tokens":{prompt},"total_tokens":{total},"completion_tokens":{completion}}}"#)
}

/// The last member of a JSON body, with its comma; nothing where usage stands nowhere.
fn usage_member(ask: &Ask, tokens: u64) -> String {
    if ask.tells_usage { format!(r#","usage":{}"#, usage(ask.prompt_tokens, tokens)) } else { String::new() }
}

/// The body of a chat or text completion. `text` is a JSON string with its quotes.
pub(crate) fn completion(ask: &Ask, model: &str, text: &str, tokens: u64, cut: bool) -> String {
    let (finish, usage) = (ask.shape.finish(cut), usage_member(ask, tokens));
    if ask.endpoint == Endpoint::Completion {
        return format!(
            r#"{{"id":"cmpl-sim","object":"text_completion","created":{CREATED},"model":{model},"choices":[{{"index":0,"text":{text},"logprobs":null,"finish_reason":"{finish}","stop_reason":null}}]{usage}}}"#
        );
    }
    let message = ask.shape.message(text);
    format!(
        r#"{{"id":"chatcmpl-sim","object":"chat.completion","created":{CREATED},"model":{model},"choices":[{{"index":0,"message":{message},"logprobs":null,"finish_reason":"{finish}","stop_reason":null}}]{usage}}}"#
    )
}

/// The body of an embedding: four numbers for each input, made from its length and place.
pub(crate) fn embedding(ask: &Ask, model: &str) -> String {
    let mut data = String::new();
    for (index, tokens) in ask.inputs.iter().enumerate() {
        let vector = [0.5, *tokens as f32, index as f32, -1.0];
        let comma = if index > 0 { "," } else { "" };
        let vector = if ask.base64 { format!("{:?}", base64(&vector)) } else { format!("{vector:?}") };
        let _ = write!(data, r#"{comma}{{"index":{index},"object":"embedding","embedding":{vector}}}"#);
    }
    let usage = usage_member(ask, 0);
    format!(
        r#"{{"id":"embd-sim","object":"list","created":{CREATED},"model":{model},"data":[{data}]{usage}}}"#
    )
}

/// Base64 (RFC 4648 §4) of the numbers' little-endian bytes.
fn base64(numbers: &[f32]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits =
            (0..3).fold(0_u32, |bits, at| bits << 8 | u32::from(group.get(at).copied().unwrap_or_default()));
        for place in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * place)) as usize & 0x3F];
            out.push(if place <= group.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

/// The page of `GET /v1/models`.
pub(crate) fn models<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let cards: Vec<String> = names
        .map(|name| {
            let name = json_string(name);
            format!(r#"{{"id":{name},"object":"model","created":{CREATED},"owned_by":"vllm","root":{name},"parent":null,"max_model_len":32768}}"#)
        })
        .collect();
    format!(r#"{{"object":"list","data":[{}]}}"#, cards.join(","))
}

/// The events of one stream. Each is written as one chunk.
pub(crate) struct Events<'a> {
    endpoint: Endpoint,
    answer: Shape,
    /// The event up to its choices.
    prefix: String,
    prompt_tokens: u64,
    shape: UsageShape,
    event: String,
    out: &'a mut Vec<u8>,
}

impl<'a> Events<'a> {
    /// Events for a request, written to `out`. `model` is a JSON string with its quotes.
    pub(crate) fn new(ask: &Ask, plan: &Plan, model: &str, out: &'a mut Vec<u8>) -> Self {
        let (id, object) = match ask.endpoint {
            Endpoint::Completion => ("cmpl-sim", "text_completion"),
            Endpoint::Chat | Endpoint::Embedding => ("chatcmpl-sim", "chat.completion.chunk"),
        };
        let shape = match plan.usage {
            _ if !ask.include_usage => UsageShape::None,
            UsageShape::None => UsageShape::None,
            _ if ask.continuous_usage => UsageShape::Every,
            shape => shape,
        };
        let prefix = format!(
            r#"data: {{"id":"{id}","object":"{object}","created":{CREATED},"model":{model},"choices":["#
        );
        Self {
            endpoint: ask.endpoint,
            answer: ask.shape.clone(),
            prefix,
            prompt_tokens: ask.prompt_tokens,
            shape,
            event: String::new(),
            out,
        }
    }

    /// The event that names the role; text completions have none.
    pub(crate) fn role(&mut self) -> Option<&[u8]> {
        if self.endpoint == Endpoint::Completion {
            return None;
        }
        let choice =
            r#"{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}"#;
        Some(self.choice(choice, 0, self.shape))
    }

    /// The event that names the tool that is called; only calls have one.
    pub(crate) fn announcement(&mut self) -> Option<&[u8]> {
        let delta = self.answer.announcement()?;
        let choice = format!(r#"{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":null}}"#);
        Some(self.choice(&choice, 0, self.shape))
    }

    /// The event of one token. `text` is what stands between the quotes; `made` counts this token too.
    pub(crate) fn token(&mut self, text: &str, made: u64) -> &[u8] {
        let choice = match self.endpoint {
            Endpoint::Completion => {
                format!(r#"{{"index":0,"text":"{text}","logprobs":null,"finish_reason":null}}"#)
            }
            Endpoint::Chat | Endpoint::Embedding => {
                let delta = self.answer.delta(text);
                format!(r#"{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":null}}"#)
            }
        };
        self.choice(&choice, made, self.shape)
    }

    /// The event with the finish reason.
    pub(crate) fn finish(&mut self, made: u64, cut: bool) -> &[u8] {
        let part = match self.endpoint {
            Endpoint::Completion => r#""text":"""#,
            Endpoint::Chat | Endpoint::Embedding => r#""delta":{"content":""}"#,
        };
        let finish = self.answer.finish(cut);
        let choice =
            format!(r#"{{"index":0,{part},"logprobs":null,"finish_reason":"{finish}","stop_reason":null}}"#);
        let shape = if self.shape == UsageShape::LastWithChoices { UsageShape::Every } else { self.shape };
        self.choice(&choice, made, shape)
    }

    /// The event that holds nothing but the usage, if there is one.
    pub(crate) fn usage(&mut self, made: u64) -> Option<&[u8]> {
        let has_one = matches!(self.shape, UsageShape::Final | UsageShape::FinalOnly | UsageShape::Every);
        has_one.then(|| self.choice("", made, UsageShape::Every))
    }

    /// A comment: nothing to a client, but a sign of life.
    pub(crate) fn comment(&mut self) -> &[u8] {
        self.out.clear();
        write::chunk(self.out, b": ping\n\n");
        self.out
    }

    /// The end of the stream: `[DONE]` and the last chunk, in one write.
    pub(crate) fn done(&mut self) -> &[u8] {
        self.out.clear();
        write::chunk(self.out, b"data: [DONE]\n\n");
        self.out.extend_from_slice(write::LAST_CHUNK);
        self.out
    }

    fn choice(&mut self, choice: &str, made: u64, shape: UsageShape) -> &[u8] {
        self.event.clear();
        self.event.push_str(&self.prefix);
        self.event.push_str(choice);
        self.event.push(']');
        match shape {
            UsageShape::Every => {
                self.event.push_str(r#","usage":"#);
                self.event.push_str(&usage(self.prompt_tokens, made));
            }
            UsageShape::Final | UsageShape::LastWithChoices => self.event.push_str(r#","usage":null"#),
            UsageShape::FinalOnly | UsageShape::None => {}
        }
        self.event.push_str("}\n\n");
        self.out.clear();
        write::chunk(self.out, self.event.as_bytes());
        self.out
    }
}

/// An error body in vLLM's shape, with the status as its code.
pub(crate) fn error(status: u16, kind: &str, message: &str) -> String {
    let message = json_string(message);
    format!(r#"{{"error":{{"message":{message},"type":"{kind}","param":null,"code":{status}}}}}"#)
}

/// The error body for a status fault. Some name places of the machine, as real ones do, so that a test can see
/// whether the gateway lets them through.
pub(crate) fn fault_body(status: u16, model: &str) -> String {
    match status {
        400 => error(
            400,
            "BadRequestError",
            "This model's maximum context length is 4096 tokens; see http://10.1.2.3:8000/docs#limits for the others.",
        ),
        401 => r#"{"error":"Unauthorized"}"#.to_owned(),
        404 => error(404, "NotFoundError", &format!("The model {model} does not exist.")),
        422 => {
            r#"{"detail":[{"type":"missing","loc":["body","messages"],"msg":"Field required","input":{}}]}"#
                .to_owned()
        }
        429 => error(429, "rate_limit_error", "Too many requests."),
        503 => error(503, "ServiceUnavailableError", "The engine is overloaded."),
        status => error(
            status,
            "InternalServerError",
            "EngineDeadError in /usr/lib/python3/vllm/engine.py on gpu-node-7",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_what_the_sdks_decode() {
        assert_eq!(base64(&[]), "");
        assert_eq!(base64(&[1.0]), "AACAPw==");
        assert_eq!(base64(&[0.5, -1.0]), "AAAAPwAAgL8=");
        assert_eq!(base64(&[1.0, 2.0, 3.0]), "AACAPwAAAEAAAEBA");
    }

    #[test]
    fn every_body_is_json() {
        let ask =
            Ask::read(Endpoint::Embedding, br#"{"input":["a","b c"],"encoding_format":"base64"}"#).unwrap();
        let mut bodies: Vec<String> =
            [400, 401, 404, 422, 429, 500, 503].map(|status| fault_body(status, "\"m\"")).into();
        bodies.push(embedding(&ask, "\"m\""));
        bodies.push(embedding(&Ask { base64: false, ..ask.clone() }, "\"m\""));
        for endpoint in [Endpoint::Chat, Endpoint::Completion] {
            for tells_usage in [true, false] {
                let ask = Ask { endpoint, tells_usage, ..ask.clone() };
                bodies.push(completion(&ask, "\"m\"", "\"t\"", 1, false));
            }
        }
        bodies.push(models(["a", "b\"c"].into_iter()));
        for body in bodies {
            let read: Result<serde_json::Value, _> = serde_json::from_str(&body);
            assert!(read.is_ok(), "{body}");
        }
    }
}
