//! Rotation in SQLite: a key gets a new digest, and the old one reaches it for a while longer.
//!
//! A key has one newest secret and a bounded number of old ones. No rotation lengthens anybody's time, and one
//! without grace leaves the new secret alone. What has ended is deleted, in bounded pieces, whenever a key is
//! rotated.

use obleth_policy::{id::KeyId, key::KeyDigest, unit::UnixMs};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::{
    columns::changed_one,
    fault::{Kind, StoreError},
    keys,
    rows::{Act, KeyChange, OldSecret},
    sqlite::Db,
};
use crate::clock;

/// Old secrets of one key that work at the same time. With one more, the one that would end first ends at once.
const MOST_OLD: usize = 3;
/// Ended secrets that one rotation deletes; it adds one, so they do not pile up.
const SWEEP: u32 = 100;
/// The end of what ends with the rotation: past whatever the clocks say.
const AT_ONCE: UnixMs = UnixMs(0);

/// A secret that is about to be handed out.
#[derive(Clone, Debug)]
pub(crate) struct NewSecret {
    pub(crate) digest: KeyDigest,
    /// What is shown of it.
    pub(crate) prefix: String,
}

/// The id of the key that this old digest still reaches, and until when.
pub(super) fn owner(
    conn: &Connection,
    digest: KeyDigest,
    now: UnixMs,
) -> rusqlite::Result<Option<(String, UnixMs)>> {
    let sql = "SELECT key_id, ends_at FROM key_secrets WHERE digest = ?1 AND ends_at > ?2";
    conn.query_row(sql, params![digest.0, now.0], |row| Ok((row.get(0)?, UnixMs(row.get(1)?)))).optional()
}

/// Old secrets of a key that still work, the one that works longest first.
pub(super) fn in_grace(conn: &Connection, id: KeyId, now: UnixMs) -> rusqlite::Result<Vec<OldSecret>> {
    let sql =
        "SELECT digest, ends_at FROM key_secrets WHERE key_id = ?1 AND ends_at > ?2 ORDER BY ends_at DESC";
    conn.prepare(sql)?
        .query_map(params![id.to_string(), now.0], |row| {
            Ok(OldSecret { digest: KeyDigest(row.get(0)?), ends_at: UnixMs(row.get(1)?) })
        })?
        .collect()
}

fn put(tx: &Transaction<'_>, id: KeyId, old: &[OldSecret]) -> rusqlite::Result<()> {
    tx.execute("DELETE FROM key_secrets WHERE key_id = ?1", [id.to_string()])?;
    for secret in old {
        tx.execute(
            "INSERT INTO key_secrets (digest, key_id, ends_at) VALUES (?1, ?2, ?3)",
            params![secret.digest.0, id.to_string(), secret.ends_at.0],
        )?;
    }
    Ok(())
}

fn sweep(tx: &Transaction<'_>, now: UnixMs) -> rusqlite::Result<()> {
    let sql = "DELETE FROM key_secrets WHERE digest IN
        (SELECT digest FROM key_secrets WHERE ends_at <= ?1 ORDER BY ends_at LIMIT ?2)";
    tx.execute(sql, params![now.0, SWEEP]).map(drop)
}

impl Db {
    /// Gives a key a new secret. The one it had works for `grace_ms` longer; older ones as long as they would
    /// have, but no longer than that one.
    pub(crate) fn rotate_key(
        &mut self,
        act: &Act,
        id: KeyId,
        new: NewSecret,
        grace_ms: i64,
    ) -> Result<KeyChange, StoreError> {
        self.write(|writer| {
            let before = keys::by_id(&writer.tx, id)?;
            let now = clock::now();
            let end = UnixMs(now.0.saturating_add(grace_ms));
            let older = in_grace(&writer.tx, id, now)?;
            let older =
                older.into_iter().map(|secret| OldSecret { ends_at: secret.ends_at.min(end), ..secret });
            let mut old = vec![OldSecret { digest: before.digest, ends_at: end }];
            old.extend(older);
            let working = if grace_ms > 0 { old.len().min(MOST_OLD) } else { 0 };
            put(&writer.tx, id, &old[..working])?;
            old[working..].iter_mut().for_each(|secret| secret.ends_at = AT_ONCE);
            sweep(&writer.tx, now)?;
            let sql = "UPDATE api_keys SET digest = ?2, key_prefix = ?3, updated_at = ?4 WHERE id = ?1";
            changed_one(writer.tx.execute(sql, params![id.to_string(), new.digest.0, new.prefix, now.0])?)?;
            let row = keys::by_id(&writer.tx, id)?;
            writer.audit(act, (Kind::Key, id.0), Some(&before), Some(&row))?;
            Ok(KeyChange { row, old })
        })
    }
}

#[cfg(test)]
mod tests {
    use obleth_policy::id::TenantId;

    use super::*;
    use crate::{
        store::{
            KeyLookup,
            rows::{KeyRow, TenantRow},
        },
        vault::MasterKey,
    };

    const HOUR: i64 = 3_600_000;

    fn act() -> Act {
        Act { actor: "test".into(), action: "key.rotate" }
    }

    fn digest(n: u8) -> KeyDigest {
        KeyDigest([n; 32])
    }

    fn rotate(db: &mut Db, id: KeyId, n: u8, grace_ms: i64) -> KeyChange {
        let new = NewSecret { digest: digest(n), prefix: format!("sk_{n:04}") };
        db.rotate_key(&act(), id, new, grace_ms).unwrap()
    }

    /// A store with a key whose digest is `digest(0)`.
    fn store() -> (tempfile::TempDir, Db, KeyLookup, KeyId) {
        let dir = tempfile::tempdir().unwrap();
        let (mut db, lookup) = Db::open(&dir.path().join("db"), &MasterKey::generate()).unwrap();
        let tenant: TenantId = db.create_tenant(&act(), TenantRow::draft("acme".into())).unwrap().id;
        let draft = KeyRow::draft(tenant, "k".into(), "sk_0000000", digest(0));
        let id = db.create_key(&act(), draft).unwrap().row.id;
        (dir, db, lookup, id)
    }

    /// Which of the first ten digests work, and those of them that are to end.
    fn working(lookup: &mut KeyLookup) -> (Vec<u8>, Vec<u8>) {
        let mut find = |n: &u8| lookup.find(digest(*n)).unwrap();
        let all: Vec<u8> = (0..10).filter(|n| find(n).is_some()).collect();
        let ending = all.iter().copied().filter(|n| find(n).unwrap().secret_ends_at.is_some()).collect();
        (all, ending)
    }

    #[test]
    fn an_old_secret_reaches_the_same_key_until_its_end() {
        let (_dir, mut db, mut lookup, id) = store();
        let before = clock::now();
        let change = rotate(&mut db, id, 1, HOUR);
        let ends_at = change.old[0].ends_at;
        assert!(ends_at.0 >= before.0 + HOUR && ends_at.0 <= clock::now().0 + HOUR);
        assert_eq!((change.row.id, change.row.previous_secret_ends_at), (id, Some(ends_at)));
        assert_eq!((change.row.digest, change.row.key_prefix.as_str()), (digest(1), "sk_0001"));
        let (old, new) = (lookup.find(digest(0)).unwrap().unwrap(), lookup.find(digest(1)).unwrap().unwrap());
        assert_eq!((old.id, old.secret_ends_at), (id, Some(ends_at)));
        assert_eq!((new.id, new.secret_ends_at), (id, None));
        db.conn.execute("UPDATE key_secrets SET ends_at = ?1", [clock::now().0]).unwrap();
        assert!(lookup.find(digest(0)).unwrap().is_none());
        assert_eq!(db.key(id).unwrap().previous_secret_ends_at, None);
    }

    #[test]
    fn without_grace_every_earlier_secret_ends_at_once_and_is_reported() {
        let (_dir, mut db, mut lookup, id) = store();
        rotate(&mut db, id, 1, HOUR);
        rotate(&mut db, id, 2, 2 * HOUR);
        assert_eq!(working(&mut lookup), (vec![0, 1, 2], vec![0, 1]));
        let change = rotate(&mut db, id, 3, 0);
        assert_eq!(working(&mut lookup), (vec![3], vec![]));
        let mut told: Vec<_> = change.old.iter().map(|secret| (secret.digest.0[0], secret.ends_at)).collect();
        told.sort();
        assert_eq!(told, [(0, AT_ONCE), (1, AT_ONCE), (2, AT_ONCE)]);
    }

    #[test]
    fn no_rotation_lengthens_an_earlier_ones_grace() {
        let (_dir, mut db, _lookup, id) = store();
        let first = rotate(&mut db, id, 1, HOUR).old[0].ends_at;
        let change = rotate(&mut db, id, 2, 5 * HOUR);
        assert_eq!(change.old[1], OldSecret { digest: digest(0), ends_at: first });
        let change = rotate(&mut db, id, 3, 1000);
        assert!(change.old.iter().all(|secret| secret.ends_at == change.old[0].ends_at), "{change:?}");
    }

    #[test]
    fn a_key_has_a_bounded_number_of_secrets_and_the_first_to_end_makes_room() {
        let (_dir, mut db, mut lookup, id) = store();
        for n in 1..=9 {
            let change = rotate(&mut db, id, n, i64::from(n) * HOUR);
            assert!(change.old.len() <= MOST_OLD + 1);
        }
        assert_eq!(working(&mut lookup), (vec![6, 7, 8, 9], vec![6, 7, 8]));
    }

    #[test]
    fn an_edit_names_every_secret_that_works_and_a_deleted_key_keeps_them_for_their_grace() {
        let (_dir, mut db, mut lookup, id) = store();
        rotate(&mut db, id, 1, HOUR);
        let change = db.update_key(&act(), id, |row| row.disabled = true).unwrap();
        assert_eq!(change.old.iter().map(|secret| secret.digest).collect::<Vec<_>>(), [digest(0)]);
        assert!(lookup.find(digest(0)).unwrap().unwrap().disabled);
        assert_eq!(db.delete_key(&act(), id).unwrap().old.len(), 1);
        assert!(lookup.find(digest(0)).unwrap().unwrap().deleted);
        let refused = db.rotate_key(&act(), id, NewSecret { digest: digest(9), prefix: String::new() }, 0);
        assert_eq!(refused.unwrap_err(), StoreError::NotFound(Kind::Key));
    }

    #[test]
    fn what_has_ended_is_deleted_piece_by_piece() {
        let (_dir, mut db, _lookup, id) = store();
        let insert = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 150)
            INSERT INTO key_secrets (digest, key_id, ends_at) SELECT randomblob(32), ?1, i FROM n";
        let other = {
            let tenant = db.key(id).unwrap().tenant_id;
            let draft = KeyRow::draft(tenant, "other".into(), "sk_1111111", digest(100));
            db.create_key(&act(), draft).unwrap().row.id
        };
        db.conn.execute(insert, [other.to_string()]).unwrap();
        let left = |db: &Db| -> u32 {
            db.conn.query_row("SELECT count(*) FROM key_secrets", [], |row| row.get(0)).unwrap()
        };
        rotate(&mut db, id, 1, HOUR);
        assert_eq!(left(&db), 150 - SWEEP + 1);
        rotate(&mut db, id, 2, HOUR);
        assert_eq!(left(&db), 2);
    }
}
