//! Sums over the rows of blocks, by what they have in common.
//!
//! Names are numbered once for all blocks, so that a row's group is found by a handful of numbers.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use obleth_ledger::Admission;
use obleth_policy::outcome::Outcome;

use super::{
    block::{self, Block},
    columns::{Numbers, Torn},
    names::Names,
    read::{Sieve, part},
};
use crate::usage::{
    report::{Dimension, Group, MOST_GROUPS, Report, Sums},
    row::Cell,
};

/// A group: its bucket, then the number of its name in each dimension; zeros behind that.
type Key = [u32; 1 + Dimension::ALL.len()];

/// The groups of a report, as far as blocks were added.
pub(super) struct Tally<'q> {
    report: &'q Report,
    /// One for each dimension that was asked for.
    known: Vec<Known>,
    groups: Vec<(Key, Sums)>,
    places: HashMap<Key, usize, RandomState>,
    is_too_long: bool,
}

/// Names of a dimension that any block had.
#[derive(Default)]
struct Known {
    names: Vec<Option<Cell<'static>>>,
    numbers: HashMap<Option<Cell<'static>>, u32, RandomState>,
}

impl Known {
    fn number(&mut self, name: Option<&Cell<'_>>) -> u32 {
        let name = name.map(|cell| cell.borrowed().into_owned());
        if let Some(number) = self.numbers.get(&name) {
            return *number;
        }
        let number = self.names.len() as u32;
        self.names.push(name.clone());
        self.numbers.insert(name, number);
        number
    }
}

/// A dimension in one block.
struct Numbered {
    /// Of every row.
    codes: Vec<u16>,
    /// The number of each code's name.
    of_codes: Vec<u32>,
}

impl<'q> Tally<'q> {
    pub(super) fn new(report: &'q Report) -> Self {
        let known = report.by.iter().map(|_| Known::default()).collect();
        Self { report, known, groups: Vec::new(), places: HashMap::default(), is_too_long: false }
    }

    /// More groups than an answer may have.
    pub(super) fn is_too_long(&self) -> bool {
        self.is_too_long
    }

    /// What was added.
    pub(super) fn groups(self) -> Vec<Group> {
        let Self { known, groups, .. } = self;
        let name = |(known, number): (&Known, &u32)| known.names.get(*number as usize).cloned().flatten();
        let group = |(key, sums): (Key, Sums)| Group {
            bucket: key[0] as usize,
            key: known.iter().zip(&key[1..]).map(name).collect(),
            sums,
        };
        groups.into_iter().map(group).collect()
    }

    /// Adds a block's rows, as far as they lie in the scope and the filters leave them.
    pub(super) fn add(&mut self, block: &Block<'_>) -> Result<(), Torn> {
        let (scope, edges) = (&self.report.scope, &self.report.edges);
        let times = block.times()?;
        let rows = part(&times, scope);
        let sieve = Sieve::of(block, &scope.filters)?;
        let Some(sieve) = sieve.filter(|_| !rows.is_empty()) else { return Ok(()) };
        let dimensions = self.dimensions(block)?;
        let figures = Figures::of(block)?;
        let (mut bucket, mut last) = (0, None);
        for row in rows.filter(|row| sieve.leaves(*row)) {
            while edges.get(bucket + 1).is_some_and(|next| *next <= times[row]) {
                bucket += 1;
            }
            let mut key = Key::default();
            key[0] = bucket as u32;
            for (number, dimension) in key[1..].iter_mut().zip(&dimensions) {
                *number = dimension.of_codes[usize::from(dimension.codes[row])];
            }
            let at = match last {
                Some((known, at)) if known == key => at,
                _ => self.group(key),
            };
            last = Some((key, at));
            let Some((_, sums)) = self.groups.get_mut(at) else { return Ok(()) };
            figures.add(row, sums);
        }
        Ok(())
    }

    fn dimensions(&mut self, block: &Block<'_>) -> Result<Vec<Numbered>, Torn> {
        let mut dimensions = Vec::with_capacity(self.known.len());
        for (dimension, known) in self.report.by.iter().zip(&mut self.known) {
            let names = block.names(block::place(dimension.column()))?;
            let of_codes = names.different.iter().map(|name| known.number(name.as_ref())).collect();
            dimensions.push(Numbered { codes: names.codes, of_codes });
        }
        Ok(dimensions)
    }

    /// Where a group is; nowhere if there are too many.
    fn group(&mut self, key: Key) -> usize {
        if let Some(at) = self.places.get(&key) {
            return *at;
        }
        let at = self.groups.len();
        if at == MOST_GROUPS {
            self.is_too_long = true;
        } else {
            self.groups.push((key, Sums::default()));
            self.places.insert(key, at);
        }
        at
    }
}

/// What is summed of a block's rows.
struct Figures {
    /// By row, its place in [`Outcome::ALL`]; beyond it for one that this version does not know.
    outcomes: Vec<usize>,
    was_rejected: Vec<bool>,
    used_nothing: Vec<bool>,
    input_tokens: Numbers,
    cached_input_tokens: Numbers,
    output_tokens: Numbers,
    cost_micro_usd: Numbers,
    queue_ms: Numbers,
    ttft_ms: Numbers,
}

impl Figures {
    fn of(block: &Block<'_>) -> Result<Self, Torn> {
        let numbers = |name| block.numbers(block::place(name));
        let outcome = |name: &Option<Cell<'_>>| {
            let is_it = |outcome: &Outcome| is(name, outcome.as_str());
            Outcome::ALL.iter().position(is_it).unwrap_or(Outcome::ALL.len())
        };
        Ok(Self {
            outcomes: by_row(&block.names(block::place("outcome"))?, outcome),
            was_rejected: by_row(&block.names(block::place("admission"))?, |name| {
                is(name, Admission::Rejected.as_str())
            }),
            used_nothing: by_row(&block.names(block::place("usage_source"))?, |name| name.is_none()),
            input_tokens: numbers("input_tokens")?,
            cached_input_tokens: numbers("cached_input_tokens")?,
            output_tokens: numbers("output_tokens")?,
            cost_micro_usd: numbers("cost_micro_usd")?,
            queue_ms: numbers("queue_ms")?,
            ttft_ms: numbers("ttft_ms")?,
        })
    }

    fn add(&self, row: usize, sums: &mut Sums) {
        let add = |sum: &mut u64, numbers: &Numbers| {
            *sum = sum.saturating_add(numbers.get(row).unwrap_or_default());
        };
        sums.requests += 1;
        if let Some(outcome) = sums.outcomes.get_mut(self.outcomes[row]) {
            *outcome += 1;
        }
        add(&mut sums.input_tokens, &self.input_tokens);
        add(&mut sums.cached_input_tokens, &self.cached_input_tokens);
        add(&mut sums.output_tokens, &self.output_tokens);
        match self.cost_micro_usd.get(row) {
            Some(cost) => {
                sums.cost_micro_usd = Some(sums.cost_micro_usd.unwrap_or_default().saturating_add(cost));
            }
            None => sums.unpriced += u64::from(!self.used_nothing[row]),
        }
        if !self.was_rejected[row] {
            sums.admitted += 1;
            add(&mut sums.queue_ms, &self.queue_ms);
        }
        if let Some(ttft_ms) = self.ttft_ms.get(row) {
            sums.first_tokens += 1;
            sums.ttft_ms = sums.ttft_ms.saturating_add(ttft_ms);
        }
    }
}

fn is(name: &Option<Cell<'_>>, text: &str) -> bool {
    matches!(name, Some(Cell::Text(name)) if name == text)
}

/// What is to be said of each row's name.
fn by_row<T: Copy>(names: &Names<'_>, say: impl Fn(&Option<Cell<'_>>) -> T) -> Vec<T> {
    let said: Vec<_> = names.different.iter().map(say).collect();
    names.codes.iter().map(|code| said[usize::from(*code)]).collect()
}
