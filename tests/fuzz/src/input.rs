//! How a target reads its input: two bytes that choose how, and the text.
//!
//! It exists so that a corpus file can be read and written by hand: both bytes are usually digits.

/// An input, taken apart.
pub(crate) struct Input<'b> {
    /// Its bits choose a target's options.
    pub(crate) options: u8,
    /// Chooses where the text is cut.
    pub(crate) cuts: u8,
    /// What is judged.
    pub(crate) text: &'b [u8],
}

impl<'b> Input<'b> {
    /// `None` if the input is too short to choose anything.
    pub(crate) fn of(bytes: &'b [u8]) -> Option<Self> {
        let (&[options, cuts], text) = bytes.split_first_chunk()?;
        Some(Self { options, cuts, text })
    }

    /// Whether option number `bit` is on.
    pub(crate) fn option(&self, bit: u8) -> bool {
        self.options >> bit & 1 == 1
    }

    /// The text in pieces, none of them empty: of one byte each if the low three bits of the second byte are 0, else of
    /// up to 2, 4, … 128 bytes.
    pub(crate) fn pieces(&self) -> Vec<&'b [u8]> {
        let most = 1 << (self.cuts & 7);
        let mut state = u32::from(self.cuts) | 1;
        let mut rest = self.text;
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let len = 1 + (state >> 24) as usize % most;
            let (piece, after) = rest.split_at(len.min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        pieces
    }
}
