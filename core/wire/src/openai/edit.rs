//! What leaves differently from how it came: the plan of a request body's edits.
//!
//! It exists so that the decision (which edits) stays with the caller and the bytes (where, which commas) stay here.
//! It must never change a member it was not told to change; the value of every other member leaves as it came.

use super::request::{RequestFields, StreamOptions};
use crate::splice::Splice;

const OPTIONS_MEMBER: &[u8] = br#","stream_options":{"include_usage":true}"#;
const OPTIONS_VALUE: &[u8] = br#"{"include_usage":true}"#;
const USAGE_ALONE: &[u8] = br#""include_usage":true"#;
const USAGE_BEFORE_OTHERS: &[u8] = br#""include_usage":true,"#;

/// The edits that a request needs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Edits<'a> {
    /// The backend's name of the model, if it differs from the client's.
    pub upstream_model: Option<&'a str>,
    /// Whether the backend shall report usage in the stream; without effect on a request that does not stream.
    pub ask_for_usage: bool,
    /// Whether a client's `priority` is taken out.
    pub strip_priority: bool,
}

/// Plans `edits` for the body that `fields` were read from. An empty splice means that the body leaves as it came.
pub fn plan(fields: &RequestFields<'_>, edits: &Edits<'_>) -> Splice {
    let mut splice = Splice::new();
    if let Some(name) = edits.upstream_model {
        splice.replace_with_string(fields.model_value.clone(), name);
    }
    if edits.ask_for_usage && fields.stream {
        ask_for_usage(fields, &mut splice);
    }
    if let Some(cut) = fields.priority.as_ref().filter(|_| edits.strip_priority) {
        splice.replace(cut.range(), b"");
    }
    splice
}

fn ask_for_usage(fields: &RequestFields<'_>, splice: &mut Splice) {
    match &fields.stream_options {
        // After the model, which every body has: so a comma in front is right wherever the model stands.
        StreamOptions::Absent => {
            let after_model = fields.model_value.end;
            splice.replace(after_model..after_model, OPTIONS_MEMBER)
        }
        StreamOptions::Null(value) => splice.replace(value.clone(), OPTIONS_VALUE),
        StreamOptions::Without { open, empty } => {
            splice.replace(*open..*open, if *empty { USAGE_ALONE } else { USAGE_BEFORE_OTHERS })
        }
        StreamOptions::With { asked: true, .. } => return,
        StreamOptions::With { value, asked: false } => splice.replace(value.clone(), b"true"),
    };
}
