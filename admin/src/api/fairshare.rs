//! `/fairshare`: who has how much of the slots now, who was served how much, and what each is entitled to.

use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

use axum::{Json, extract::State};
use obleth_policy::{
    coordinator::{Level, LiveNode, LivePool},
    cost::Cost,
    id::{GroupIx, KeyId, TenantIx},
    snapshot::Snapshot,
};
use serde::Serialize;

use super::{
    App,
    error::ApiError,
    openapi::{Api, Operation},
    shapes::{HISTORY, LIVE_POOL},
};
use crate::{
    clock,
    directory::Directory,
    history::{Base, Sample, Who, served},
    orders::Look,
    sampler::{EVERY, WITHIN},
};

/// The routes of this file.
pub(super) fn routes(api: Api) -> Api {
    let about = "Who has how much of each pool now, against what each is entitled to";
    let live_pools = Operation::all("/fairshare/live", about, &LIVE_POOL);
    let about = "The last ten minutes in samples, oldest first; idle times have none";
    api.on(live_pools, live).on(Operation::get("/fairshare/history", about, &HISTORY), history)
}

#[derive(Debug, Serialize)]
pub(super) struct PoolView {
    model: String,
    pool: String,
    max_in_flight: u32,
    in_flight: u32,
    kept: u32,
    queued: u32,
    contended: bool,
    groups: Vec<GroupView>,
}

/// What all levels show.
#[derive(Debug, Serialize)]
struct Figures {
    weight: u32,
    in_flight: u32,
    queued: u32,
    oldest_wait_ms: Option<u32>,
    served_tokens: f64,
    share: Option<f64>,
    entitlement: Option<f64>,
}

#[derive(Debug, Serialize)]
struct GroupView {
    name: String,
    #[serde(flatten)]
    figures: Figures,
    tenants: Vec<TenantView>,
}

#[derive(Debug, Serialize)]
struct TenantView {
    id: String,
    name: String,
    max_in_flight: Option<u32>,
    #[serde(flatten)]
    figures: Figures,
    keys: Vec<KeyView>,
}

#[derive(Debug, Serialize)]
struct KeyView {
    id: String,
    name: Option<String>,
    #[serde(flatten)]
    figures: Figures,
}

pub(super) async fn live(State(app): State<App>) -> Result<Json<Vec<PoolView>>, ApiError> {
    app.sampler.ask();
    let silent = || {
        ApiError::unavailable(
            "coordinator_silent",
            "The coordinator gave no answer within 1 s. Try again shortly.",
        )
    };
    let look = app.pump.look(WITHIN).await.ok_or_else(silent)?;
    let names = key_names(&app, &look).await;
    let base = app.sampler.history().base(look.life, Instant::now());
    let (directory, snapshot) = (app.publisher.directory(), app.pump.snapshot().unwrap_or_default());
    let listed: HashSet<_> = snapshot.models().iter().map(|model| model.pool).collect();
    let view = View { directory: &directory, snapshot: &snapshot, base: &base, names: &names };
    let pools = look.pools.iter();
    let shown = pools.filter(|pool| listed.contains(&pool.pool) || pool.running > 0 || pool.waiting > 0);
    Ok(Json(shown.filter_map(|pool| view.pool(pool)).collect()))
}

/// What the keys are called; nothing while the store does not say.
async fn key_names(app: &App, look: &Look) -> HashMap<KeyId, String> {
    let key = |node: &LiveNode| if let Level::Key(_, key) = node.level { Some(key) } else { None };
    let nodes = look.pools.iter().flat_map(|pool| &pool.nodes);
    let keys: HashSet<KeyId> = nodes.filter_map(key).collect();
    app.ask(move |db| db.key_names(keys)).await.unwrap_or_default()
}

/// One look at the coordinator's books, with everything that it takes to show it.
struct View<'v> {
    directory: &'v Directory,
    snapshot: &'v Snapshot,
    base: &'v Base,
    names: &'v HashMap<KeyId, String>,
}

/// The nodes of one pool by what they belong to.
struct Branches<'v> {
    pool: &'v LivePool,
    tenants: HashMap<GroupIx, Vec<(TenantIx, &'v LiveNode)>>,
    keys: HashMap<TenantIx, Vec<(KeyId, &'v LiveNode)>>,
    /// What the pool has served lately.
    lately: Cost,
}

/// The part of the pool that siblings divide, and the weight that divides it.
#[derive(Clone, Copy)]
struct Part {
    whole: Option<f64>,
    weight: u64,
}

impl Part {
    /// Of siblings, only those that wait or run have a claim.
    fn new<'n>(whole: Option<f64>, siblings: impl Iterator<Item = &'n LiveNode>) -> Self {
        let weight =
            siblings.filter(|node| is_active(node)).map(|node| u64::from(node.standing.weight)).sum();
        Self { whole, weight }
    }

    fn of(self, node: &LiveNode) -> Option<f64> {
        let whole = self.whole.filter(|_| is_active(node) && self.weight > 0)?;
        Some(whole * f64::from(node.standing.weight) / self.weight as f64)
    }
}

fn is_active(node: &LiveNode) -> bool {
    node.standing.waiting > 0 || node.standing.running > 0
}

fn tokens(cost: Cost) -> f64 {
    cost.0 as f64 / Cost::TOKEN.0 as f64
}

impl View<'_> {
    fn pool(&self, pool: &LivePool) -> Option<PoolView> {
        let label = self.directory.pool(pool.pool)?;
        let mut tree =
            Branches { pool, tenants: HashMap::new(), keys: HashMap::new(), lately: Cost::default() };
        let mut groups = Vec::new();
        for node in &pool.nodes {
            match node.level {
                Level::Group(group) => groups.push((group, node)),
                Level::Tenant(group, tenant) => {
                    tree.lately = tree.lately.plus(self.lately(pool, node));
                    tree.tenants.entry(group).or_default().push((tenant, node));
                }
                Level::Key(tenant, key) => tree.keys.entry(tenant).or_default().push((key, node)),
            }
        }
        let part = Part::new(Some(1.0), groups.iter().map(|(_, node)| *node));
        let groups = groups.iter().filter_map(|(ix, node)| self.group(&tree, *ix, node, part.of(node)));
        Some(PoolView {
            model: label.model.clone(),
            pool: label.id.to_string(),
            max_in_flight: pool.max_in_flight,
            in_flight: pool.running,
            kept: pool.held.saturating_sub(pool.running),
            queued: pool.waiting,
            contended: pool.contended,
            groups: groups.collect(),
        })
    }

    /// `None` for one that has nothing to show.
    fn group(
        &self,
        tree: &Branches<'_>,
        ix: GroupIx,
        node: &LiveNode,
        claim: Option<f64>,
    ) -> Option<GroupView> {
        let members = tree.tenants.get(&ix).map(Vec::as_slice).unwrap_or_default();
        let part = Part::new(claim, members.iter().map(|(_, node)| *node));
        let tenants: Vec<_> = members
            .iter()
            .filter_map(|(tenant, node)| self.tenant(tree, *tenant, node, part.of(node)))
            .collect();
        if tenants.is_empty() && !is_active(node) {
            return None;
        }
        let lately = members.iter().map(|(_, node)| self.lately(tree.pool, node)).fold(Cost(0), Cost::plus);
        let oldest = tenants.iter().filter_map(|tenant| tenant.figures.oldest_wait_ms).max();
        let figures = figures(tree, node, (lately, claim), oldest);
        let name = self.directory.group(ix).unwrap_or_default().to_owned();
        Some(GroupView { name, figures, tenants })
    }

    /// `None` for one that was deleted and has nothing in flight any more.
    fn tenant(
        &self,
        tree: &Branches<'_>,
        ix: TenantIx,
        node: &LiveNode,
        claim: Option<f64>,
    ) -> Option<TenantView> {
        let label = self.directory.tenant(ix)?;
        let row = self.snapshot.tenant(label.id);
        if row.is_none() && !is_active(node) {
            return None;
        }
        let members = tree.keys.get(&ix).map(Vec::as_slice).unwrap_or_default();
        let part = Part::new(claim, members.iter().map(|(_, node)| *node));
        let keys: Vec<KeyView> = members
            .iter()
            .map(|(key, node)| {
                let measure = (self.lately(tree.pool, node), part.of(node));
                let figures = figures(tree, node, measure, node.oldest_wait_ms);
                KeyView { id: key.to_string(), name: self.names.get(key).cloned(), figures }
            })
            .collect();
        let oldest = keys.iter().filter_map(|key| key.figures.oldest_wait_ms).max();
        Some(TenantView {
            id: label.id.to_string(),
            name: label.name.clone(),
            max_in_flight: row.and_then(|row| row.max_in_flight),
            figures: figures(tree, node, (self.lately(tree.pool, node), claim), oldest),
            keys,
        })
    }

    /// What a tenant or key has had in the last seconds.
    fn lately(&self, pool: &LivePool, node: &LiveNode) -> Cost {
        let who = Who::of(node);
        who.map_or(Cost(0), |who| self.base.served_since(pool.pool, who, served(&node.standing)))
    }
}

fn figures(
    tree: &Branches<'_>,
    node: &LiveNode,
    (lately, entitlement): (Cost, Option<f64>),
    oldest_wait_ms: Option<u32>,
) -> Figures {
    let standing = &node.standing;
    Figures {
        weight: standing.weight,
        in_flight: standing.running,
        queued: standing.waiting,
        oldest_wait_ms,
        served_tokens: tokens(served(standing)),
        share: (tree.lately > Cost(0)).then(|| lately.0 as f64 / tree.lately.0 as f64),
        entitlement,
    }
}

#[derive(Debug, Serialize)]
pub(super) struct HistoryView {
    every_ms: u128,
    samples: Vec<SampleView>,
}

#[derive(Debug, Serialize)]
struct SampleView {
    at: String,
    covers_ms: u128,
    pools: Vec<PoolSampleView>,
}

#[derive(Debug, Serialize)]
struct PoolSampleView {
    model: String,
    pool: String,
    in_flight: u32,
    queued: u32,
    served_tokens: f64,
    tenants: Vec<TenantSampleView>,
}

#[derive(Debug, Serialize)]
struct TenantSampleView {
    id: String,
    name: String,
    in_flight: u32,
    queued: u32,
    served_tokens: f64,
}

pub(super) async fn history(State(app): State<App>) -> Json<HistoryView> {
    app.sampler.ask();
    let samples = app.sampler.history().samples();
    let samples = samples.iter().map(|sample| sample_view(sample)).collect();
    Json(HistoryView { every_ms: EVERY.as_millis(), samples })
}

fn sample_view(sample: &Sample) -> SampleView {
    let pools = sample.pools.iter().enumerate().map(|(place, pool)| PoolSampleView {
        model: pool.label.model.clone(),
        pool: pool.label.id.to_string(),
        in_flight: pool.in_flight,
        queued: pool.queued,
        served_tokens: tokens(pool.served),
        tenants: sample
            .tenants(place)
            .iter()
            .map(|row| TenantSampleView {
                id: row.label.id.to_string(),
                name: row.label.name.clone(),
                in_flight: row.in_flight,
                queued: row.queued,
                served_tokens: tokens(row.served),
            })
            .collect(),
    });
    SampleView { at: clock::text(sample.at), covers_ms: sample.covers.as_millis(), pools: pools.collect() }
}
