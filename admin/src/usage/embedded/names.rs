//! A column of names as bytes, and back: values of which a block has few different ones, such as ids of tenants, outcomes
//! and statuses.
//!
//! | bytes | what |
//! |---|---|
//! | 0–1 | how many different ones there are |
//! | then | each of them: `0` for none, else `1` and 16 bytes of an id, 2 bytes of length and UTF-8, or 8 bytes of a number |
//! | then | which one every row has, counted from 0, in 0, 1, 2, 4, 8 or 16 bits, the least that do; the lowest bits of a byte first |
//!
//! Reading takes any bytes: it must never panic, and every row's name is there once it has come about.

use std::{borrow::Cow, collections::HashMap};

use foldhash::fast::RandomState;
use obleth_policy::unit::UnixMs;
use uuid::Uuid;

use super::columns::{Bytes, Torn};
use crate::usage::row::{Cell, Kind};

/// Names that a writer remembers: a power of two.
const RECENT: usize = 64;
/// 2⁶⁴ divided by the golden ratio.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Names as they are gathered.
#[derive(Debug)]
pub(super) struct NamesWriter<'r> {
    /// Where each stands among `different`, by sort of row: see `bands.rs`.
    codes: Vec<u16>,
    different: Vec<Option<Cell<'r>>>,
    places: HashMap<Option<Cell<'r>>, u16, RandomState>,
    /// For some names, where they may stand among `different`: it saves most looks into `places`.
    recent: [u16; RECENT],
}

impl<'r> NamesWriter<'r> {
    pub(super) fn new() -> Self {
        Self { codes: Vec::new(), different: Vec::new(), places: HashMap::default(), recent: [0; RECENT] }
    }

    pub(super) fn different(&self) -> &[Option<Cell<'r>>] {
        &self.different
    }

    /// Adds the name of the next sort of rows. A block must not have more of them than numbers of 16 bits.
    #[inline]
    pub(super) fn push(&mut self, name: Option<Cell<'r>>) {
        let slot = slot(&name);
        let recent = self.recent[slot];
        if self.different.get(usize::from(recent)).is_some_and(|known| is_same(known, &name)) {
            self.codes.push(recent);
        } else {
            self.look_up(name, slot);
        }
    }

    fn look_up(&mut self, name: Option<Cell<'r>>, slot: usize) {
        let code = *self.places.entry(name).or_insert_with_key(|name| {
            self.different.push(name.clone());
            (self.different.len() - 1) as u16
        });
        self.recent[slot] = code;
        self.codes.push(code);
    }

    /// Writes it for rows of these sorts.
    pub(super) fn write(&self, sorts: &[u16], out: &mut Vec<u8>) {
        out.extend((self.different.len() as u16).to_le_bytes());
        for name in &self.different {
            out.push(name.is_some().into());
            match name {
                None => {}
                Some(Cell::Id(id)) => out.extend(id.as_bytes()),
                Some(Cell::Text(text)) => {
                    let text = &text[..text.floor_char_boundary(u16::MAX.into())];
                    out.extend((text.len() as u16).to_le_bytes());
                    out.extend(text.as_bytes());
                }
                Some(Cell::Time(at)) => out.extend(at.0.to_le_bytes()),
                Some(Cell::Count(count)) => out.extend(count.to_le_bytes()),
                Some(Cell::Flag(flag)) => out.extend(u64::from(*flag).to_le_bytes()),
            }
        }
        let code = |sort: &u16| self.codes[usize::from(*sort)];
        match bits(self.different.len()) {
            0 => {}
            8 => out.extend(sorts.iter().map(|sort| code(sort) as u8)),
            16 => sorts.iter().for_each(|sort| out.extend(code(sort).to_le_bytes())),
            bits => out.extend(
                sorts
                    .chunks(8 / bits)
                    .map(|sorts| sorts.iter().rev().fold(0, |byte, sort| byte << bits | code(sort) as u8)),
            ),
        }
    }
}

/// Where a name is remembered: quick, and the same for the very same name, no more.
fn slot(name: &Option<Cell<'_>>) -> usize {
    let number = match name {
        None => 0,
        Some(Cell::Id(id)) => id.as_u64_pair().1,
        Some(Cell::Time(at)) => at.0.cast_unsigned(),
        Some(Cell::Text(text)) => text.as_ptr().addr() as u64,
        Some(Cell::Count(count)) => *count,
        Some(Cell::Flag(flag)) => (*flag).into(),
    };
    (number.wrapping_mul(SPREAD) >> (u64::BITS - RECENT.ilog2())) as usize
}

/// Whether two names are the same. Most texts are the very same bytes in memory, and need not be compared.
fn is_same(one: &Option<Cell<'_>>, other: &Option<Cell<'_>>) -> bool {
    match (one, other) {
        (Some(Cell::Text(one)), Some(Cell::Text(other))) => {
            std::ptr::eq::<str>(one.as_ref(), other.as_ref()) || one == other
        }
        _ => one == other,
    }
}

/// Bits for each row where there are so many different names.
const fn bits(different: usize) -> usize {
    match different {
        0 | 1 => 0,
        2 => 1,
        3 | 4 => 2,
        5..=16 => 4,
        17..=256 => 8,
        _ => 16,
    }
}

/// Names of every row.
#[derive(Debug)]
pub(super) struct Names<'b> {
    pub(super) different: Vec<Option<Cell<'b>>>,
    /// Which of them each row has. They are there.
    pub(super) codes: Vec<u16>,
}

impl<'b> Names<'b> {
    pub(super) fn read(bytes: &mut Bytes<'b>, rows: usize, kind: Kind) -> Result<Self, Torn> {
        let count = usize::from(u16::from_le_bytes(bytes.array()?));
        if count > rows {
            return Err(Torn);
        }
        let different = (0..count).map(|_| read_name(bytes, kind)).collect::<Result<Vec<_>, _>>()?;
        let bits = bits(count);
        let packed = bytes.take((rows * bits).div_ceil(8))?;
        let codes: Vec<u16> = match bits {
            0 => vec![0; rows],
            8 => packed.iter().map(|code| u16::from(*code)).collect(),
            16 => packed.chunks_exact(2).map(|code| u16::from_le_bytes([code[0], code[1]])).collect(),
            _ => {
                let (in_byte, mask) = (8 / bits, (1 << bits) - 1);
                let codes = packed.iter().flat_map(|byte| (0..in_byte).map(move |at| byte >> (at * bits)));
                codes.take(rows).map(|code| u16::from(code & mask)).collect()
            }
        };
        let largest = codes.iter().max().copied().unwrap_or_default();
        if usize::from(largest) < count { Ok(Self { different, codes }) } else { Err(Torn) }
    }

    /// Which one this is, if any row has it.
    pub(super) fn code(&self, name: &Cell<'_>) -> Option<u16> {
        let at = self.different.iter().position(|known| known.as_ref() == Some(name))?;
        u16::try_from(at).ok()
    }

    pub(super) fn get(&self, row: usize) -> Option<&Cell<'b>> {
        self.different.get(usize::from(*self.codes.get(row)?))?.as_ref()
    }
}

fn read_name<'b>(bytes: &mut Bytes<'b>, kind: Kind) -> Result<Option<Cell<'b>>, Torn> {
    match bytes.array()? {
        [0] => return Ok(None),
        [1] => {}
        _ => return Err(Torn),
    }
    let mut number = || bytes.array().map(u64::from_le_bytes);
    Ok(Some(match kind {
        Kind::Time => Cell::Time(UnixMs(number()?.cast_signed())),
        Kind::Count => Cell::Count(number()?),
        Kind::Flag => Cell::Flag(number()? != 0),
        Kind::Id => Cell::Id(Uuid::from_bytes(bytes.array()?)),
        Kind::Text => {
            let length = u16::from_le_bytes(bytes.array()?);
            Cell::Text(Cow::Borrowed(str::from_utf8(bytes.take(length.into())?).map_err(|_| Torn)?))
        }
    }))
}
