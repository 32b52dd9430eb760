//! Gate 3, the part that needs no store: which key the request claims to have.
//!
//! The secret is read from the head in place, turned into its digest, and goes no further than this file.

use std::rc::Rc;

use obleth_policy::{key::KeyDigest, outcome::Code};
use obleth_wire::{
    credential::{self, CredentialFault},
    http1::HeaderKind,
};

use super::{Stop, parse::Call};
use crate::{downstream::Downstream, shard::Shard};

/// A request that names a key; nobody has said yet that there is such a key.
#[derive(Debug)]
pub(crate) struct Claimed {
    pub(crate) digest: KeyDigest,
}

pub(super) fn authenticate(shard: &Rc<Shard>, down: &Downstream, call: &Call) -> Result<Claimed, Stop> {
    let inlet = down.inlet();
    let values = |wanted: &'static [HeaderKind]| {
        let inlet = &inlet;
        call.head.headers.iter().filter(|h| wanted.contains(&h.kind)).map(move |h| h.value.of(inlet))
    };
    let bearer = values(&[HeaderKind::Authorization]);
    let keys = values(&[HeaderKind::XApiKey, HeaderKind::ApiKey]);
    let secret = credential::pick(bearer, keys).map_err(|fault| match fault {
        CredentialFault::Missing => Code::MissingApiKey,
        CredentialFault::Malformed => Code::InvalidApiKey,
        CredentialFault::Ambiguous => Code::AmbiguousCredentials,
    })?;
    Ok(Claimed { digest: KeyDigest::of(secret, shard.settings.pepper.as_ref()) })
}
