//! Gate 6: the few top-level fields of a request body that the gateway reads, or why it cannot.
//!
//! It exists to judge a body once, in place, before anything is spent on it. It must never guess: a field that is read
//! here and stands there twice, or holds something a backend could read differently, is refused.

use std::{borrow::Cow, ops::Range};

use crate::json::{self, Cut, JsonError, Kind, Member};

/// Which endpoint's body it is; it decides which fields are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `POST /v1/chat/completions`
    Chat,
    /// `POST /v1/completions`
    Completions,
    /// `POST /v1/embeddings`: nothing of it streams and it has no output limit, so only `model` and `priority` are read.
    Embeddings,
}

/// The fields that the gateway reads. Values and private spans refer to the scanned body.
#[derive(Clone, Debug)]
pub struct RequestFields<'b> {
    /// The model as the client named it, never empty. Owned only if it was written with escapes.
    pub model: Cow<'b, str>,
    /// Whether the client asked for a stream.
    pub stream: bool,
    /// Whether the client asked for usage in its stream; always false where `stream` is.
    pub include_usage: bool,
    /// Whether the client asked for running counts, too (vLLM's `continuous_usage_stats`); never without the former.
    pub continuous_usage: bool,
    /// `max_tokens`, if it is there.
    pub max_tokens: Option<OutputLimit>,
    /// `max_completion_tokens`, if it is there.
    pub max_completion_tokens: Option<OutputLimit>,
    /// How many completions the backend is asked to generate, 1 or more; the output limit holds for each of them.
    pub choices: u64,
    /// The value of `model`.
    pub(super) model_value: Range<usize>,
    pub(super) stream_options: StreamOptions,
    /// The member `priority` with its comma.
    pub(super) priority: Option<Cut>,
}

/// A limit on the answer, as the client wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputLimit {
    /// In output tokens; `None` for `null`.
    pub tokens: Option<u64>,
    /// The value's place in the body.
    pub(super) value: Range<usize>,
}

impl RequestFields<'_> {
    /// The most tokens that the client lets the answer have, if it says so.
    pub fn output_limit(&self) -> Option<u64> {
        [&self.max_tokens, &self.max_completion_tokens]
            .into_iter()
            .flatten()
            .filter_map(|limit| limit.tokens)
            .min()
    }

    /// Whether the client set `priority`, which only the gateway may set.
    pub fn has_priority(&self) -> bool {
        self.priority.is_some()
    }
}

/// What stands for `stream_options`, as far as asking for usage has to know.
#[derive(Clone, Debug, Default)]
pub(super) enum StreamOptions {
    #[default]
    Absent,
    /// `null`, at this range.
    Null(Range<usize>),
    Object {
        /// Offset after its `{`.
        open: usize,
        empty: bool,
        include_usage: Option<Asked>,
        continuous_usage: Option<Asked>,
    },
}

/// A boolean member of `stream_options`.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// Where its value stands.
    pub(super) value: Range<usize>,
    pub(super) yes: bool,
}

impl StreamOptions {
    /// Whether usage is asked for, and whether running counts are.
    fn asked(&self) -> (bool, bool) {
        let yes = |member: &Option<Asked>| member.as_ref().is_some_and(|asked| asked.yes);
        match self {
            Self::Object { include_usage, continuous_usage, .. } => {
                (yes(include_usage), yes(include_usage) && yes(continuous_usage))
            }
            Self::Absent | Self::Null(_) => (false, false),
        }
    }
}

/// Why a body is refused; `Display` is the message for the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyFault {
    /// Code `invalid_json`.
    #[error("The request body is not acceptable JSON: {message}.")]
    InvalidJson {
        /// What is wrong and where.
        message: Cow<'static, str>,
    },
    /// Code `missing_model`.
    #[error("The request names no model: `model` must be a non-empty string.")]
    MissingModel,
    /// Code `invalid_parameter`.
    #[error("`{param}` {message}.")]
    InvalidParameter {
        /// The member's name, for `error.param`.
        param: &'static str,
        /// What the value must be, to be read after the name.
        message: &'static str,
    },
}

impl From<JsonError> for BodyFault {
    fn from(error: JsonError) -> Self {
        Self::InvalidJson { message: Cow::Owned(error.to_string()) }
    }
}

const INCLUDE_USAGE: &str = "stream_options.include_usage";
const CONTINUOUS_USAGE: &str = "stream_options.continuous_usage_stats";
const BOOLEAN: &str = "must be true, false or null";
const COUNT: &str = "must be a whole number of tokens, 0 or more, or null";
const CHOICES: &str = "must be a whole number, 1 or more, or null";

/// Everything read so far. The outer `Option`s say whether the member was there, which is how duplicates are found.
#[derive(Default)]
struct Reading<'b> {
    model: Option<Member<'b>>,
    /// A member that some backends take for `model`, because they ignore case.
    model_in_other_case: bool,
    stream: Option<Member<'b>>,
    stream_options: Option<Member<'b>>,
    max_tokens: Option<Member<'b>>,
    max_completion_tokens: Option<Member<'b>>,
    n: Option<Member<'b>>,
    /// Of completions only, as is `prompt`.
    best_of: Option<Member<'b>>,
    prompt: Option<Member<'b>>,
    priority: Option<Cut>,
}

impl<'b> Reading<'b> {
    fn take(&mut self, member: Member<'b>, dialect: Dialect) -> Result<(), JsonError> {
        if let Some(cut) = &mut self.priority {
            cut.follow(&member);
        }
        if member.is("priority") {
            return once(&mut self.priority, Cut::of(&member), "priority");
        }
        if member.is("model") {
            return once(&mut self.model, member, "model");
        }
        self.model_in_other_case |= member.is_in_any_case("model");
        if dialect == Dialect::Embeddings {
            return Ok(());
        }
        if member.is("stream") {
            once(&mut self.stream, member, "stream")
        } else if member.is("stream_options") {
            once(&mut self.stream_options, member, "stream_options")
        } else if member.is("max_tokens") {
            once(&mut self.max_tokens, member, "max_tokens")
        } else if member.is("max_completion_tokens") {
            once(&mut self.max_completion_tokens, member, "max_completion_tokens")
        } else if member.is("n") {
            once(&mut self.n, member, "n")
        } else if dialect == Dialect::Completions {
            self.take_of_completions(member)
        } else {
            Ok(())
        }
    }

    fn take_of_completions(&mut self, member: Member<'b>) -> Result<(), JsonError> {
        if member.is("best_of") {
            once(&mut self.best_of, member, "best_of")
        } else if member.is("prompt") {
            once(&mut self.prompt, member, "prompt")
        } else {
            Ok(())
        }
    }
}

fn once<T>(slot: &mut Option<T>, value: T, name: &'static str) -> Result<(), JsonError> {
    if slot.is_some() {
        return Err(JsonError::Duplicate(name));
    }
    *slot = Some(value);
    Ok(())
}

/// Reads the fields of a whole request body, in one pass without a copy.
///
/// The body must be one strict JSON object; the first fault found is returned, faults of the JSON before faults of a
/// field, and a missing model before other fields.
pub fn scan_request<'b>(body: &'b [u8], dialect: Dialect) -> Result<RequestFields<'b>, BodyFault> {
    let mut reading = Reading::default();
    json::members(body, |member| reading.take(member, dialect))?;
    if reading.model.is_some() && reading.model_in_other_case {
        return Err(JsonError::Duplicate("model").into());
    }
    let (model, model_value) = model(reading.model)?;
    let stream = boolean("stream", reading.stream)?.unwrap_or(false);
    let stream_options = reading.stream_options.map(stream_options).transpose()?.unwrap_or_default();
    let (include_usage, continuous_usage) = stream_options.asked();
    let of_each_prompt = choices("n", reading.n)?.max(choices("best_of", reading.best_of)?);
    Ok(RequestFields {
        model,
        stream,
        include_usage: stream && include_usage,
        continuous_usage: stream && continuous_usage,
        max_tokens: count("max_tokens", reading.max_tokens)?,
        max_completion_tokens: count("max_completion_tokens", reading.max_completion_tokens)?,
        choices: of_each_prompt.saturating_mul(prompts(reading.prompt)),
        model_value,
        stream_options,
        priority: reading.priority,
    })
}

fn model(member: Option<Member<'_>>) -> Result<(Cow<'_, str>, Range<usize>), BodyFault> {
    let member = member.filter(|member| member.kind != Kind::Null).ok_or(BodyFault::MissingModel)?;
    let refused =
        BodyFault::InvalidParameter { param: "model", message: "must be a string of valid characters" };
    let name = member.text().ok_or(refused)?;
    if name.is_empty() {
        return Err(BodyFault::MissingModel);
    }
    Ok((name, member.value))
}

/// A boolean; `None` where the member is absent or null.
fn boolean(param: &'static str, member: Option<Member<'_>>) -> Result<Option<bool>, BodyFault> {
    let Some(member) = member.filter(|member| member.kind != Kind::Null) else { return Ok(None) };
    let refused = BodyFault::InvalidParameter { param, message: BOOLEAN };
    json::parse_bool(member.raw()).map(Some).ok_or(refused)
}

/// A number of tokens; `None` where the member is absent.
fn count(param: &'static str, member: Option<Member<'_>>) -> Result<Option<OutputLimit>, BodyFault> {
    let Some(member) = member else { return Ok(None) };
    let refused = BodyFault::InvalidParameter { param, message: COUNT };
    let tokens = match member.kind {
        Kind::Null => None,
        _ => Some(json::parse_u64(member.raw()).ok_or(refused)?),
    };
    Ok(Some(OutputLimit { tokens, value: member.value }))
}

/// How many completions of each prompt the member asks for; 1 where it is absent or null.
fn choices(param: &'static str, member: Option<Member<'_>>) -> Result<u64, BodyFault> {
    let Some(member) = member.filter(|member| member.kind != Kind::Null) else { return Ok(1) };
    let refused = BodyFault::InvalidParameter { param, message: CHOICES };
    json::parse_u64(member.raw()).filter(|&count| count > 0).ok_or(refused)
}

/// How many prompts the value of `prompt` may be, 1 or more. An array of numbers alone is one prompt in token ids. Any
/// other array counts in full: backends read a mixed one differently, and the most it can come to is wanted.
fn prompts(member: Option<Member<'_>>) -> u64 {
    let (mut count, mut is_token_ids) = (0_u64, true);
    for kind in member.iter().flat_map(Member::elements) {
        count = count.saturating_add(1);
        is_token_ids &= kind == Kind::Number;
    }
    if is_token_ids { 1 } else { count }
}

fn stream_options(member: Member<'_>) -> Result<StreamOptions, BodyFault> {
    match member.kind {
        Kind::Null => return Ok(StreamOptions::Null(member.value)),
        Kind::Object => {}
        _ => {
            let message = "must be an object or null";
            return Err(BodyFault::InvalidParameter { param: "stream_options", message });
        }
    }
    let base = member.value.start;
    let (mut include_usage, mut continuous_usage) = (None, None);
    let shape = json::members(member.raw().as_bytes(), |inner| {
        if inner.is("include_usage") {
            return once(&mut include_usage, inner, INCLUDE_USAGE);
        }
        if inner.is("continuous_usage_stats") {
            return once(&mut continuous_usage, inner, CONTINUOUS_USAGE);
        }
        Ok(())
    })?;
    let asked = |member: Option<Member<'_>>, param| {
        let Some(found) = member else { return Ok(None) };
        let value = base.saturating_add(found.value.start)..base.saturating_add(found.value.end);
        let yes = boolean(param, Some(found))?.unwrap_or(false);
        Ok::<_, BodyFault>(Some(Asked { value, yes }))
    };
    Ok(StreamOptions::Object {
        open: base.saturating_add(shape.open),
        empty: shape.members == 0,
        include_usage: asked(include_usage, INCLUDE_USAGE)?,
        continuous_usage: asked(continuous_usage, CONTINUOUS_USAGE)?,
    })
}
