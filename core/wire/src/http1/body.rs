//! Takes a body apart while its bytes arrive, however it is delimited.
//!
//! One decoder serves request and response bodies. It copies nothing: it says which part of the caller's bytes is
//! payload. It must never give a payload byte that framing did not announce, and never call a body complete that
//! was cut short.

use std::ops::Range;

use thiserror::Error;

use super::head::{Framing, Limits};
use super::target::hex;

/// The most digits of a chunk size: 16 hexadecimal digits fill 64 bits, so no size can overflow.
const MAX_SIZE_DIGITS: u8 = 16;

/// What one call of [`BodyDecoder::decode`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Bytes of the input that are done with, framing and payload together.
    pub consumed: usize,
    /// What they were.
    pub piece: Piece,
}

/// A step of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// The input is used up and holds no payload; the body goes on.
    More,
    /// Payload: this part of the input, never empty. The body may go on.
    Data(Range<usize>),
    /// The body is complete. What follows the consumed bytes belongs to the next message.
    End,
}

/// Why a body is refused. The connection cannot be read further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BodyError {
    /// The chunked coding is malformed; the text says where.
    #[error("malformed chunked body: {0}")]
    BadChunk(&'static str),
    /// A chunk-size line is longer than [`Limits::chunk_line`].
    #[error("a chunk-size line is too long")]
    ChunkLineTooLong,
    /// The trailers are longer than [`Limits::trailers`].
    #[error("the trailers are too long")]
    TrailersTooLarge,
    /// The sender closed before the end of the body.
    #[error("the body ended before it was complete")]
    Truncated,
}

/// Where the decoder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So many payload bytes to come, then the end.
    Length(u64),
    UntilClose,
    /// In the digits of a chunk size.
    Size {
        size: u64,
        digits: u8,
        line: usize,
    },
    /// In a chunk extension.
    Extension {
        size: u64,
        line: usize,
    },
    /// Behind the CR of a chunk-size line.
    SizeLf {
        size: u64,
    },
    /// In a chunk's payload; never 0.
    Data(u64),
    DataCr,
    DataLf,
    /// At the start of a trailer line, or of the empty line that ends the body.
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
    Done,
}

/// The place a connection has reached in a body. One per message.
#[derive(Clone, Copy, Debug)]
pub struct BodyDecoder {
    state: State,
    chunk_line: usize,
    /// Trailer bytes that may still come.
    trailers: usize,
}

impl BodyDecoder {
    /// A decoder at the start of a body.
    #[must_use]
    pub fn new(framing: Framing, limits: &Limits) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size { size: 0, digits: 0, line: 0 },
            Framing::UntilClose => State::UntilClose,
        };
        Self { state, chunk_line: limits.chunk_line, trailers: limits.trailers }
    }

    /// Looks at `input` from its start, up to the first payload. Call again with the bytes behind `consumed` until
    /// it says [`Piece::More`] or [`Piece::End`]; payload never depends on how the bytes were split over calls.
    ///
    /// # Errors
    /// A [`BodyError`] other than `Truncated`; the decoder must not be used after it.
    pub fn decode(&mut self, input: &[u8]) -> Result<Decoded, BodyError> {
        let mut at = 0_usize;
        loop {
            match self.state {
                State::Done => return Ok(Decoded { consumed: at, piece: Piece::End }),
                State::Length(left) => return Ok(self.payload(input, at, left)),
                State::Data(left) => return Ok(self.payload(input, at, left)),
                State::UntilClose => return Ok(self.payload(input, at, u64::MAX)),
                _ => {}
            }
            let Some(byte) = input.get(at) else {
                return Ok(Decoded { consumed: at, piece: Piece::More });
            };
            self.state = self.step(*byte)?;
            at = at.saturating_add(1);
        }
    }

    /// What the sender's close means here.
    ///
    /// # Errors
    /// [`BodyError::Truncated`] unless the body is complete or runs until the close.
    pub fn at_eof(&self) -> Result<(), BodyError> {
        match self.state {
            State::Done | State::UntilClose => Ok(()),
            _ => Err(BodyError::Truncated),
        }
    }

    /// Whether the body is complete, so that the connection stands at the next message.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Payload bytes still to come, if the head announced a length (0 once any body is complete).
    #[must_use]
    pub fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            State::Done => Some(0),
            _ => None,
        }
    }

    /// Gives as much of the input as belongs to the payload under way.
    fn payload(&mut self, input: &[u8], at: usize, left: u64) -> Decoded {
        let available = input.len().saturating_sub(at);
        let taken = available.min(usize::try_from(left).unwrap_or(usize::MAX));
        if taken == 0 {
            return Decoded { consumed: at, piece: Piece::More };
        }
        let end = at.saturating_add(taken);
        let left = left.saturating_sub(taken as u64);
        let mut consumed = end;
        self.state = match self.state {
            State::UntilClose => State::UntilClose,
            State::Length(_) if left == 0 => State::Done,
            State::Length(_) => State::Length(left),
            _ if left > 0 => State::Data(left),
            // Usually the chunk's CRLF came with it; taking it now saves a call.
            _ if input.get(end..end.saturating_add(2)) == Some(b"\r\n") => {
                consumed = end.saturating_add(2);
                State::Size { size: 0, digits: 0, line: 0 }
            }
            _ => State::DataCr,
        };
        Decoded { consumed, piece: Piece::Data(at..end) }
    }

    /// One byte of framing.
    fn step(&mut self, byte: u8) -> Result<State, BodyError> {
        match self.state {
            State::Size { size, digits, line } => self.size_byte(byte, size, digits, line),
            State::Extension { size, line } => match byte {
                b'\r' => Ok(State::SizeLf { size }),
                byte if is_text(byte) => Ok(State::Extension { size, line: self.longer(line)? }),
                _ => Err(BodyError::BadChunk("a control byte in a chunk extension")),
            },
            State::SizeLf { size } => match byte {
                b'\n' if size == 0 => Ok(State::TrailerStart),
                b'\n' => Ok(State::Data(size)),
                _ => Err(BodyError::BadChunk("a CR without LF")),
            },
            State::DataCr if byte == b'\r' => Ok(State::DataLf),
            State::DataLf if byte == b'\n' => Ok(State::Size { size: 0, digits: 0, line: 0 }),
            State::DataCr | State::DataLf => Err(BodyError::BadChunk("a chunk longer than its size")),
            State::TrailerStart => match byte {
                b'\r' => Ok(State::EndLf),
                b' ' | b'\t' => Err(BodyError::BadChunk("a folded trailer")),
                byte => self.trailer_byte(byte),
            },
            State::Trailer if byte == b'\r' => {
                self.spend_trailer()?;
                Ok(State::TrailerLf)
            }
            State::Trailer => self.trailer_byte(byte),
            State::TrailerLf if byte == b'\n' => {
                self.spend_trailer()?;
                Ok(State::TrailerStart)
            }
            State::EndLf if byte == b'\n' => Ok(State::Done),
            State::TrailerLf | State::EndLf => Err(BodyError::BadChunk("a CR without LF")),
            State::Length(_) | State::UntilClose | State::Data(_) | State::Done => Ok(self.state),
        }
    }

    fn size_byte(&self, byte: u8, size: u64, digits: u8, line: usize) -> Result<State, BodyError> {
        if let Some(digit) = hex(byte) {
            if digits >= MAX_SIZE_DIGITS {
                return Err(BodyError::BadChunk("a chunk size of too many digits"));
            }
            let size = size << 4 | u64::from(digit);
            return Ok(State::Size { size, digits: digits.saturating_add(1), line: self.longer(line)? });
        }
        match byte {
            _ if digits == 0 => Err(BodyError::BadChunk("no chunk size")),
            b'\r' => Ok(State::SizeLf { size }),
            b';' => Ok(State::Extension { size, line: self.longer(line)? }),
            _ => Err(BodyError::BadChunk("a chunk size that is not hexadecimal")),
        }
    }

    fn longer(&self, line: usize) -> Result<usize, BodyError> {
        if line >= self.chunk_line { Err(BodyError::ChunkLineTooLong) } else { Ok(line.saturating_add(1)) }
    }

    fn trailer_byte(&mut self, byte: u8) -> Result<State, BodyError> {
        if !is_text(byte) {
            return Err(BodyError::BadChunk("a control byte in a trailer"));
        }
        self.spend_trailer()?;
        Ok(State::Trailer)
    }

    fn spend_trailer(&mut self) -> Result<(), BodyError> {
        self.trailers = self.trailers.checked_sub(1).ok_or(BodyError::TrailersTooLarge)?;
        Ok(())
    }
}

/// Anything but the control bytes; a tab is not one here.
fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= 0x20 && byte != 0x7F)
}
