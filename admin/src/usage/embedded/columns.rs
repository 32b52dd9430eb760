//! One column of a block as bytes, and back.
//!
//! | shape | bytes |
//! |---|---|
//! | numbers | width in bytes, with `0x80` added if some row has none; then every number in so many, little-endian. With `0x80` zero stands for none, and all others are one more |
//! | times | the first, 8 bytes, signed; then numbers: how much later each is. They never fall |
//! | ids | numbers: by how many milliseconds the time in the id (UUIDv7) differs from the row's, zigzag; then the 10 bytes of each that are left |
//! | texts | numbers: 0 for none, 1 for the text of the row's id, 2 for that of another UUID, else 3 and the length; then what is left, one after the other: 16 bytes of a UUID, or UTF-8 |
//! | names | see `names.rs` |
//!
//! Everything that belongs to a row can be found without reading the rows before it, but for texts. Reading takes any
//! bytes: it must never panic, nor take more memory than the rows that it was told of need.

use std::borrow::Cow;

use obleth_policy::unit::UnixMs;
use uuid::{Uuid, fmt::Hyphenated};

/// Bytes that no column has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a column does not hold what it should")]
pub(super) struct Torn;

/// Said of numbers some of which are none.
const SOME_NONE: u8 = 0x80;
/// Bytes of a UUIDv7 behind its time.
const REST: usize = 10;

const NO_TEXT: u64 = 0;
const OWN_ID: u64 = 1;
const OTHER_ID: u64 = 2;
const LENGTH: u64 = 3;

/// What is left to read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bytes<'b>(pub(super) &'b [u8]);

impl<'b> Bytes<'b> {
    pub(super) fn take(&mut self, length: usize) -> Result<&'b [u8], Torn> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Torn)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Torn> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Torn)?;
        self.0 = rest;
        Ok(*taken)
    }
}

/// Numbers as they are gathered, some of which are none.
#[derive(Debug)]
pub(super) struct NumbersWriter {
    /// With zeros where there is none.
    numbers: Vec<u64>,
    /// Rows that have none.
    none: Vec<u32>,
}

impl NumbersWriter {
    pub(super) fn new(rows: usize) -> Self {
        Self { numbers: Vec::with_capacity(rows), none: Vec::new() }
    }

    /// Adds the next row's.
    #[inline]
    pub(super) fn push(&mut self, number: Option<u64>) {
        if number.is_none() {
            self.none.push(self.numbers.len() as u32);
        }
        self.numbers.push(number.unwrap_or(0));
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        if self.none.is_empty() {
            return write_whole(self.numbers.iter().copied(), out);
        }
        let has_any = self.none.len() < self.numbers.len();
        let largest = self.numbers.iter().max().map_or(0, |largest| largest.saturating_add(1));
        let width = if has_any { width(largest) } else { 0 };
        out.push(width | SOME_NONE);
        let begin = out.len();
        pack(width, self.numbers.iter().map(|number| number.saturating_add(1)), out);
        let width = usize::from(width);
        for row in &self.none {
            out[begin + *row as usize * width..][..width].fill(0);
        }
    }
}

/// Writes numbers none of which is missing. They are gone through twice.
fn write_whole(numbers: impl ExactSizeIterator<Item = u64> + Clone, out: &mut Vec<u8>) {
    let width = width(numbers.clone().max().unwrap_or(0));
    out.push(width);
    pack(width, numbers, out);
}

/// Bytes that it takes.
fn width(number: u64) -> u8 {
    (u64::BITS - number.leading_zeros()).div_ceil(8) as u8
}

fn pack(width: u8, numbers: impl ExactSizeIterator<Item = u64>, out: &mut Vec<u8>) {
    match width {
        0 => {}
        1 => pack_in::<1>(numbers, out),
        2 => pack_in::<2>(numbers, out),
        3 => pack_in::<3>(numbers, out),
        4 => pack_in::<4>(numbers, out),
        5 => pack_in::<5>(numbers, out),
        6 => pack_in::<6>(numbers, out),
        7 => pack_in::<7>(numbers, out),
        _ => pack_in::<8>(numbers, out),
    }
}

/// Writes so many bytes of each number, and leaves the others out, which are zero.
fn pack_in<const WIDTH: usize>(numbers: impl ExactSizeIterator<Item = u64>, out: &mut Vec<u8>) {
    let begin = out.len();
    out.resize(begin + WIDTH * numbers.len(), 0);
    for (bytes, number) in out[begin..].as_chunks_mut::<WIDTH>().0.iter_mut().zip(numbers) {
        bytes.copy_from_slice(&number.to_le_bytes()[..WIDTH]);
    }
}

/// Numbers of every row.
#[derive(Debug)]
pub(super) struct Numbers {
    plain: Vec<u64>,
    some_none: bool,
}

impl Numbers {
    pub(super) fn read(bytes: &mut Bytes<'_>, rows: usize) -> Result<Self, Torn> {
        let [head] = bytes.array()?;
        let width = usize::from(head & !SOME_NONE);
        let packed = bytes.take(rows.checked_mul(width).ok_or(Torn)?)?;
        let plain = match width {
            0 => vec![0; rows],
            1 => unpack::<1>(packed),
            2 => unpack::<2>(packed),
            3 => unpack::<3>(packed),
            4 => unpack::<4>(packed),
            5 => unpack::<5>(packed),
            6 => unpack::<6>(packed),
            7 => unpack::<7>(packed),
            8 => unpack::<8>(packed),
            _ => return Err(Torn),
        };
        Ok(Self { plain, some_none: head & SOME_NONE != 0 })
    }

    pub(super) fn get(&self, row: usize) -> Option<u64> {
        let plain = self.plain.get(row)?;
        if self.some_none { plain.checked_sub(1) } else { Some(*plain) }
    }
}

fn unpack<const WIDTH: usize>(packed: &[u8]) -> Vec<u64> {
    let number = |bytes: &[u8]| {
        let mut whole = [0; 8];
        whole[..WIDTH].copy_from_slice(bytes);
        u64::from_le_bytes(whole)
    };
    packed.chunks_exact(WIDTH).map(number).collect()
}

/// Writes times that never fall.
pub(super) fn write_times(times: &[UnixMs], out: &mut Vec<u8>) {
    let first = times.first().copied().unwrap_or_default().0;
    out.extend(first.to_le_bytes());
    write_whole(times.iter().map(|at| at.0.wrapping_sub(first).cast_unsigned()), out);
}

pub(super) fn read_times(bytes: &mut Bytes<'_>, rows: usize) -> Result<Vec<UnixMs>, Torn> {
    let first = i64::from_le_bytes(bytes.array()?);
    let later = Numbers::read(bytes, rows)?;
    let times: Vec<_> =
        later.plain.iter().map(|later| UnixMs(first.wrapping_add(later.cast_signed()))).collect();
    // Whoever looks for a time relies on it.
    if later.some_none || !times.is_sorted() { Err(Torn) } else { Ok(times) }
}

/// Writes ids of rows of these times.
pub(super) fn write_ids(ids: &[Uuid], times: &[UnixMs], out: &mut Vec<u8>) {
    let apart = |(id, at): (&Uuid, &UnixMs)| {
        let apart = own_time(*id).wrapping_sub(at.0);
        ((apart << 1) ^ (apart >> 63)).cast_unsigned()
    };
    write_whole(ids.iter().zip(times).map(apart), out);
    ids.iter().for_each(|id| out.extend(&id.as_bytes()[6..]));
}

/// The milliseconds that a UUIDv7 begins with; of any other id, its first 48 bits.
fn own_time(id: Uuid) -> i64 {
    (id.as_u128() >> 80) as i64
}

pub(super) fn read_ids(bytes: &mut Bytes<'_>, times: &[UnixMs]) -> Result<Vec<Uuid>, Torn> {
    let apart = Numbers::read(bytes, times.len())?;
    let rests = bytes.take(times.len() * REST)?;
    let id = |((apart, rest), at): ((&u64, &[u8]), &UnixMs)| {
        let apart = (apart >> 1).cast_signed() ^ -(apart & 1).cast_signed();
        let own = at.0.wrapping_add(apart).to_be_bytes();
        let mut id = [0; 16];
        id[..6].copy_from_slice(&own[2..]);
        id[6..].copy_from_slice(rest);
        // The time of an id has 48 bits.
        if own[..2] == [0; 2] { Ok(Uuid::from_bytes(id)) } else { Err(Torn) }
    };
    apart.plain.iter().zip(rests.chunks_exact(REST)).zip(times).map(id).collect()
}

/// Writes texts of rows with these ids.
pub(super) fn write_texts(texts: &[Option<Cow<'_, str>>], ids: &[Uuid], out: &mut Vec<u8>) {
    let (mut tags, mut rest) = (Vec::with_capacity(texts.len()), Vec::new());
    let mut buffer = [0; Hyphenated::LENGTH];
    for (text, id) in texts.iter().zip(ids) {
        let Some(text) = text else {
            tags.push(NO_TEXT);
            continue;
        };
        let mut is_of = |id: Uuid| *id.hyphenated().encode_lower(&mut buffer) == **text;
        let could_be = text.len() == Hyphenated::LENGTH;
        if could_be && is_of(*id) {
            tags.push(OWN_ID);
        } else if let Some(other) = Uuid::try_parse(text).ok().filter(|other| could_be && is_of(*other)) {
            tags.push(OTHER_ID);
            rest.extend(other.as_bytes());
        } else {
            tags.push(LENGTH + text.len() as u64);
            rest.extend(text.as_bytes());
        }
    }
    write_whole(tags.iter().copied(), out);
    out.append(&mut rest);
}

/// Texts of every row, some of which have none.
pub(super) fn read_texts<'b>(bytes: &mut Bytes<'b>, ids: &[Uuid]) -> Result<Vec<Option<Cow<'b, str>>>, Torn> {
    let tags = Numbers::read(bytes, ids.len())?;
    let mut text = |(tag, id): (&u64, &Uuid)| {
        Ok(Some(match *tag {
            NO_TEXT => return Ok(None),
            OWN_ID => Cow::Owned(id.to_string()),
            OTHER_ID => Cow::Owned(Uuid::from_bytes(bytes.array()?).to_string()),
            tag => {
                let length = usize::try_from(tag - LENGTH).map_err(|_| Torn)?;
                Cow::Borrowed(str::from_utf8(bytes.take(length)?).map_err(|_| Torn)?)
            }
        }))
    };
    tags.plain.iter().zip(ids).map(&mut text).collect()
}
