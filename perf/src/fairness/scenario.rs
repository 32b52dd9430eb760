//! What the fairness runs do: `fairness.toml`, which holds every figure that a result depends on.
//!
//! Every measurement says twice how long it takes: `repeat` for a first look, `full` for figures to quote.

use std::time::Duration;

use serde::Deserialize;

use super::{
    lengths::Lengths,
    shares::{Claim, entitlements},
};

/// The file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Scenario {
    pub(super) shares: Vec<Shares>,
    pub(super) skew: Shares,
    pub(super) wait: Wait,
    pub(super) change: Change,
    pub(super) saturation: Vec<Saturation>,
    pub(super) leaving: LeavingUsers,
    pub(super) lone: Lone,
}

/// A pool and its tenants.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Setting {
    /// `max_in_flight` of the model, and of the backend.
    pub(super) slots: u32,
    /// Shards of the gateway.
    pub(super) shards: usize,
    /// Of one answer.
    pub(super) tokens_per_second: f64,
    pub(super) lengths: Lengths,
    pub(super) tenants: Vec<TenantSetting>,
    /// Groups besides the one that tenants are in if they name none.
    #[serde(default)]
    pub(super) groups: Vec<GroupSetting>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TenantSetting {
    pub(super) weight: u32,
    pub(super) connections: usize,
    pub(super) group: Option<String>,
    /// Its cap.
    pub(super) max_in_flight: Option<u32>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GroupSetting {
    pub(super) name: String,
    pub(super) weight: u32,
}

/// Weight of the group that a tenant is in if it names none.
const DEFAULT_GROUP_WEIGHT: f64 = 100.0;

impl Setting {
    /// The part of the pool that each tenant is entitled to while all of them want more.
    pub(super) fn entitled(&self) -> Vec<f64> {
        entitlements(&self.claims(), &self.group_weights())
    }

    /// The same beside what they got. A cap is a limit and no promise: when a request of a tenant at its cap ends, the slot
    /// goes to whose turn it is. So such a tenant is due what it took, up to its cap, and the others are due all the rest.
    pub(super) fn entitled_beside(&self, counts: &[u64]) -> Vec<f64> {
        let all = counts.iter().sum::<u64>().max(1) as f64;
        let mut claims = self.claims();
        for at in self.capped() {
            if let (Some(claim), Some(count)) = (claims.get_mut(at), counts.get(at)) {
                claim.most = claim.most.min(*count as f64 / all);
            }
        }
        entitlements(&claims, &self.group_weights())
    }

    /// How much tenants at their caps took of what these let them have: the part of who took least. None without such.
    pub(super) fn caps_used(&self, counts: &[u64]) -> Option<f64> {
        let all = counts.iter().sum::<u64>().max(1) as f64;
        let (capped, claims) = (self.capped(), self.claims());
        let used =
            capped.iter().filter_map(|at| Some(*counts.get(*at)? as f64 / all / claims.get(*at)?.most));
        used.min_by(f64::total_cmp)
    }

    /// Tenants who would be entitled to more if they had no cap.
    fn capped(&self) -> Vec<usize> {
        let (entitled, claims) = (self.entitled(), self.claims());
        let places = claims.iter().zip(&entitled).enumerate();
        places.filter(|(_, (claim, due))| claim.most < 1.0 && **due >= claim.most).map(|(at, _)| at).collect()
    }

    fn claims(&self) -> Vec<Claim> {
        let slots = f64::from(self.slots);
        let group = |tenant: &TenantSetting| {
            let name = tenant.group.as_ref()?;
            self.groups.iter().position(|group| group.name == *name)
        };
        let claim = |tenant: &TenantSetting| Claim {
            weight: f64::from(tenant.weight),
            group: group(tenant).map_or(0, |at| at + 1),
            most: tenant.max_in_flight.map_or(1.0, |most| (f64::from(most) / slots).min(1.0)),
        };
        self.tenants.iter().map(claim).collect()
    }

    fn group_weights(&self) -> Vec<f64> {
        let weights = self.groups.iter().map(|group| f64::from(group.weight));
        std::iter::once(DEFAULT_GROUP_WEIGHT).chain(weights).collect()
    }
}

/// How much of it.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Repeat {
    /// Seconds of one window.
    pub(super) secs: f64,
    /// Windows of one seed.
    pub(super) windows: usize,
    /// Each is a run of its own, with fresh processes.
    pub(super) seeds: u64,
    /// Seconds of load before the first window.
    pub(super) warmup_secs: f64,
}

impl Repeat {
    pub(super) fn window(&self) -> Duration {
        Duration::from_secs_f64(self.secs)
    }

    pub(super) fn warmup(&self) -> Duration {
        Duration::from_secs_f64(self.warmup_secs)
    }

    /// Of one seed.
    pub(super) fn length(&self) -> Duration {
        self.warmup() + self.window().mul_f64(self.windows as f64)
    }
}

/// Rows 11 and 14: shares of tenants that all want more than they get.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Shares {
    pub(super) name: String,
    pub(super) setting: Setting,
    /// None: only with `--full`.
    pub(super) repeat: Option<Repeat>,
    pub(super) full: Repeat,
}

/// Row 15: the second tenant asks for a part of its share beside the first, which wants all there is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wait {
    pub(super) setting: Setting,
    /// What the second tenant asks for, as a part of its share.
    pub(super) load: f64,
    /// Seconds of the second tenant alone, for its time to the first token.
    pub(super) alone_secs: f64,
    pub(super) repeat: Repeat,
    pub(super) full: Repeat,
}

/// Row 16: the last tenant joins, is given another weight, and leaves; again and again.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Change {
    pub(super) setting: Setting,
    /// The other weight.
    pub(super) weight: u32,
    /// Seconds between two changes.
    pub(super) secs: f64,
    pub(super) warmup_secs: f64,
    /// Of all three changes.
    pub(super) rounds: usize,
    pub(super) full_rounds: usize,
    /// How far off a share may be.
    pub(super) tolerance: f64,
}

/// Row 17: what is done at saturation, by several tenants and by one.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Saturation {
    pub(super) name: String,
    pub(super) setting: Setting,
    pub(super) secs: f64,
    pub(super) warmup_secs: f64,
    pub(super) rounds: usize,
    pub(super) full_rounds: usize,
    pub(super) must: f64,
    pub(super) goal: f64,
}

/// Users who leave, while they wait and while they are answered.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LeavingUsers {
    pub(super) setting: Setting,
    pub(super) secs: f64,
    pub(super) full_secs: f64,
    /// Part of the requests that are given up.
    pub(super) part: f64,
    /// The latest moment after the request left.
    pub(super) within_ms: u64,
    /// Tokens of an answer that holds its slot while others wait.
    pub(super) long_tokens: u32,
    /// Requests that wait then; every second one is given up.
    pub(super) waiting: usize,
}

/// A tenant that is alone.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Lone {
    pub(super) setting: Setting,
    pub(super) secs: f64,
    pub(super) warmup_secs: f64,
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::fairness::shares::worst;

    #[test]
    fn the_scenario_that_is_delivered_can_be_read_and_its_shares_add_up() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let scenario: Scenario = crate::scenario::read(&folder, "fairness").unwrap();
        for Shares { name, setting, full, .. } in scenario.shares.iter().chain([&scenario.skew]) {
            let sum: f64 = setting.entitled().iter().sum();
            assert!((sum - 1.0).abs() < 1e-9, "{name}: {sum}");
            assert!(
                full.seeds >= 5 && full.seeds as usize * full.windows >= 60 && full.secs >= 10.0,
                "{name}"
            );
        }
        assert!(scenario.shares.iter().any(|shares| shares.repeat.is_some()));
        assert!(scenario.saturation.len() == 2 && scenario.change.tolerance == 0.05);
    }

    #[test]
    fn what_a_tenant_at_its_cap_leaves_is_due_to_its_siblings_and_what_it_takes_beyond_is_an_error() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let scenario: Scenario = crate::scenario::read(&folder, "fairness").unwrap();
        let setting =
            &scenario.shares.iter().find(|shares| !shares.setting.groups.is_empty()).unwrap().setting;
        let error = |counts: &[u64]| worst(counts, &setting.entitled_beside(counts)).unwrap();
        // Of 16 slots 2 are the last one's at most; a third of them all is its group's.
        let exact = [640_000, 1_280_000, 600_000, 360_000];
        assert!(error(&exact) < 1e-9 && (setting.caps_used(&exact).unwrap() - 1.0).abs() < 1e-9);
        let less = [640_000, 1_280_000, 618_000, 342_000];
        assert!(error(&less) < 1e-9 && (setting.caps_used(&less).unwrap() - 0.95).abs() < 1e-9);
        assert!(error(&[649_000, 1_289_000, 600_000, 342_000]) > 0.02, "its group is due a third");
        assert!(error(&[640_000, 1_280_000, 582_000, 378_000]) > 0.04, "more than the cap");
        let flat = &scenario.shares.first().unwrap().setting;
        assert_eq!(flat.caps_used(&[1, 2, 3, 4]), None);
        assert_eq!(flat.entitled_beside(&[4, 3, 2, 1]), flat.entitled());
    }
}
