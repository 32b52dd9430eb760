//! What a request body asks for, as far as it changes the answer.
//!
//! A prompt's tokens are its words between white space: of all message contents, of the prompt, of the input; a
//! prompt that is given as token numbers has as many as there are. So a test can count them by hand.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;

use crate::shape::{ResponseFormat, Shape, Tool, ToolChoice, Wishes};

/// The endpoints that generate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Chat,
    Completion,
    Embedding,
}

/// A request body, read.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) endpoint: Endpoint,
    /// None if the body names no model.
    pub(crate) model: Option<String>,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    pub(crate) continuous_usage: bool,
    /// Whether a JSON answer says what it used; the caller has no say in it.
    pub(crate) tells_usage: bool,
    pub(crate) prompt_tokens: u64,
    /// The caller's limit.
    pub(crate) max_tokens: Option<u32>,
    /// The length the caller wants the completion to have, in place of the option.
    pub(crate) sim_tokens: Option<u32>,
    /// What the answer is made of.
    pub(crate) shape: Shape,
    /// Tokens of each input to embed.
    pub(crate) inputs: Vec<u64>,
    /// Embeddings as base64 of little-endian floats, as the SDKs ask for them.
    pub(crate) base64: bool,
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    model: Option<Cow<'a, str>>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    sim_tokens: Option<u32>,
    messages: Option<Vec<Message>>,
    prompt: Option<Value>,
    input: Option<Value>,
    #[serde(borrow)]
    encoding_format: Option<Cow<'a, str>>,
    tools: Option<Vec<Tool>>,
    tool_choice: Option<ToolChoice>,
    response_format: Option<ResponseFormat>,
}

#[derive(Deserialize)]
struct Message {
    role: Option<String>,
    content: Option<Value>,
}

#[derive(Deserialize, Default)]
struct StreamOptions {
    include_usage: Option<bool>,
    continuous_usage_stats: Option<bool>,
}

impl Ask {
    /// Reads a body.
    ///
    /// # Errors
    /// A message for the caller, as a validating server words it.
    pub(crate) fn read(endpoint: Endpoint, body: &[u8]) -> Result<Self, String> {
        let body: Body<'_> = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        let max_tokens = body.max_completion_tokens.or(body.max_tokens);
        if max_tokens == Some(0) {
            return Err("max_tokens must be at least 1, got 0.".to_owned());
        }
        let missing = |field: &str| format!("Field required: {field}");
        let mut inputs = Vec::new();
        let mut shape = Shape::Prose;
        let prompt_tokens = match endpoint {
            Endpoint::Chat => {
                let messages = body.messages.ok_or_else(|| missing("messages"))?;
                let has_result = messages.last().is_some_and(|last| last.role.as_deref() == Some("tool"));
                let (tools, choice, format) = (body.tools, body.tool_choice, body.response_format);
                shape = Wishes { tools, choice, format }.shape(has_result);
                messages.iter().filter_map(|message| message.content.as_ref()).map(tokens).sum()
            }
            Endpoint::Completion => tokens(&body.prompt.ok_or_else(|| missing("prompt"))?),
            Endpoint::Embedding => {
                inputs = inputs_of(&body.input.ok_or_else(|| missing("input"))?);
                inputs.iter().sum()
            }
        };
        let stream_options = body.stream_options.unwrap_or_default();
        Ok(Self {
            endpoint,
            model: body.model.map(Cow::into_owned),
            stream: body.stream.unwrap_or(false) && endpoint != Endpoint::Embedding,
            include_usage: stream_options.include_usage.unwrap_or(false),
            continuous_usage: stream_options.continuous_usage_stats.unwrap_or(false),
            tells_usage: true,
            prompt_tokens,
            max_tokens,
            sim_tokens: body.sim_tokens,
            shape,
            inputs,
            base64: body.encoding_format.as_deref() == Some("base64"),
        })
    }

    /// How many tokens the completion has, and whether the caller's limit cut it.
    pub(crate) fn length(&self, default: u32) -> (u32, bool) {
        let wanted = match self.endpoint {
            Endpoint::Embedding => 0,
            Endpoint::Chat | Endpoint::Completion => self.sim_tokens.unwrap_or(default),
        };
        match self.max_tokens {
            Some(limit) if limit < wanted => (limit, true),
            _ => (wanted, false),
        }
    }
}

/// Tokens of a content, a prompt or an input, whatever its shape.
fn tokens(value: &Value) -> u64 {
    match value {
        Value::String(text) => text.split_whitespace().count() as u64,
        Value::Number(_) => 1,
        Value::Array(parts) => parts.iter().map(tokens).sum(),
        Value::Object(part) => part.get("text").map_or(0, tokens),
        Value::Null | Value::Bool(_) => 0,
    }
}

/// The tokens of each thing to embed: an array of numbers is one thing, any other array is several.
fn inputs_of(input: &Value) -> Vec<u64> {
    match input {
        Value::Array(parts) if !parts.iter().all(Value::is_number) => parts.iter().map(tokens).collect(),
        one => vec![tokens(one)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt_tokens(endpoint: Endpoint, body: &str) -> u64 {
        Ask::read(endpoint, body.as_bytes()).unwrap().prompt_tokens
    }

    #[test]
    fn prompt_tokens_are_words_of_contents_prompts_and_inputs() {
        let chat = r#"{"messages":[{"role":"system","content":"be  brief"},{"role":"user","content":[
            {"type":"text","text":"what is\nthis"},{"type":"image_url","image_url":{"url":"a b c"}}]},{"role":"assistant","content":null}]}"#;
        assert_eq!(prompt_tokens(Endpoint::Chat, chat), 5);
        assert_eq!(prompt_tokens(Endpoint::Completion, r#"{"prompt":["a b","c"]}"#), 3);
        assert_eq!(prompt_tokens(Endpoint::Completion, r#"{"prompt":[1,2,3]}"#), 3);
        assert_eq!(prompt_tokens(Endpoint::Embedding, r#"{"input":"a b c"}"#), 3);
        let several = Ask::read(Endpoint::Embedding, br#"{"input":["a b","c"]}"#).unwrap();
        assert_eq!(several.inputs, [2, 1]);
    }

    #[test]
    fn the_callers_limit_cuts_the_completion_and_never_lengthens_it() {
        let length = |body: &str| Ask::read(Endpoint::Completion, body.as_bytes()).unwrap().length(16);
        assert_eq!(length(r#"{"prompt":"a"}"#), (16, false));
        assert_eq!(length(r#"{"prompt":"a","max_tokens":3}"#), (3, true));
        assert_eq!(length(r#"{"prompt":"a","max_tokens":100}"#), (16, false));
        assert_eq!(length(r#"{"prompt":"a","max_tokens":100,"sim_tokens":40}"#), (40, false));
        assert_eq!(
            length(r#"{"prompt":"a","max_completion_tokens":5,"max_tokens":100,"sim_tokens":40}"#),
            (5, true)
        );
    }

    #[test]
    fn what_a_validating_server_refuses_is_refused() {
        for body in [
            "",
            "[]",
            "{}",
            r#"{"messages":"x"}"#,
            r#"{"messages":[],"max_tokens":0}"#,
            r#"{"messages":[],"max_tokens":-1}"#,
        ] {
            assert!(Ask::read(Endpoint::Chat, body.as_bytes()).is_err(), "{body}");
        }
    }
}
