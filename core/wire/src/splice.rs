//! A few edits of a text that otherwise leaves byte for byte as it came.
//!
//! It exists so that a body of megabytes is neither copied nor re-serialised for the sake of one field: the edits are
//! kept beside it and the pieces are written in order. It must never touch a byte outside the ranges it was given, and
//! it allocates nothing for a text that has no edits.

use std::{iter, ops::Range};

use crate::json;

/// Replaces a range of the original by a range of the replacement text.
#[derive(Clone, Debug)]
struct Edit {
    original: Range<usize>,
    replacement: Range<usize>,
}

/// Ordered, non-overlapping edits of one text. Owns its replacements; dropping it touches nothing else.
#[derive(Clone, Debug, Default)]
pub struct Splice {
    edits: Vec<Edit>,
    text: Vec<u8>,
}

impl Splice {
    /// No edits: the text leaves as it is.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the text leaves as it is.
    pub fn is_empty(&self) -> bool {
        self.edits.is_empty()
    }

    /// Replaces `range` (byte offsets into the original; empty to insert, an empty replacement to remove).
    ///
    /// Edits may come in any order. An insertion stands before an edit that starts at the same offset; of two
    /// insertions at one offset the earlier call stands first. Returns `false` and changes nothing if the range is
    /// reversed or overlaps an earlier edit.
    pub fn replace(&mut self, range: Range<usize>, replacement: &[u8]) -> bool {
        let from = self.text.len();
        self.text.extend_from_slice(replacement);
        self.place(range, from)
    }

    /// As [`replace`](Self::replace), with the JSON string literal of `text`.
    pub fn replace_with_string(&mut self, range: Range<usize>, text: &str) -> bool {
        let from = self.text.len();
        json::escape_into(text, |piece| self.text.extend_from_slice(piece));
        self.place(range, from)
    }

    /// Records the edit whose replacement is all text from `from` on, at its place in the order.
    fn place(&mut self, original: Range<usize>, from: usize) -> bool {
        let order = (original.start, original.end);
        let index = self.edits.partition_point(|edit| (edit.original.start, edit.original.end) <= order);
        let (before, after) = self.edits.split_at_checked(index).unwrap_or_default();
        let fits = original.start <= original.end
            && before.last().is_none_or(|edit| edit.original.end <= original.start)
            && after.first().is_none_or(|edit| original.end <= edit.original.start);
        if fits {
            self.edits.insert(index, Edit { original, replacement: from..self.text.len() });
        } else {
            self.text.truncate(from);
        }
        fits
    }

    /// Length in bytes of the edited text, given the original's; for the `content-length` of what is sent.
    pub fn len(&self, original_len: usize) -> usize {
        self.edits.iter().fold(original_len, |len, edit| {
            len.saturating_sub(edit.original.len()).saturating_add(edit.replacement.len())
        })
    }

    /// Appends the edited text to `out`.
    pub fn write(&self, body: &[u8], out: &mut Vec<u8>) {
        out.reserve(self.len(body.len()));
        self.pieces(body).for_each(|piece| out.extend_from_slice(piece));
    }

    /// The edited text in order, as pieces of the original and of the replacements; none of them is empty.
    pub fn pieces<'s>(&'s self, body: &'s [u8]) -> impl Iterator<Item = &'s [u8]> {
        let starts = iter::once(0).chain(self.edits.iter().map(|edit| edit.original.end));
        let edits = self.edits.iter().map(Some).chain(iter::once(None));
        starts
            .zip(edits)
            .flat_map(move |(start, edit)| {
                let end = edit.map_or(body.len(), |edit| edit.original.start);
                let kept = body.get(start..end).unwrap_or_default();
                let put = edit.and_then(|edit| self.text.get(edit.replacement.clone())).unwrap_or_default();
                [kept, put]
            })
            .filter(|piece| !piece.is_empty())
    }
}
