//! The HTTP/1 codec: heads, body framing and writing, for both legs of the gateway.
//!
//! Two parsers that disagree about where a message ends let one caller smuggle a request into another's
//! connection, so this codec accepts one spelling of everything that delimits a message and refuses the rest:
//! a doubled length, a bare LF, a folded line. It is strict towards backends as well as towards clients.
//!
//! It is pure. The caller owns the bytes and the sockets; heads name parts of the caller's buffer by offset, so
//! they stay valid while the buffer grows, and nothing on the ordinary path allocates. In order:
//! [`HeadScan::find_end`] until the head is whole, [`parse_request`] or [`parse_response`], then one
//! [`BodyDecoder`] made from the head's [`Framing`]. [`mod@write`] is the way back.
//!
//! It must never panic, whatever the bytes; never look at a byte twice while it waits for a head; and never call
//! a truncated body complete.

mod body;
mod fields;
mod head;
mod header;
mod request;
mod response;
mod scan;
mod target;
pub mod write;

pub use body::{BodyDecoder, BodyError, Decoded, Piece};
pub use head::{Framing, HeadError, Limits, Method, Span, Version};
pub use header::{Header, HeaderKind, Headers};
pub use request::{RequestHead, parse_request};
pub use response::{ResponseHead, parse_response};
pub use scan::HeadScan;
pub use target::percent_decode;
