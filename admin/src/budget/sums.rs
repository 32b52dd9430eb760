//! What the usage ledger says that periods of budgets have used.
//!
//! One question per scope, or one for all keys or tenants where many are meant. It knows as much of the past as the
//! ledger's retention has left.

use std::collections::{BTreeMap, BTreeSet};

use obleth_policy::{
    id::{KeyId, TenantId},
    limit::{Scope, Unit},
    unit::UnixMs,
};

use super::book::Gap;
use crate::usage::{
    Ledger,
    fault::LedgerFault,
    report::{self, Dimension, Filter, Report, Reported},
    row::Cell,
};

/// Scopes of a kind up to which each is asked about by itself: an index may lead to its rows.
const FEW: usize = 8;
/// Times that every ledger can hold end here: 2200.
const END: UnixMs = UnixMs(7_258_118_400_000);

/// Tokens and money.
type Used = (u64, u64);

/// What periods have used.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    used: BTreeMap<(Scope, UnixMs, UnixMs), Used>,
    /// Time of the newest row in the ledger; `None` while it is empty.
    pub(crate) newest: Option<UnixMs>,
}

impl Sums {
    /// Asks about all of these.
    pub(crate) async fn of(ledger: &Ledger, gaps: &[Gap]) -> Result<Self, LedgerFault> {
        let mut stretches: BTreeMap<(UnixMs, UnixMs), BTreeSet<Scope>> = BTreeMap::new();
        for gap in gaps {
            stretches.entry((gap.since, gap.ends)).or_default().insert(gap.meter.scope);
        }
        let mut sums = Self::default();
        for (stretch, scopes) in stretches {
            // Those of a kind stand together.
            let scopes: Vec<Scope> = scopes.into_iter().collect();
            for of_kind in scopes.chunk_by(|a, b| a.kind() == b.kind()) {
                sums.ask(ledger, stretch, of_kind).await?;
            }
        }
        Ok(sums)
    }

    /// What was asked about.
    pub(crate) fn used(&self, gap: &Gap) -> u64 {
        let (tokens, cost) =
            self.used.get(&(gap.meter.scope, gap.since, gap.ends)).copied().unwrap_or_default();
        if gap.meter.measure.unit() == Unit::MicroUsd { cost } else { tokens }
    }

    /// About scopes of one kind.
    async fn ask(
        &mut self,
        ledger: &Ledger,
        stretch: (UnixMs, UnixMs),
        scopes: &[Scope],
    ) -> Result<(), LedgerFault> {
        let dimension = match scopes {
            [Scope::Key(_), ..] => Some(Dimension::Key),
            [Scope::Tenant(_), ..] => Some(Dimension::Tenant),
            _ => None,
        };
        if let Some(dimension) = dimension.filter(|_| scopes.len() > FEW) {
            match ask(ledger, stretch, (Vec::new(), vec![dimension])).await {
                Ok(answer) => {
                    self.note_all(stretch, dimension, answer);
                    return Ok(());
                }
                // More than an answer can hold: one by one, then.
                Err(LedgerFault::TooManyGroups) => {}
                Err(fault) => return Err(fault),
            }
        }
        for scope in scopes {
            let answer = ask(ledger, stretch, (vec![filter(*scope)], Vec::new())).await?;
            self.newest = answer.as_of;
            let used = answer.groups.first().map(used).unwrap_or_default();
            self.used.insert((*scope, stretch.0, stretch.1), used);
        }
        Ok(())
    }

    fn note_all(&mut self, (since, ends): (UnixMs, UnixMs), dimension: Dimension, answer: Reported) {
        self.newest = answer.as_of;
        for group in answer.groups {
            let Some(Some(Cell::Id(id))) = group.key.first() else { continue };
            let scope = match dimension {
                Dimension::Key => Scope::Key(KeyId(*id)),
                _ => Scope::Tenant(TenantId(*id)),
            };
            self.used.insert((scope, since, ends), used(&group));
        }
    }
}

/// Which rows are a scope's.
fn filter(scope: Scope) -> Filter {
    match scope {
        Scope::Key(id) => Filter::Key(id),
        Scope::Tenant(id) => Filter::Tenant(id),
        Scope::Group(id) => Filter::GroupId(id),
    }
}

fn used(group: &report::Group) -> Used {
    let sums = &group.sums;
    (sums.input_tokens.saturating_add(sums.output_tokens), sums.cost_micro_usd.unwrap_or(0))
}

/// Sums over one stretch of time; nothing of one that no row can be in.
async fn ask(
    ledger: &Ledger,
    (since, ends): (UnixMs, UnixMs),
    (filters, by): (Vec<Filter>, Vec<Dimension>),
) -> Result<Reported, LedgerFault> {
    let (from, to) = (since.clamp(UnixMs(0), UnixMs(END.0 - 1)), ends.clamp(UnixMs(1), END));
    let scope = report::Scope { from, to: to.max(UnixMs(from.0 + 1)), filters };
    let edges = vec![scope.from, scope.to];
    ledger.report(Report { scope, by, edges }).await
}
