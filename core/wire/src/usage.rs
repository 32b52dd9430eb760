//! Token usage as backends report it, read from the bytes of an answer.
//!
//! It exists because usage is the base of every charge, and because an answer of megabytes is passed on without being
//! parsed: [`JsonUsage`] watches it go by in constant memory. It must never estimate, never alter the answer, and
//! never fail it: what cannot be read is no usage.

use smallvec::SmallVec;

use crate::json::{self, JsonError, Kind, Member};

/// Longest `usage` value that is read, in bytes; a longer one counts as absent. Real ones have 60 to 400.
pub const MAX_USAGE: usize = 4096;
/// Most tokens that one exchange can have, by far: a larger number is a fault of the backend's, and no count.
pub const MOST_TOKENS: u64 = 1 << 40;
/// Bytes of a `usage` value kept without an allocation.
const INLINE_USAGE: usize = 384;
/// Objects at the end of a whole answer among which its `usage` is looked for first. Few members follow it.
const LAST_OBJECTS: usize = 8;
/// Bytes that are looked at one by one before a vector search begins.
const NEAR: usize = 16;
/// Longest spelling of the name `usage`: every letter as a `\u` escape.
const MAX_KEY: usize = 30;

/// Tokens of one exchange, as the backend counted them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt, cached ones included.
    pub input: u64,
    /// Tokens generated; 0 for embeddings.
    pub output: u64,
    /// Tokens of the prompt that came from a cache; at most `input`.
    pub cached_input: u64,
}

impl Usage {
    /// Reads a `usage` value: `prompt_tokens`, `completion_tokens` and `prompt_tokens_details.cached_tokens`, or the
    /// names `input_tokens`, `output_tokens` and `input_tokens_details` of later APIs (the older name wins).
    ///
    /// Numbers that are not integers from 0 to [`MOST_TOKENS`] are ignored. `None` if it is not an object or names no token count.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let mut counts = Counts::default();
        json::members(value, |member| counts.take(&member)).ok()?;
        counts.usage()
    }
}

/// What a `usage` value says so far.
#[derive(Default)]
struct Counts {
    prompt: Option<u64>,
    completion: Option<u64>,
    input: Option<u64>,
    output: Option<u64>,
    cached: Option<u64>,
}

impl Counts {
    /// Never fails; what [`json::members`] calls may.
    fn take(&mut self, member: &Member<'_>) -> Result<(), JsonError> {
        if member.is("prompt_tokens") {
            self.prompt = count(member);
        } else if member.is("completion_tokens") {
            self.completion = count(member);
        } else if member.is("input_tokens") {
            self.input = count(member);
        } else if member.is("output_tokens") {
            self.output = count(member);
        } else if member.is("prompt_tokens_details") || member.is("input_tokens_details") {
            self.cached = cached_tokens(member).or(self.cached);
        }
        Ok(())
    }

    fn usage(self) -> Option<Usage> {
        let (input, output) = (self.prompt.or(self.input), self.completion.or(self.output));
        if input.is_none() && output.is_none() {
            return None;
        }
        let input = input.unwrap_or(0);
        let cached_input = self.cached.unwrap_or(0).min(input);
        Some(Usage { input, output: output.unwrap_or(0), cached_input })
    }
}

fn count(member: &Member<'_>) -> Option<u64> {
    json::parse_u64(member.raw()).filter(|count| *count <= MOST_TOKENS)
}

fn cached_tokens(details: &Member<'_>) -> Option<u64> {
    if details.kind != Kind::Object {
        return None;
    }
    let mut cached = None;
    json::members(details.raw().as_bytes(), |member| {
        if member.is("cached_tokens") {
            cached = count(&member);
        }
        Ok(())
    })
    .ok()?;
    cached
}

/// What the scan of an answer expects next. "Top level" is the inside of the outermost object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    /// The answer's `{`.
    Object,
    /// At the top level: a name, a comma or the end.
    Key,
    /// Inside a name; `escape` says that the byte before was a backslash.
    InKey {
        escape: bool,
    },
    Colon,
    Value,
    /// Inside a string that is a member's value.
    InString {
        escape: bool,
    },
    /// Inside a number or a literal.
    InScalar,
    /// Inside an array or object, `depth` brackets of its own kind deep. Brackets of the other kind are not counted:
    /// in valid JSON they are balanced wherever these are.
    InNested {
        bracket: Bracket,
        depth: u64,
    },
    /// Inside a string within an array or object.
    InNestedString {
        bracket: Bracket,
        depth: u64,
        escape: bool,
    },
    /// The object has ended, or the answer is not an object: nothing more is looked at.
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bracket {
    Curly,
    Square,
}

impl Bracket {
    fn pair(self) -> (u8, u8) {
        match self {
            Self::Curly => (b'{', b'}'),
            Self::Square => (b'[', b']'),
        }
    }
}

/// Reads the top-level `usage` of a JSON answer that passes by in pieces, in constant memory.
///
/// Made for one answer. It does not validate: of a broken answer it reports what it found, or nothing.
#[derive(Clone, Debug)]
pub struct JsonUsage {
    expect: Expect,
    /// The spelling of the name being read, as far as it could be `usage`.
    key: SmallVec<[u8; MAX_KEY]>,
    key_too_long: bool,
    /// Whether the value being read is that of `usage`.
    capturing: bool,
    captured: SmallVec<[u8; INLINE_USAGE]>,
    captured_too_long: bool,
    /// What was read at once from the end of a whole answer.
    of_tail: Option<Usage>,
}

impl Default for JsonUsage {
    fn default() -> Self {
        Self {
            expect: Expect::Object,
            key: SmallVec::new(),
            key_too_long: false,
            capturing: false,
            captured: SmallVec::new(),
            captured_too_long: false,
            of_tail: None,
        }
    }
}

impl JsonUsage {
    /// For an answer whose first byte comes next.
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks at the next bytes of the answer.
    pub fn push(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() && self.expect != Expect::Over {
            let capturing = self.capturing;
            let taken = self.step(rest);
            let (seen, after) = rest.split_at_checked(taken).unwrap_or((rest, &[]));
            if capturing {
                self.capture(seen);
            }
            rest = after;
        }
    }

    /// Looks at an answer that is there as a whole: as [`Self::push`], but an answer of the usual kind, whose usage
    /// stands near its end, is looked at from there on. Of what is not JSON it may find something else than `push`.
    pub fn push_whole(&mut self, answer: &[u8]) {
        match Self::of_tail(answer) {
            Some(found) => *self = found,
            None => self.push(answer),
        }
    }

    /// Reads the value of a name `usage` near the end of the answer, and what follows it, strictly. The quote before the
    /// name begins a string, as it is not escaped and a colon follows the string; if what follows the value closes
    /// exactly one object, it was a member of the outermost. `None` if that is not so, or another `usage` follows, or
    /// something is escaped: then it is the text of an answer that was broken off, rather than its end.
    fn of_tail(answer: &[u8]) -> Option<Self> {
        let (before, value) = answer.split_at_checked(usage_object(answer)?)?;
        if !before.trim_ascii_start().starts_with(b"{") || memchr::memchr(b'\\', value).is_some() {
            return None;
        }
        let mut counts = Counts::default();
        let len = json::leading_members(value, |member| counts.take(&member)).ok()?;
        let blank = before.len().saturating_sub(before.trim_ascii_end().len());
        let usage = counts.usage().filter(|_| len.saturating_add(blank) <= MAX_USAGE)?;
        match value.get(len..)?.trim_ascii() {
            b"}" => {}
            [b',', rest @ ..] => {
                let another = Err(JsonError::Duplicate("usage"));
                json::last_members(rest, |member| if member.is("usage") { another } else { Ok(()) }).ok()?;
            }
            _ => return None,
        }
        Some(Self { expect: Expect::Over, of_tail: Some(usage), ..Self::default() })
    }

    /// The usage found so far; of several `usage` members the last counts.
    pub fn finish(&self) -> Option<Usage> {
        match self.of_tail {
            Some(usage) => Some(usage),
            None if self.captured_too_long => None,
            None => Usage::parse(&self.captured),
        }
    }

    /// Whether an object has begun and not ended: an answer that ends here was broken off, whatever its framing says.
    pub fn is_unfinished(&self) -> bool {
        !matches!(self.expect, Expect::Object | Expect::Over)
    }

    /// Takes one token, or as much of it as is there, and says how many bytes that was. Takes none only where a scalar
    /// ends, and then expects a key, which takes at least one.
    fn step(&mut self, rest: &[u8]) -> usize {
        let first = rest.first().copied().unwrap_or_default();
        match self.expect {
            Expect::Object => match first {
                b'{' => self.turn(Expect::Key),
                b' ' | b'\n' | b'\r' | b'\t' => 1,
                _ => self.turn(Expect::Over),
            },
            Expect::Key => match first {
                b'"' => {
                    self.key.clear();
                    self.key_too_long = false;
                    self.turn(Expect::InKey { escape: false })
                }
                b'}' => self.turn(Expect::Over),
                _ => 1,
            },
            Expect::InKey { escape } => self.key_part(rest, escape),
            Expect::Colon => {
                if first == b':' {
                    self.begin_value();
                }
                1
            }
            Expect::Value => match first {
                b' ' | b'\n' | b'\r' | b'\t' => 1,
                b'"' => self.turn(Expect::InString { escape: false }),
                b'{' => self.turn(Expect::InNested { bracket: Bracket::Curly, depth: 1 }),
                b'[' => self.turn(Expect::InNested { bracket: Bracket::Square, depth: 1 }),
                _ => {
                    self.expect = Expect::InScalar;
                    0
                }
            },
            Expect::InString { escape } => {
                let (taken, open) = string_part(rest, escape);
                match open {
                    Some(escape) => self.expect = Expect::InString { escape },
                    None => self.end_value(),
                }
                taken
            }
            Expect::InScalar => {
                let end = memchr::memchr2(b',', b'}', rest);
                if end.is_some() {
                    self.end_value();
                }
                end.unwrap_or(rest.len())
            }
            Expect::InNested { bracket, depth } => self.nested_part(rest, bracket, depth),
            Expect::InNestedString { bracket, depth, escape } => {
                let (taken, open) = string_part(rest, escape);
                self.expect = match open {
                    Some(escape) => Expect::InNestedString { bracket, depth, escape },
                    None => Expect::InNested { bracket, depth },
                };
                taken
            }
            Expect::Over => rest.len(),
        }
    }

    /// Takes one byte and expects something else from the next.
    fn turn(&mut self, next: Expect) -> usize {
        self.expect = next;
        1
    }

    fn key_part(&mut self, rest: &[u8], escape: bool) -> usize {
        let (taken, open) = string_part(rest, escape);
        let spelt = rest.get(..taken).unwrap_or_default();
        let spelt = if open.is_none() { spelt.strip_suffix(b"\"").unwrap_or(spelt) } else { spelt };
        if self.key.len().saturating_add(spelt.len()) > MAX_KEY {
            self.key_too_long = true;
        } else {
            self.key.extend_from_slice(spelt);
        }
        self.expect = open.map_or(Expect::Colon, |escape| Expect::InKey { escape });
        taken
    }

    fn begin_value(&mut self) {
        self.expect = Expect::Value;
        let named = !self.key_too_long
            && match self.key.contains(&b'\\') {
                false => *self.key == *b"usage",
                true => str::from_utf8(&self.key).is_ok_and(|key| json::key_is(key, "usage")),
            };
        if named {
            self.capturing = true;
            self.captured.clear();
            self.captured_too_long = false;
        }
    }

    fn end_value(&mut self) {
        self.expect = Expect::Key;
        self.capturing = false;
    }

    /// Takes bytes of an array or object up to its end, with the strings in it.
    fn nested_part(&mut self, rest: &[u8], bracket: Bracket, mut depth: u64) -> usize {
        let (open, close) = bracket.pair();
        let mut at = 0_usize;
        loop {
            let tail = rest.get(at..).unwrap_or_default();
            let Some((hit, byte)) = find(
                tail,
                |byte| [open, close, b'"'].contains(&byte),
                |far| memchr::memchr3(open, close, b'"', far),
            ) else {
                self.expect = Expect::InNested { bracket, depth };
                return rest.len();
            };
            at = at.saturating_add(hit).saturating_add(1);
            if byte == b'"' {
                let (taken, cut) = string_part(rest.get(at..).unwrap_or_default(), false);
                at = at.saturating_add(taken);
                if let Some(escape) = cut {
                    self.expect = Expect::InNestedString { bracket, depth, escape };
                    return at;
                }
            } else if byte == open {
                depth = depth.saturating_add(1);
            } else if depth > 1 {
                depth = depth.saturating_sub(1);
            } else {
                self.end_value();
                return at;
            }
        }
    }

    fn capture(&mut self, seen: &[u8]) {
        if self.captured.len().saturating_add(seen.len()) > MAX_USAGE {
            self.captured_too_long = true;
        } else if !self.captured_too_long {
            self.captured.extend_from_slice(seen);
        }
    }
}

/// Where the object begins that is the value of a name `usage`, if it is one of the last few of the answer.
fn usage_object(answer: &[u8]) -> Option<usize> {
    memchr::memrchr_iter(b'{', answer).take(LAST_OBJECTS).find(|&brace| {
        let before = answer.get(..brace).unwrap_or_default().trim_ascii_end();
        let name = before.strip_suffix(b":").unwrap_or_default().trim_ascii_end();
        name.strip_suffix(b"\"usage\"").is_some_and(|before| !before.ends_with(b"\\"))
    })
}

/// The first byte that is wanted, and where it is: the first few bytes are looked at one by one, because most names
/// and values are shorter than it takes to set a vector search up; `search` looks for it in the rest.
#[inline]
fn find(
    bytes: &[u8],
    wanted: impl Fn(u8) -> bool,
    search: impl Fn(&[u8]) -> Option<usize>,
) -> Option<(usize, u8)> {
    let (near, far) = bytes.split_at_checked(NEAR).unwrap_or((bytes, &[]));
    let at = match near.iter().position(|byte| wanted(*byte)) {
        Some(at) => at,
        None => search(far)?.saturating_add(NEAR),
    };
    bytes.get(at).map(|byte| (at, *byte))
}

/// Takes bytes of a string up to and with its closing quote. Says how many, and `None` if it ended, else whether the
/// last byte was a backslash that escapes the next. `escape`: the byte before `rest` was such a backslash.
fn string_part(rest: &[u8], escape: bool) -> (usize, Option<bool>) {
    let mut at = usize::from(escape);
    loop {
        let tail = rest.get(at..).unwrap_or_default();
        let Some((hit, byte)) =
            find(tail, |byte| matches!(byte, b'"' | b'\\'), |far| memchr::memchr2(b'"', b'\\', far))
        else {
            return (rest.len(), Some(false));
        };
        let hit = at.saturating_add(hit);
        let after = hit.saturating_add(1);
        if byte == b'"' {
            return (after, None);
        }
        if after == rest.len() {
            return (after, Some(true));
        }
        at = after.saturating_add(1);
    }
}
