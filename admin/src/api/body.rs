//! Bodies of requests: read whole within limits, as JSON whatever the content type says, member by member.
//!
//! Every member is asked for by name and leaves the object; what is left at the end is unknown, and refused by
//! name. A member that is absent, one that is null and one with a value are three different things.

use std::{borrow::Cow, future::poll_fn, ops::RangeInclusive, pin::pin, time::Duration};

use axum::{
    body::{Body, HttpBody},
    extract::{FromRequest, Request},
    http::header,
};
use obleth_policy::{
    network::{BadCidr, Cidr},
    snapshot::Secret,
    unit::UnixMs,
};
use serde_json::{Map, Value};
use tokio::time::timeout;

use super::error::ApiError;
use crate::clock;

/// Largest body that is read.
const MAX_BODY: usize = 1024 * 1024;
/// Time for a body to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// What is read of a refused body, so that the client gets to see the refusal and not a reset.
const DISCARD: (usize, Duration) = (16 * 1024 * 1024, Duration::from_secs(2));
/// Entries of one list of names.
const MAX_NAMES: usize = 1000;
/// Entries of one list of addresses: each request of the key may be compared with all of them.
const MAX_NETWORKS: usize = 256;
/// Longest name of a model; of other things it is [`NAME_CHARS`].
const MODEL_NAME_CHARS: usize = 256;
const NAME_CHARS: usize = 128;
/// Longest credential of a backend.
const CREDENTIAL_BYTES: usize = 4096;

/// The members of a JSON object that nobody has asked for yet.
#[derive(Debug)]
pub(crate) struct Fields {
    left: Map<String, Value>,
    /// What was asked for, so that who mistypes is told.
    known: Vec<String>,
    /// What stands in front of a member's name in messages: `timeouts.`
    prefix: Cow<'static, str>,
}

impl FromRequest<super::App> for Fields {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &super::App) -> Result<Self, ApiError> {
        let bytes = read(request.into_body()).await?;
        Self::parse(&bytes)
    }
}

/// The same where nothing has to be said: no body is an object without members.
#[derive(Debug)]
pub(crate) struct MaybeFields(pub(crate) Fields);

impl FromRequest<super::App> for MaybeFields {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &super::App) -> Result<Self, ApiError> {
        let bytes = read(request.into_body()).await?;
        Fields::parse(if bytes.is_empty() { b"{}" } else { &bytes }).map(Self)
    }
}

impl Fields {
    fn parse(bytes: &[u8]) -> Result<Self, ApiError> {
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(left)) => Ok(Self { left, known: Vec::new(), prefix: Cow::Borrowed("") }),
            Ok(_) => Err(ApiError::invalid_json("The body is not a JSON object.")),
            Err(_) if bytes.trim_ascii().is_empty() => Err(ApiError::invalid_json("The body is empty.")),
            Err(error) => Err(ApiError::invalid_json(format!("The body is not valid JSON: {error}."))),
        }
    }

    /// Refuses what nobody asked for.
    pub(crate) fn finish(self) -> Result<(), ApiError> {
        match self.left.keys().next() {
            None => Ok(()),
            Some(unknown) => {
                let name: String = unknown.chars().take(NAME_CHARS).collect();
                let name = format!("{}{name}", self.prefix);
                let known: Vec<String> = self.known.iter().map(|name| format!("`{name}`")).collect();
                let message = format!("There is no member `{name}` here; there are {}.", known.join(", "));
                Err(ApiError::invalid(name, message))
            }
        }
    }

    /// Where a member stands in the whole body, for messages: `timeouts.idle_ms`.
    pub(crate) fn path_of(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Refuses a member that this version does not have yet, whatever its value.
    pub(crate) fn not_yet(&mut self, name: &str) -> Result<(), ApiError> {
        match self.left.remove(name) {
            None => Ok(()),
            Some(_) => Err(self.wrong(name, "is not in this version; leave it out")),
        }
    }

    fn wrong(&self, name: &str, what: &str) -> ApiError {
        let name = self.path_of(name);
        let message = format!("`{name}` {what}.");
        ApiError::invalid(name, message)
    }

    /// A member that must be there.
    pub(crate) fn required<T>(&self, name: &str, value: Option<T>) -> Result<T, ApiError> {
        value.ok_or_else(|| self.wrong(name, "is missing"))
    }

    /// `null` where a value is needed.
    fn not_null<T>(&self, name: &str, value: Option<Option<T>>) -> Result<Option<T>, ApiError> {
        match value {
            Some(None) => Err(self.wrong(name, "must not be null")),
            Some(value) => Ok(value),
            None => Ok(None),
        }
    }

    /// A member that may be absent or null; `read` says what is wrong with any other value.
    fn maybe<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(Value) -> Result<T, String>,
    ) -> Result<Option<Option<T>>, ApiError> {
        if !self.known.iter().any(|known| known == name) {
            self.known.push(name.to_owned());
        }
        match self.left.remove(name) {
            None => Ok(None),
            Some(Value::Null) => Ok(Some(None)),
            Some(value) => read(value).map(|value| Some(Some(value))).map_err(|what| self.wrong(name, &what)),
        }
    }

    /// A whole number within `range`, or null.
    pub(crate) fn maybe_number<N: TryFrom<i64>>(
        &mut self,
        name: &str,
        range: RangeInclusive<i64>,
    ) -> Result<Option<Option<N>>, ApiError> {
        let what = || format!("must be a whole number from {} to {}", range.start(), range.end());
        self.maybe(name, |value| {
            let number = value.as_i64().filter(|number| range.contains(number));
            number.and_then(|number| N::try_from(number).ok()).ok_or_else(what)
        })
    }

    /// A whole number within `range`.
    pub(crate) fn number<N: TryFrom<i64>>(
        &mut self,
        name: &str,
        range: RangeInclusive<i64>,
    ) -> Result<Option<N>, ApiError> {
        let value = self.maybe_number(name, range)?;
        self.not_null(name, value)
    }

    /// A truth value.
    pub(crate) fn flag(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        let value =
            self.maybe(name, |value| value.as_bool().ok_or_else(|| "must be true or false".to_owned()))?;
        self.not_null(name, value)
    }

    /// A number within `range`, or null, in thousandths. `range` is in whole ones.
    pub(crate) fn maybe_thousandths(
        &mut self,
        name: &str,
        range: RangeInclusive<u32>,
    ) -> Result<Option<Option<u32>>, ApiError> {
        let (least, most) = (range.start() * 1000, range.end() * 1000);
        let what = || {
            let (start, end) = (range.start(), range.end());
            format!("must be a number from {start} to {end} with at most three decimals")
        };
        self.maybe(name, |value| {
            let milli = value.as_f64().map(|number| number * 1000.0);
            let within = milli.filter(|milli| (f64::from(least)..=f64::from(most)).contains(milli));
            // A decimal fraction is seldom exact in binary; a fourth decimal is at least a tenth away from whole.
            let whole = within.filter(|milli| (milli - milli.round()).abs() < 1e-3);
            // In range and whole, so that nothing is cut off.
            whole.map(|milli| milli.round() as u32).ok_or_else(what)
        })
    }

    /// Any text, or null.
    pub(crate) fn maybe_text(&mut self, name: &str) -> Result<Option<Option<String>>, ApiError> {
        self.maybe(name, text)
    }

    /// Any text.
    pub(crate) fn text(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        let value = self.maybe_text(name)?;
        self.not_null(name, value)
    }

    /// A name for people: up to 128 characters.
    pub(crate) fn name(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        let value = self.maybe(name, |value| named(text(value)?, NAME_CHARS))?;
        self.not_null(name, value)
    }

    /// A model's name, or null.
    pub(crate) fn maybe_model_name(&mut self, name: &str) -> Result<Option<Option<String>>, ApiError> {
        self.maybe(name, |value| named(text(value)?, MODEL_NAME_CHARS))
    }

    /// A model's name.
    pub(crate) fn model_name(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        let value = self.maybe_model_name(name)?;
        self.not_null(name, value)
    }

    /// A list of models' names, or null. What stands there twice is kept once.
    pub(crate) fn maybe_model_names(&mut self, name: &str) -> Result<Option<Option<Vec<String>>>, ApiError> {
        self.maybe(name, |value| {
            let Value::Array(values) = value else { return Err("must be a list of model names".to_owned()) };
            if values.len() > MAX_NAMES {
                return Err(format!("must not have more than {MAX_NAMES} entries"));
            }
            let mut names: Vec<String> = Vec::with_capacity(values.len());
            for value in values {
                let entry = text(value).and_then(|entry| named(entry, MODEL_NAME_CHARS));
                let entry = entry.map_err(|what| format!("has an entry that {what}"))?;
                if !names.contains(&entry) {
                    names.push(entry);
                }
            }
            Ok(names)
        })
    }

    /// A list of models' names.
    pub(crate) fn model_names(&mut self, name: &str) -> Result<Option<Vec<String>>, ApiError> {
        let value = self.maybe_model_names(name)?;
        self.not_null(name, value)
    }

    /// A list of addresses and ranges, or null. A refusal names the entry.
    pub(crate) fn maybe_networks(&mut self, name: &str) -> Result<Option<Option<Vec<Cidr>>>, ApiError> {
        let values = self.maybe(name, |value| match value {
            Value::Array(values) if values.len() <= MAX_NETWORKS => Ok(values),
            Value::Array(_) => Err(format!("must not have more than {MAX_NETWORKS} entries")),
            _ => Err("must be a list of addresses and ranges".to_owned()),
        })?;
        let Some(Some(values)) = values else { return Ok(values.map(|_| None)) };
        let mut ranges: Vec<Cidr> = Vec::with_capacity(values.len());
        for (at, value) in values.into_iter().enumerate() {
            let range = text(value).and_then(|text| text.parse().map_err(|bad: BadCidr| bad.to_string()));
            let range = range.map_err(|what| self.wrong(&format!("{name}[{at}]"), &what))?;
            if !ranges.contains(&range) {
                ranges.push(range);
            }
        }
        Ok(Some(Some(ranges)))
    }

    /// A moment, or null.
    pub(crate) fn maybe_time(&mut self, name: &str) -> Result<Option<Option<UnixMs>>, ApiError> {
        self.maybe(name, |value| {
            let what = || "must be a time as RFC 3339 writes it, such as 2030-01-31T12:00:00Z".to_owned();
            value.as_str().and_then(clock::parse).ok_or_else(what)
        })
    }

    /// A backend's credential, or null. The message never repeats it.
    pub(crate) fn maybe_secret(&mut self, name: &str) -> Result<Option<Option<Secret>>, ApiError> {
        self.maybe(name, |value| {
            let text = text(value)?;
            let fits =
                (1..=CREDENTIAL_BYTES).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
            let what = || format!("must be 1 to {CREDENTIAL_BYTES} visible ASCII characters without spaces");
            if fits { Ok(Secret::new(text)) } else { Err(what()) }
        })
    }

    /// An object within this one, or null; `prefix` is its name with a dot.
    pub(crate) fn maybe_object(
        &mut self,
        name: &str,
        prefix: &'static str,
    ) -> Result<Option<Option<Self>>, ApiError> {
        self.maybe(name, |value| match value {
            Value::Object(left) => Ok(Self { left, known: Vec::new(), prefix: Cow::Borrowed(prefix) }),
            _ => Err("must be an object".to_owned()),
        })
    }

    /// A list of at most `most` objects within this one; their members are called `name[0].member` and so on.
    pub(crate) fn objects(&mut self, name: &str, most: usize) -> Result<Option<Vec<Self>>, ApiError> {
        let path = self.path_of(name);
        let value = self.maybe(name, |value| {
            let what = || "must be a list of objects".to_owned();
            let Value::Array(values) = value else { return Err(what()) };
            if values.len() > most {
                return Err(format!("must not have more than {most} entries"));
            }
            let object = |(at, value)| match value {
                Value::Object(left) => {
                    Ok(Self { left, known: Vec::new(), prefix: format!("{path}[{at}].").into() })
                }
                _ => Err(what()),
            };
            values.into_iter().enumerate().map(object).collect::<Result<Vec<_>, _>>()
        })?;
        self.not_null(name, value)
    }
}

fn text(value: Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err("must be a string".to_owned()),
    }
}

fn named(text: String, max: usize) -> Result<String, String> {
    if text.is_empty() || text.chars().count() > max {
        return Err(format!("must have 1 to {max} characters"));
    }
    if text.trim() != text || text.chars().any(char::is_control) {
        return Err("must not have control characters, or white space at its ends".to_owned());
    }
    Ok(text)
}

/// Reads a body of up to [`MAX_BODY`] bytes. A larger one is still received within [`DISCARD`].
async fn read(body: Body) -> Result<Vec<u8>, ApiError> {
    let mut body = pin!(body);
    let mut bytes = Vec::new();
    let fits = async {
        while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            let frame = frame.map_err(|_| ApiError::invalid_json("The body broke off."))?;
            let data = frame.data_ref().map_or(&[][..], |data| data);
            if bytes.len() + data.len() > MAX_BODY {
                return Ok(false);
            }
            bytes.extend_from_slice(data);
        }
        Ok(true)
    };
    let fits: Result<bool, ApiError> = timeout(BODY_TIMEOUT, fits).await.map_err(|_| ApiError::too_slow())?;
    if fits? {
        return Ok(bytes);
    }
    drain(body).await;
    Err(ApiError::too_large())
}

/// Receives the body of a request that is refused without looking at it.
pub(crate) async fn discard(request: Request) {
    // Who waits for `100 Continue` has sent nothing, and would only begin if the body were asked for.
    if !request.headers().contains_key(header::EXPECT) {
        drain(pin!(request.into_body())).await;
    }
}

async fn drain(mut body: std::pin::Pin<&mut Body>) {
    let (limit, within) = DISCARD;
    let mut received = 0;
    let rest = async {
        while let Some(Ok(frame)) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            received += frame.data_ref().map_or(0, |data| data.len());
            if received > limit {
                return;
            }
        }
    };
    // Whether the rest came or not, the refusal goes out.
    let _ = timeout(within, rest).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Fields {
        Fields::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn absent_null_and_a_value_are_three_things() {
        let mut body = fields(r#"{"a":null,"b":5}"#);
        assert_eq!(body.maybe_number::<u32>("a", 0..=9), Ok(Some(None)));
        assert_eq!(body.maybe_number::<u32>("b", 0..=9), Ok(Some(Some(5))));
        assert_eq!(body.maybe_number::<u32>("c", 0..=9), Ok(None));
        assert_eq!(body.finish(), Ok(()));
    }

    #[test]
    fn numbers_that_are_not_whole_or_out_of_range_are_refused_by_name() {
        for wrong in
            ["-1", "10", "1.0", "1e0", "\"5\"", "true", "[]", "99999999999999999999", "-9223372036854775809"]
        {
            let mut body = fields(&format!(r#"{{"weight":{wrong}}}"#));
            let expected = ApiError::invalid("weight", "`weight` must be a whole number from 0 to 9.");
            assert_eq!(body.number::<u32>("weight", 0..=9), Err(expected), "{wrong}");
        }
        assert!(Fields::parse(br#"{"weight":1e999}"#).is_err());
    }

    #[test]
    fn what_nobody_asked_for_is_refused_by_name() {
        let mut body = fields(r#"{"name":"a","nmae":"b"}"#);
        assert_eq!(body.name("name"), Ok(Some("a".into())));
        assert_eq!(
            body.finish(),
            Err(ApiError::invalid("nmae", "There is no member `nmae` here; there are `name`."))
        );
    }

    #[test]
    fn only_a_json_object_is_a_body() {
        for wrong in ["", " ", "[]", "1", "null", "{", "{\"a\":1}x", "{'a':1}", "\u{feff}{}"] {
            assert!(Fields::parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
        assert!(Fields::parse(b"{\"a\":\"\xff\"}").is_err());
    }

    #[test]
    fn names_are_bounded_and_free_of_what_one_cannot_see() {
        let long = "x".repeat(129);
        for wrong in ["", " a", "a ", "a\\nb", "a\\u0000", &long] {
            assert!(fields(&format!(r#"{{"name":"{wrong}"}}"#)).name("name").is_err(), "{wrong}");
        }
        let mut body = fields(r#"{"name":"Équipe 1 – GPU"}"#);
        assert_eq!(body.name("name").unwrap().as_deref(), Some("Équipe 1 – GPU"));
        let mut body = fields(r#"{"m":["a","b","a"],"n":[1]}"#);
        assert_eq!(body.model_names("m").unwrap().unwrap(), ["a", "b"]);
        assert!(body.model_names("n").is_err());
    }

    #[test]
    fn a_list_of_ranges_is_refused_by_the_entry_that_is_none() {
        let mut read = fields(r#"{"a":["10.0.0.0/8","::1/128","10.0.0.0/8"],"b":null,"c":[]}"#);
        let ranges = read.maybe_networks("a").unwrap().unwrap().unwrap();
        assert_eq!(ranges.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.0/8", "::1"]);
        assert_eq!(read.maybe_networks("b"), Ok(Some(None)));
        assert_eq!(read.maybe_networks("c"), Ok(Some(Some(Vec::new()))));
        assert_eq!(read.maybe_networks("d"), Ok(None));
        for (wrong, param, words) in [
            (r#"["10.0.0.0/8","::1","10.0.0.300"]"#, "a[2]", "must be an address or a range"),
            (r#"["10.0.0.1/8"]"#, "a[0]", "write 10.0.0.0/8"),
            (r#"["::/129"]"#, "a[0]", "from 0 to 128"),
            ("[5]", "a[0]", "must be a string"),
            ("5", "a", "must be a list"),
        ] {
            let refusal = fields(&format!(r#"{{"a":{wrong}}}"#)).maybe_networks("a").unwrap_err();
            let shown = format!("{refusal:?}");
            assert!(shown.contains(&format!("Some({param:?})")) && shown.contains(words), "{wrong}: {shown}");
        }
        let many = vec![r#""::1""#; 257].join(",");
        assert!(fields(&format!(r#"{{"a":[{many}]}}"#)).maybe_networks("a").is_err());
    }

    #[test]
    fn a_refused_credential_is_not_repeated() {
        let refusal = fields(r#"{"api_key":"two words"}"#).maybe_secret("api_key").unwrap_err();
        assert!(!format!("{refusal:?}").contains("two words"));
    }
}
