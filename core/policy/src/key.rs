//! What a key and its tenant may do (gate 4 of the data plane), as one pure judgement.
//!
//! A key is known here only by its digest; the secret itself never gets this far.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::{
    id::{KeyId, TenantId},
    limit::Limits,
    network::NetworkGrant,
    outcome::Code,
    protocol::KeyShape,
    snapshot::{ModelGrant, Tenant, TenantStatus},
    unit::UnixMs,
};

/// SHA-256 of a secret, or HMAC-SHA-256 under the operator's pepper.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyDigest(pub [u8; 32]);

impl fmt::Debug for KeyDigest {
    /// Four bytes: enough to tell two apart in a log, useless to anybody else.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "KeyDigest({a:02x}{b:02x}{c:02x}{d:02x}…)")
    }
}

impl KeyDigest {
    /// The digest of a secret as the client sent it.
    #[must_use]
    pub fn of(secret: &[u8], pepper: Option<&Pepper>) -> Self {
        match pepper {
            None => Self(Sha256::digest(secret).into()),
            Some(pepper) => Self(pepper.0.clone().chain_update(secret).finalize().into_bytes().into()),
        }
    }

    /// Sixty-four lower-case hex digits, as stores index it.
    #[must_use]
    pub fn hex(&self) -> String {
        self.0.iter().fold(String::with_capacity(64), |mut out, byte| {
            for nibble in [byte >> 4, byte & 15] {
                out.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
            }
            out
        })
    }
}

/// The operator's pepper: with it, a stolen table of digests cannot be tried against guesses. Changing it
/// makes every key unknown.
#[derive(Clone)]
pub struct Pepper(Hmac<Sha256>);

impl Pepper {
    /// Takes any text of the operator's, as HMAC does.
    #[must_use]
    pub fn new(text: &[u8]) -> Self {
        // A key longer than a block is hashed first; HMAC takes every length.
        let block = Hmac::<Sha256>::new_from_slice(text).unwrap_or_else(|_| Hmac::new(&Default::default()));
        Self(block)
    }
}

impl fmt::Debug for Pepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pepper(…)")
    }
}

/// A key as the store knows it, reached by one of its secrets. Immutable: an edit makes a new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// Keeps through rotation.
    pub id: KeyId,
    /// The owner; its own state is in the snapshot.
    pub tenant: TenantId,
    /// Switched off by an operator; can come back.
    pub disabled: bool,
    /// Soft-deleted; never comes back.
    pub deleted: bool,
    /// First moment at which the key no longer works.
    pub expires_at: Option<UnixMs>,
    /// Models that this key may use.
    pub grant: ModelGrant,
    /// From where this key may be used.
    pub networks: NetworkGrant,
    /// Its share among the tenant's keys, and what it may have in flight.
    pub shape: KeyShape,
    /// What it may use.
    pub limits: Limits,
    /// First moment at which the secret that it was reached by is unknown: the key was rotated, and this is the
    /// end of the grace. `None` for the newest secret.
    pub secret_ends_at: Option<UnixMs>,
}

impl KeyRecord {
    /// A key that may do everything, reached by its newest secret.
    #[must_use]
    pub const fn unlimited(id: KeyId, tenant: TenantId) -> Self {
        Self {
            id,
            tenant,
            disabled: false,
            deleted: false,
            expires_at: None,
            grant: ModelGrant::All,
            networks: NetworkGrant::All,
            shape: KeyShape { weight: 100, max_in_flight: None },
            limits: Limits::NONE,
            secret_ends_at: None,
        }
    }

    /// Whether the secret that it was reached by is one that was rotated away, its grace over. Then nobody has
    /// this key, whatever its state.
    #[must_use]
    pub fn secret_has_ended(&self, now: UnixMs) -> bool {
        self.secret_ends_at.is_some_and(|end| end <= now)
    }
}

/// What a store said about a digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyAnswer {
    /// There is such a key.
    Found(Arc<KeyRecord>),
    /// The store answered, and there is none. The only ground for a 401.
    Unknown,
    /// No store could answer, but one did this long ago, and nobody has edited the key since.
    Unconfirmed(Arc<KeyRecord>, Duration),
    /// No store could answer, and nobody remembers the key.
    StoreDown,
}

/// Whether a key may make requests at all at `now`. `tenant` is `None` when it is deleted or unknown. `client`
/// finds the client's address, `None` if it cannot; it is asked only where a list of addresses has to be kept.
///
/// # Errors
/// The code of the refusal, in the order in which an operator would look for the cause: the key first.
pub fn judge(
    key: &KeyRecord,
    tenant: Option<&Tenant>,
    now: UnixMs,
    client: impl FnOnce() -> Option<IpAddr>,
) -> Result<(), Code> {
    if key.deleted {
        return Err(Code::KeyDeleted);
    }
    if key.disabled {
        return Err(Code::KeyDisabled);
    }
    if key.expires_at.is_some_and(|at| at <= now) {
        return Err(Code::KeyExpired);
    }
    let tenant = tenant.ok_or(Code::TenantNotFound)?;
    if tenant.status != TenantStatus::Active {
        return Err(Code::TenantSuspended);
    }
    if key.networks.is_limited() || tenant.networks.is_limited() {
        let client = client();
        if !key.networks.allows(client) || !tenant.networks.allows(client) {
            return Err(Code::IpNotAllowed);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{
        id::{GroupId, GroupIx, TenantIx},
        snapshot::Brownout,
    };

    fn key() -> KeyRecord {
        KeyRecord::unlimited(KeyId(Uuid::nil()), TenantId(Uuid::nil()))
    }

    fn tenant(status: TenantStatus) -> Tenant {
        Tenant {
            id: TenantId(Uuid::nil()),
            ix: TenantIx(0),
            name: "t".into(),
            status,
            weight: 100,
            group: GroupIx::DEFAULT,
            group_id: GroupId(Uuid::nil()),
            max_in_flight: None,
            brownout: Brownout::Never,
            grant: ModelGrant::All,
            networks: NetworkGrant::All,
            limits: Limits::NONE,
            group_limits: Limits::NONE,
        }
    }

    fn nobody_asks() -> Option<IpAddr> {
        unreachable!("without a list nobody needs the address")
    }

    fn judged(key: &KeyRecord, tenant: Option<&Tenant>, now: i64) -> Result<(), Code> {
        judge(key, tenant, UnixMs(now), nobody_asks)
    }

    #[test]
    fn the_first_cause_that_an_operator_would_look_for_wins() {
        let active = tenant(TenantStatus::Active);
        let now = 1000;
        assert_eq!(judged(&key(), Some(&active), now), Ok(()));
        let worst = KeyRecord { disabled: true, deleted: true, expires_at: Some(UnixMs(0)), ..key() };
        assert_eq!(judged(&worst, None, now), Err(Code::KeyDeleted));
        let off = KeyRecord { disabled: true, expires_at: Some(UnixMs(0)), ..key() };
        assert_eq!(judged(&off, None, now), Err(Code::KeyDisabled));
        assert_eq!(judged(&key(), None, now), Err(Code::TenantNotFound));
        for status in [TenantStatus::Suspended, TenantStatus::Archived] {
            assert_eq!(judged(&key(), Some(&tenant(status)), now), Err(Code::TenantSuspended));
        }
    }

    #[test]
    fn a_key_works_up_to_but_not_at_its_expiry() {
        let active = tenant(TenantStatus::Active);
        let expiring = KeyRecord { expires_at: Some(UnixMs(1000)), ..key() };
        assert_eq!(judged(&expiring, Some(&active), 999), Ok(()));
        assert_eq!(judged(&expiring, Some(&active), 1000), Err(Code::KeyExpired));
    }

    #[test]
    fn an_old_secret_works_up_to_but_not_at_its_end() {
        let old = KeyRecord { secret_ends_at: Some(UnixMs(1000)), ..key() };
        assert!(!old.secret_has_ended(UnixMs(999)) && old.secret_has_ended(UnixMs(1000)));
        assert!(!key().secret_has_ended(UnixMs(i64::MAX)));
    }

    #[test]
    fn where_a_key_may_be_used_from_is_asked_last_and_of_key_and_tenant_both() {
        let only = |range: &str| NetworkGrant::Only([range.parse().unwrap()].into());
        let from = |key: &KeyRecord, tenant: &Tenant, at: &str| {
            judge(key, Some(tenant), UnixMs(0), || Some(at.parse().unwrap()))
        };
        let limited = KeyRecord { networks: only("10.0.0.0/8"), ..key() };
        let (open, narrow) = (
            tenant(TenantStatus::Active),
            Tenant { networks: only("10.1.0.0/16"), ..tenant(TenantStatus::Active) },
        );
        assert_eq!(from(&limited, &open, "10.2.0.1"), Ok(()));
        assert_eq!(from(&limited, &open, "11.0.0.1"), Err(Code::IpNotAllowed));
        assert_eq!(from(&limited, &narrow, "10.2.0.1"), Err(Code::IpNotAllowed));
        assert_eq!(from(&limited, &narrow, "10.1.0.1"), Ok(()));
        assert_eq!(from(&key(), &narrow, "10.2.0.1"), Err(Code::IpNotAllowed));
        assert_eq!(judge(&limited, Some(&open), UnixMs(0), || None), Err(Code::IpNotAllowed));
        let off = KeyRecord { disabled: true, ..limited };
        assert_eq!(judged(&off, Some(&narrow), 0), Err(Code::KeyDisabled));
    }

    #[test]
    fn digests_are_those_of_the_published_test_vectors() {
        let plain = KeyDigest::of(b"abc", None).hex();
        assert_eq!(plain, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"); // FIPS 180-4
        let peppered = KeyDigest::of(b"what do ya want for nothing?", Some(&Pepper::new(b"Jefe"))).hex();
        // RFC 4231, test case 2
        assert_eq!(peppered, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    #[test]
    fn a_digest_shows_only_its_first_bytes() {
        assert_eq!(format!("{:?}", KeyDigest([0xab; 32])), "KeyDigest(abababab…)");
    }
}
