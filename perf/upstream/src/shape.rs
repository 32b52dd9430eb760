//! What a chat answer is made of: prose, one JSON object, or the call of a tool.
//!
//! A model would decide; this backend does what the request makes possible. The tokens are the same in every shape:
//! an opening rides on the first one and a closing on the last, so that counts stay countable by hand. It must never
//! close what the caller's limit cut off: half an object is what a client gets then.

use serde::Deserialize;

use crate::answer;

/// The shape of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Prose,
    /// `{"text": "…"}`, for a `response_format` that asks for JSON, whatever its schema.
    Object,
    /// A call of the tool with this name, its arguments `{"text": "…"}`.
    Call(String),
}

#[derive(Deserialize)]
pub(crate) struct Tool {
    function: Function,
}

#[derive(Deserialize)]
struct Function {
    name: String,
}

/// `"none"`, `"auto"`, `"required"`, or the tool to call.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum ToolChoice {
    Mode(String),
    Named(Tool),
}

#[derive(Deserialize)]
pub(crate) struct ResponseFormat {
    r#type: String,
}

/// The members of a request body that decide.
pub(crate) struct Wishes {
    pub(crate) tools: Option<Vec<Tool>>,
    pub(crate) choice: Option<ToolChoice>,
    pub(crate) format: Option<ResponseFormat>,
}

impl Wishes {
    /// The shape of the answer. The first tool is called unless the request names one or has a tool's result already.
    pub(crate) fn shape(self, has_result: bool) -> Shape {
        let called = match self.choice {
            Some(ToolChoice::Named(tool)) => Some(tool),
            Some(ToolChoice::Mode(mode)) if mode == "none" => None,
            _ if has_result => None,
            _ => self.tools.and_then(|tools| tools.into_iter().next()),
        };
        match (called, self.format) {
            (Some(tool), _) => Shape::Call(tool.function.name),
            (None, Some(format)) if format.r#type != "text" => Shape::Object,
            (None, _) => Shape::Prose,
        }
    }
}

impl Shape {
    /// Writes token number `index` as it stands inside a JSON string. `last`: nothing of the answer follows it.
    pub(crate) fn token(&self, out: &mut String, index: u32, last: bool) {
        let (opening, closing) = match self {
            Self::Prose => ("", ""),
            Self::Object | Self::Call(_) => (r#"{\"text\": \""#, r#"\"}"#),
        };
        if index == 0 {
            out.push_str(opening);
        }
        answer::token(out, index);
        if last {
            out.push_str(closing);
        }
    }

    /// The finish reason.
    pub(crate) fn finish(&self, cut: bool) -> &'static str {
        match self {
            _ if cut => "length",
            Self::Call(_) => "tool_calls",
            Self::Prose | Self::Object => "stop",
        }
    }

    /// The message of a whole answer. `text` is a JSON string with its quotes.
    pub(crate) fn message(&self, text: &str) -> String {
        let Self::Call(name) = self else {
            return format!(r#"{{"role":"assistant","content":{text}}}"#);
        };
        let name = answer::json_string(name);
        format!(
            r#"{{"role":"assistant","content":null,"tool_calls":[{{"id":"chatcmpl-tool-sim","type":"function","function":{{"name":{name},"arguments":{text}}}}}]}}"#
        )
    }

    /// The delta that comes before the tokens, besides the role's.
    pub(crate) fn announcement(&self) -> Option<String> {
        let Self::Call(name) = self else { return None };
        let name = answer::json_string(name);
        Some(format!(
            r#"{{"tool_calls":[{{"id":"chatcmpl-tool-sim","type":"function","index":0,"function":{{"name":{name}}}}}]}}"#
        ))
    }

    /// The delta of one token. `text` is what stands between the quotes.
    pub(crate) fn delta(&self, text: &str) -> String {
        match self {
            Self::Prose | Self::Object => format!(r#"{{"content":"{text}"}}"#),
            Self::Call(_) => {
                format!(r#"{{"tool_calls":[{{"index":0,"function":{{"arguments":"{text}"}}}}]}}"#)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ask::{Ask, Endpoint};

    fn shape(body: &str, has_result: bool) -> Shape {
        let role = if has_result { "tool" } else { "user" };
        let body = format!(r#"{{"messages":[{{"role":"user"}},{{"role":"{role}"}}],{body}}}"#);
        Ask::read(Endpoint::Chat, body.as_bytes()).unwrap().shape
    }

    #[test]
    fn a_tool_is_called_if_there_is_one_to_call_and_no_result_yet() {
        let tools = r#""tools":[{"type":"function","function":{"name":"a"}},{"type":"function","function":{"name":"b"}}]"#;
        let call = |name: &str| Shape::Call(name.to_owned());
        assert_eq!(shape(tools, false), call("a"));
        assert_eq!(shape(tools, true), Shape::Prose);
        assert_eq!(shape(&format!(r#"{tools},"tool_choice":"none""#), false), Shape::Prose);
        assert_eq!(shape(&format!(r#"{tools},"tool_choice":"required""#), false), call("a"));
        let named = r#""tool_choice":{"type":"function","function":{"name":"b"}}"#;
        assert_eq!(shape(&format!("{tools},{named}"), true), call("b"));
        assert_eq!(shape(r#""tools":[]"#, false), Shape::Prose);
    }

    #[test]
    fn a_format_that_is_not_text_is_answered_with_an_object() {
        assert_eq!(shape(r#""response_format":{"type":"json_object"}"#, false), Shape::Object);
        assert_eq!(
            shape(r#""response_format":{"type":"json_schema","json_schema":{}}"#, true),
            Shape::Object
        );
        assert_eq!(shape(r#""response_format":{"type":"text"}"#, false), Shape::Prose);
    }

    #[test]
    fn tokens_of_an_object_make_an_object_unless_the_last_is_missing() {
        let whole = |tokens: u32, cut: bool| {
            let mut text = String::from("\"");
            (0..tokens).for_each(|at| Shape::Object.token(&mut text, at, at + 1 == tokens && !cut));
            text.push('"');
            serde_json::from_str::<String>(&text).unwrap()
        };
        assert_eq!(whole(2, false), r#"{"text": "Hello from"}"#);
        assert_eq!(whole(1, false), r#"{"text": "Hello"}"#);
        assert_eq!(whole(2, true), r#"{"text": "Hello from"#);
    }
}
