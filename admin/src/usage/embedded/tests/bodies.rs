//! Blocks as bytes: whatever rows go in come back, and whatever bytes come are judged without a panic.

use obleth_ledger::Text;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::usage::embedded::{
    block::{self, Block, MOST_ROWS},
    columns::Torn,
    encode::{Cells, Encoded, encode},
};
use crate::usage::row::{COLUMNS, Row};

/// Rows of all sorts, in order.
fn some_rows() -> impl Strategy<Value = Vec<Row>> {
    let id = prop_oneof![Just(None), any::<u128>().prop_map(Some)];
    let text = prop_oneof![
        Just(None),
        any::<String>().prop_map(Some),
        any::<u128>().prop_map(|id| Some(Uuid::from_u128(id).to_string())),
        any::<u128>().prop_map(|id| Some(Uuid::from_u128(id).to_string().to_uppercase())),
    ];
    let number = prop_oneof![0..9_u64, any::<u64>()];
    let row = (prop_oneof![0..5_000_i64, any::<i64>()], number, id, text);
    prop::collection::vec(row, 1..80).prop_map(|rows| {
        let mut rows: Vec<_> = rows.into_iter().map(one_row).collect();
        rows.sort_by_key(Cells::place);
        rows
    })
}

fn one_row((ts, number, id, text): (i64, u64, Option<u128>, Option<String>)) -> Row {
    let mut row = golden::at(UnixMs(ts), number);
    row.record.total_ms = number as u32;
    row.record.tokens.input = number;
    row.record.cost = id.map(|_| MicroUsd(number));
    row.record.retries = number as u8;
    row.record.session_id = text.as_deref().map(Text::new);
    row.record.id = id.map_or(row.record.id, Uuid::from_u128);
    row.record.request_id = Text::new(&text.unwrap_or_else(|| row.record.id.to_string()));
    row
}

fn decode(body: &[u8]) -> Result<Vec<Vec<Option<Cell<'static>>>>, Torn> {
    let block = Block::open(body)?.decode()?;
    (0..block.times.len()).map(|row| Ok(block.entry(row)?.cells().to_vec())).collect()
}

/// The checksum made right again.
fn sealed(mut body: Vec<u8>) -> Vec<u8> {
    if let Some((head, rest)) = body.split_at_mut_checked(5) {
        head[1..].copy_from_slice(&crc32fast::hash(rest).to_le_bytes());
    }
    body
}

fn block() -> Encoded {
    let mut rows = golden::rows();
    rows.sort_by_key(Cells::place);
    encode(&rows[..50])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn rows_come_back_as_they_went(rows in some_rows()) {
        let Encoded { from, to, rows: count, body, .. } = encode(&rows);
        prop_assert_eq!((count as usize, from), (rows.len(), rows[0].record.ts));
        prop_assert_eq!(to, rows[rows.len() - 1].record.ts);
        let found = decode(&body).unwrap();
        prop_assert_eq!(found.len(), rows.len());
        for (found, row) in found.iter().zip(&rows) {
            prop_assert!(found.iter().cloned().eq(row.cells()), "{:?}\n{:?}", found, row);
        }
        // What was decoded goes into another block as it is.
        let whole = Block::open(&body).unwrap();
        let whole = whole.decode().unwrap();
        prop_assert_eq!(encode(&whole.rows().collect::<Vec<_>>()).body, body);
    }

    #[test]
    fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut body = body;
        if let Some(format) = body.first_mut() {
            *format = 1;
        }
        prop_assert!(decode(&sealed(body)).is_err());
    }
}

#[test]
fn a_block_that_is_cut_or_altered_anywhere_is_refused() {
    let body = block().body;
    assert!(decode(&body).is_ok());
    for at in 0..body.len() {
        assert_eq!(decode(&body[..at]), Err(Torn), "cut to {at}");
        let mut altered = body.clone();
        altered[at] ^= 0x10;
        assert_eq!(decode(&altered), Err(Torn), "altered at {at}");
    }
    assert_eq!(decode(&[&body[..], &[0]].concat()), Err(Torn), "longer");
}

#[test]
fn a_wrong_block_with_a_right_checksum_makes_nothing_panic() {
    let body = block().body;
    for at in 5..body.len() {
        for bits in [1, 0x80, 0xff] {
            let mut altered = body.clone();
            altered[at] ^= bits;
            // Another text or number is as good as the one that was there.
            let _ = decode(&sealed(altered));
        }
        let _ = decode(&sealed(body[..at].to_vec()));
    }
}

/// Files that are there must stay readable: what makes this fail, other than other rows, is another format.
#[test]
fn the_bytes_of_this_format_never_change() {
    let body = block().body;
    assert_eq!((body.len(), crc32fast::hash(&body)), (4790, 1_364_200_547));
}

#[test]
fn a_full_block_with_as_many_names_as_rows_comes_back() {
    let row = |number: usize| {
        let mut row = golden::at(UnixMs(7), 1);
        row.record.id = Uuid::from_u128(number as u128);
        row.record.key.0 = row.record.id;
        row.model_name = Some(format!("{}{number}", "ü".repeat(300)).into());
        row
    };
    let rows: Vec<_> = (0..MOST_ROWS).map(row).collect();
    let found = decode(&encode(&rows).body).unwrap();
    assert!(found.iter().zip(&rows).all(|(found, row)| found.iter().cloned().eq(row.cells())));
}

#[test]
fn a_block_has_the_columns_of_the_list() {
    let names: Vec<_> = COLUMNS.iter().map(|column| column.name).collect();
    assert_eq!(block::names().collect::<Vec<_>>(), names);
}
