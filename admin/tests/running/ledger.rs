//! Records of the usage ledger, put into its file from outside, as if they had been shipped.
//!
//! Each is a block of its own, written by the ledger's description alone (`admin/src/usage/embedded/block.rs`): what these
//! tests read back holds the sidecar to it.

use rusqlite::Connection;
use uuid::{Builder, Uuid};

/// The format that is written here.
const FORMAT: u8 = 1;
/// A block that is full is left alone.
const FULL: u8 = 4;

/// A record, as far as tests tell them apart.
#[derive(Clone)]
pub(crate) struct Record {
    pub(crate) ts: i64,
    /// Tells ids of one millisecond apart.
    pub(crate) rest: [u8; 10],
    pub(crate) request_id: String,
    pub(crate) tenant: String,
    pub(crate) key: String,
    pub(crate) model: String,
    pub(crate) refused: bool,
    pub(crate) input_tokens: u64,
    pub(crate) cost: Option<u64>,
}

impl Record {
    pub(super) fn insert(&self, conn: &Connection) {
        // No set: anybody may be in it.
        let values = (FULL, self.ts, self.body());
        conn.execute(
            "INSERT INTO blocks (level, min_ts, max_ts, rows, who, body) VALUES (?1, ?2, ?2, 1, x'', ?3)",
            values,
        )
        .unwrap();
    }

    fn body(&self) -> Vec<u8> {
        let columns = self.columns();
        let mut checked = 1_u32.to_le_bytes().to_vec();
        checked.extend(columns.iter().flat_map(|column| (column.len() as u32).to_le_bytes()));
        checked.extend(columns.concat());
        [&[FORMAT][..], &crc32fast::hash(&checked).to_le_bytes(), &checked].concat()
    }

    fn columns(&self) -> Vec<Vec<u8>> {
        let id = Builder::from_unix_timestamp_millis(self.ts.unsigned_abs(), &self.rest).into_uuid();
        let (status, outcome, admission, source) = match self.refused {
            true => (403, "rejected", "rejected", None),
            false => (200, "ok", "queued", Some("upstream")),
        };
        let used = |tokens: u64| Some(source.map_or(0, |_| tokens));
        vec![
            [&[0], &id.as_bytes()[6..]].concat(), // its time is the record's
            [&self.ts.to_le_bytes()[..], &[0]].concat(),
            [&number(Some(3 + self.request_id.len() as u64)), self.request_id.as_bytes()].concat(),
            number(Some(0)),
            text(Some("n")),
            uuid(&self.tenant),
            uuid(&self.key),
            text(None),
            text(Some("default")),
            text(None),
            text(Some(&self.model)),
            text(Some("/v1/chat/completions")),
            text(None),
            count(status),
            text(Some(outcome)),
            text(None),
            text(Some(admission)),
            number(Some(4)),
            number(Some(20)),
            number(Some(90)),
            number(None),
            number(Some(self.input_tokens)),
            number(used(2)),
            number(used(30)),
            text(source),
            number(self.cost),
            text(None),
            count(1),
            count(0),
        ]
    }
}

/// A column of one number.
fn number(number: Option<u64>) -> Vec<u8> {
    number.map_or(vec![0x80], |number| [&[8][..], &number.to_le_bytes()].concat())
}

/// A column of one name, of these bytes.
fn name(bytes: Option<&[u8]>) -> Vec<u8> {
    bytes.map_or(vec![1, 0, 0], |bytes| [&[1, 0, 1], bytes].concat())
}

fn text(text: Option<&str>) -> Vec<u8> {
    name(text.map(|text| [&(text.len() as u16).to_le_bytes(), text.as_bytes()].concat()).as_deref())
}

fn count(count: u64) -> Vec<u8> {
    name(Some(&count.to_le_bytes()))
}

fn uuid(text: &str) -> Vec<u8> {
    name(Some(Uuid::parse_str(text).unwrap().as_bytes()))
}
