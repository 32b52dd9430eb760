//! The OpenAI dialect: what the gateway reads of a request, what it changes in it, and what it reads of the answer.
//!
//! It exists so that the data plane knows no field names: it asks for a request's fields, plans the edits and filters
//! the stream. It must never re-serialise what it was given; whatever is not named here leaves byte for byte.

mod edit;
mod request;
mod stream;

pub use edit::{Edits, plan};
pub use request::{BodyFault, Dialect, OutputLimit, RequestFields, scan_request};
pub use stream::{MAX_EVENT, StreamFilter, StripUsage};
