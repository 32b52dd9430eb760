//! A document model as serde_json sees it, with members in their order and repeated names kept.
//!
//! It exists because `serde_json::Value` forgets both, and both matter where bytes are edited in place.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// A JSON value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Dom {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number that is an unsigned integer as it stands.
    Count(u64),
    /// Any other number.
    Number(f64),
    /// A string, its escapes undone.
    Text(String),
    /// An array.
    Array(Vec<Dom>),
    /// An object.
    Object(Vec<(String, Dom)>),
}

impl Dom {
    /// `None` where serde_json refuses: broken grammar, but also a lone surrogate, a number out of range, or nesting
    /// deeper than its limit.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }

    /// The members of an object; none of another value.
    pub(crate) fn members(&self) -> &[(String, Self)] {
        if let Self::Object(members) = self { members } else { &[] }
    }

    /// All values called `name`.
    pub(crate) fn all<'d>(&'d self, name: &'d str) -> impl Iterator<Item = &'d Self> {
        self.members().iter().filter(move |(key, _)| key == name).map(|(_, value)| value)
    }

    /// The last value called `name`.
    pub(crate) fn last(&self, name: &str) -> Option<&Self> {
        self.members().iter().rev().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// An unsigned integer.
    pub(crate) fn count(&self) -> Option<u64> {
        if let Self::Count(count) = self { Some(*count) } else { None }
    }
}

impl<'de> Deserialize<'de> for Dom {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Build)
    }
}

struct Build;

impl<'de> Visitor<'de> for Build {
    type Value = Dom;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Dom, E> {
        Ok(Dom::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Dom, E> {
        Ok(Dom::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Dom, E> {
        Ok(Dom::Count(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Dom, E> {
        Ok(Dom::Number(value as f64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Dom, E> {
        Ok(Dom::Number(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Dom, E> {
        Ok(Dom::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Dom, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = seq.next_element()? {
            elements.push(element);
        }
        Ok(Dom::Array(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Dom, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Dom::Object(members))
    }
}
