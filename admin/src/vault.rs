//! Upstream credentials at rest: AES-256-GCM under the master key.
//!
//! Every ciphertext is bound to its row, its column and the key's version, so one that is copied to another
//! place does not decrypt there. Nothing here may show a key or a plaintext: not in `Debug`, not in an error.

use std::fmt;

use aes_gcm::{
    Aes256Gcm, Nonce,
    aead::{Aead, KeyInit, Payload},
};
use obleth_policy::snapshot::Secret;
use uuid::Uuid;

use crate::random;

/// Version of the master key that new ciphertexts are made with. Rotation will count it up.
pub(crate) const KEY_VERSION: u32 = 1;

const NONCE_BYTES: usize = 12;

/// Thirty-two bytes that encrypt what the store must not show. `OBLETH_MASTER_KEY`.
#[derive(Clone, PartialEq, Eq)]
pub struct MasterKey([u8; 32]);

/// Text that is no master key. It does not repeat the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the master key must be 32 bytes, as 64 hex digits or as base64")]
pub struct BadMasterKey;

impl MasterKey {
    /// Reads 64 hex digits or base64 (RFC 4648, either alphabet, with or without padding) of 32 bytes; white
    /// space around it is ignored.
    ///
    /// # Errors
    /// [`BadMasterKey`] for anything else.
    pub fn parse(text: &str) -> Result<Self, BadMasterKey> {
        let text = text.trim();
        let bytes = if text.len() == 64 { from_hex(text) } else { from_base64(text) };
        bytes.and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or(BadMasterKey)
    }

    /// A fresh one.
    #[must_use]
    pub fn generate() -> Self {
        Self(random::bytes())
    }

    /// Sixty-four hex digits, for the file that keeps it.
    #[must_use]
    pub fn to_hex(&self) -> String {
        random::hex(&self.0)
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(…)")
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let nibble = |byte: &u8| char::from(*byte).to_digit(16);
    let pair = |pair: &[u8]| Some((nibble(&pair[0])? << 4 | nibble(&pair[1])?) as u8);
    text.as_bytes().chunks_exact(2).map(pair).collect()
}

fn from_base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    if digits.len() != 43 || text.len() > 44 {
        return None;
    }
    let (mut bits, mut held) = (0_u32, 0_u32);
    let mut out = Vec::with_capacity(32);
    for digit in digits.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(value)) & 0xffff;
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    Some(out)
}

/// Where a ciphertext belongs. Part of what it is authenticated with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// The row.
    pub(crate) row: Uuid,
    /// `table.column`.
    pub(crate) column: &'static str,
    /// Version of the master key.
    pub(crate) key_version: u32,
}

impl Place {
    fn bytes(self) -> Vec<u8> {
        // The column's name is the last and only part of variable length, so two places never look alike.
        let mut out = b"obleth/1/".to_vec();
        out.extend_from_slice(self.row.as_bytes());
        out.extend_from_slice(&self.key_version.to_be_bytes());
        out.extend_from_slice(self.column.as_bytes());
        out
    }
}

/// What was stored there cannot be read with this master key: another key, another place, or damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a stored secret cannot be read with this master key")]
pub(crate) struct Unreadable;

/// Seals and opens. Owned by the store.
pub(crate) struct Vault(Aes256Gcm);

impl Vault {
    pub(crate) fn new(key: &MasterKey) -> Self {
        Self(Aes256Gcm::new(&key.0.into()))
    }

    /// Nonce and ciphertext of `secret`, good for this place only.
    pub(crate) fn seal(&self, place: Place, secret: &Secret) -> Result<Vec<u8>, Unreadable> {
        let nonce = random::bytes::<NONCE_BYTES>();
        let payload = Payload { msg: secret.expose().as_bytes(), aad: &place.bytes() };
        let sealed = self.0.encrypt(&Nonce::from(nonce), payload).map_err(|_| Unreadable)?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    /// What [`Vault::seal`] took in.
    pub(crate) fn open(&self, place: Place, sealed: &[u8]) -> Result<Secret, Unreadable> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_BYTES>().ok_or(Unreadable)?;
        let payload = Payload { msg: sealed, aad: &place.bytes() };
        let plain = self.0.decrypt(&Nonce::from(*nonce), payload).map_err(|_| Unreadable)?;
        Ok(Secret::new(String::from_utf8(plain).map_err(|_| Unreadable)?))
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vault(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Place = Place { row: Uuid::nil(), column: "endpoints.credential", key_version: 1 };

    #[test]
    fn what_is_sealed_opens_only_in_its_own_place_and_under_its_own_key() {
        let vault = Vault::new(&MasterKey::generate());
        let sealed = vault.seal(HERE, &Secret::new("sk-upstream")).unwrap();
        assert_eq!(vault.open(HERE, &sealed).unwrap().expose(), "sk-upstream");
        let elsewhere = [
            Place { row: Uuid::max(), ..HERE },
            Place { column: "endpoints.name", ..HERE },
            Place { key_version: 2, ..HERE },
        ];
        for place in elsewhere {
            assert_eq!(vault.open(place, &sealed), Err(Unreadable), "{place:?}");
        }
        assert_eq!(Vault::new(&MasterKey::generate()).open(HERE, &sealed), Err(Unreadable));
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert_eq!(vault.open(HERE, &damaged), Err(Unreadable), "byte {at}");
        }
        assert_eq!(vault.open(HERE, &[]), Err(Unreadable));
    }

    #[test]
    fn the_same_secret_never_looks_the_same_twice() {
        let vault = Vault::new(&MasterKey::generate());
        let secret = Secret::new("x");
        assert_ne!(vault.seal(HERE, &secret).unwrap(), vault.seal(HERE, &secret).unwrap());
    }

    #[test]
    fn a_master_key_is_read_from_hex_and_from_base64() {
        let key = MasterKey([0xfb; 32]);
        assert_eq!(MasterKey::parse(&format!(" {}\n", key.to_hex())), Ok(key.clone()));
        assert_eq!(MasterKey::parse(&key.to_hex().to_uppercase()), Ok(key.clone()));
        let base64 = format!("{}+/s", "+/v7".repeat(10));
        assert_eq!(MasterKey::parse(&format!("{base64}=")), Ok(key.clone()));
        assert_eq!(MasterKey::parse(&base64.replace('+', "-").replace('/', "_")), Ok(key.clone()));
        assert_eq!(format!("{key:?}"), "MasterKey(…)");
        for wrong in ["", "short", &"g".repeat(64), &"A".repeat(44), &"a".repeat(63), &"é".repeat(32)] {
            assert_eq!(MasterKey::parse(wrong), Err(BadMasterKey), "{wrong}");
        }
    }
}
