//! What the coordinator is told, and what operators see of what it reports.

mod running;

use std::sync::Arc;

use obleth_link::{Command, CoordinatorEnd, Event, Order, Report};
use obleth_policy::{
    coordinator::{Level, LiveNode, LivePool, Shares},
    cost::{Cost, Rates},
    fairness::Standing,
    id::{GroupIx, KeyId, PoolIx, TenantId, TenantIx},
    protocol::KeyShape,
    snapshot::{Brownout, Snapshot},
};
use running::{Running, next_order, send};
use serde_json::{Value, json};

/// What the coordinator was told since the last call, but for the book of limits; nothing waits.
fn told(coordinator: &CoordinatorEnd) -> Vec<Order> {
    let told = std::iter::from_fn(|| coordinator.take_order());
    told.filter(|order| !matches!(order, Order::Limits(_))).collect()
}

/// The one order that the last change brought, which must be shares.
fn newest_shares(sidecar: &Running) -> Arc<Shares> {
    let told = told(&sidecar.coordinator);
    let [Order::Shares(shares)] = &told[..] else { panic!("{told:?}") };
    Arc::clone(shares)
}

fn id(made: &Value) -> &str {
    made["id"].as_str().unwrap()
}

/// The snapshot that the last change brought.
fn newest_snapshot(sidecar: &Running) -> Arc<Snapshot> {
    let told = std::iter::from_fn(|| sidecar.shards[0].0.take());
    let snapshots = told.filter_map(|told| if let Command::Snapshot(s) = told { Some(s) } else { None });
    snapshots.last().expect("no snapshot was sent")
}

#[test]
fn the_coordinator_is_told_the_shares_at_the_start_and_with_every_edit() {
    let sidecar = Running::start_with(|settings| settings.global_max_in_flight = 99);
    let shares = newest_shares(&sidecar);
    assert_eq!(shares.ceiling, 99);
    assert_eq!(
        (shares.groups.len(), shares.groups[0].group, shares.groups[0].weight),
        (1, GroupIx::DEFAULT, 100)
    );
    assert!(shares.tenants.is_empty() && shares.pools.is_empty());

    let gold = sidecar.expect(201, ("POST", "/groups"), r#"{"name":"gold","weight":300}"#);
    let shares = newest_shares(&sidecar);
    let group = shares.groups.iter().find(|shape| shape.weight == 300).unwrap().group;
    assert_ne!(group, GroupIx::DEFAULT);

    let body = r#"{"name":"acme","weight":7,"max_in_flight":3}"#;
    let tenant = format!("/tenants/{}", id(&sidecar.expect(201, ("POST", "/tenants"), body)));
    let first = newest_shares(&sidecar).tenants[0];
    assert_eq!((first.group, first.weight, first.max_in_flight), (GroupIx::DEFAULT, 7, Some(3)));
    let after = |method: &str, path: &str, body: &str| {
        sidecar.expect(200, (method, path), body);
        newest_shares(&sidecar)
    };
    let moved = after("PUT", &format!("{tenant}/group"), r#"{"group_name":"gold"}"#).tenants[0];
    assert_eq!((moved.tenant, moved.group), (first.tenant, group));
    assert_eq!(after("PUT", &format!("{tenant}/weight"), r#"{"weight":9}"#).tenants[0].weight, 9);
    assert_eq!(after("PATCH", &tenant, r#"{"max_in_flight":null}"#).tenants[0].max_in_flight, None);
    let gold = format!("/groups/{}", id(&gold));
    assert!(
        after("PATCH", &gold, r#"{"weight":5}"#).groups.iter().any(|g| (g.group, g.weight) == (group, 5))
    );

    let body = r#"{"model_name":"m","api_base":"http://127.0.0.1:1","max_in_flight":3}"#;
    let model = format!("/models/{}", id(&sidecar.expect(201, ("POST", "/models"), body)));
    assert_eq!(newest_shares(&sidecar).pools[0].max_in_flight, 3);
    let capacity = format!("{model}/capacity");
    assert_eq!(after("PUT", &capacity, r#"{"max_in_flight":0}"#).pools[0].max_in_flight, 0, "closed");
    assert_eq!(
        after("PUT", &capacity, r#"{"max_in_flight":null}"#).pools[0].max_in_flight,
        32,
        "the default"
    );
    assert!(after("DELETE", &model, "").pools.is_empty());
    assert!(after("DELETE", &tenant, "").tenants.is_empty());
    assert_eq!(after("DELETE", &gold, "").groups.len(), 1);
}

#[test]
fn the_coordinator_hears_of_a_change_before_any_shard_does() {
    let sidecar = Running::start();
    sidecar.hush();
    let shards: Vec<_> = sidecar.shards.iter().map(|shard| shard.0.clone()).collect();
    let coordinator = sidecar.coordinator.clone();
    let watcher = std::thread::spawn(move || {
        for generation in 0..500_usize {
            // Whoever sees the change at a shard must find it at the coordinator.
            let seen = loop {
                match shards[0].take() {
                    Some(Command::Snapshot(snapshot)) => break snapshot,
                    _ => std::hint::spin_loop(),
                }
            };
            let Some(Order::Shares(shares)) = coordinator.take_order() else {
                panic!("not told: {generation}")
            };
            assert!(Arc::ptr_eq(&shares, seen.shares()));
        }
    });
    for n in 0..500 {
        sidecar.tenant(&format!("t{n}"));
    }
    watcher.join().unwrap();
}

#[test]
fn a_snapshot_holds_what_decides_about_waiting() {
    let sidecar = Running::start_with(|settings| settings.brownout_default = Brownout::Allow);
    let made = sidecar.expect(201, ("POST", "/tenants"), r#"{"name":"acme","max_in_flight":0}"#);
    let body = r#"{"model_name":"m","api_base":"http://127.0.0.1:1","output_weight":3.5,"sends_priority":true,"continuous_usage":true}"#;
    sidecar.expect(201, ("POST", "/models"), body);
    let snapshot = newest_snapshot(&sidecar);
    let tenant_id = TenantId(id(&made).parse().unwrap());
    let tenant = snapshot.tenant(tenant_id).unwrap();
    assert_eq!((tenant.max_in_flight, tenant.brownout), (Some(0), Brownout::Allow), "the default");
    let model = snapshot.model("m").unwrap();
    assert_eq!(model.rates, Rates { output_milli: 3500, ..Rates::default() });
    assert!(model.sends_priority && model.continuous_usage);
    for (said, meant) in [("\"reject\"", Brownout::Reject), ("null", Brownout::Allow)] {
        let path = format!("/tenants/{}/brownout", id(&made));
        sidecar.expect(200, ("PUT", &path), &format!(r#"{{"brownout":{said}}}"#));
        assert_eq!(newest_snapshot(&sidecar).tenant(tenant_id).unwrap().brownout, meant);
    }
}

#[test]
fn an_edited_key_reaches_the_coordinator_before_the_shards_and_the_record_has_its_shape() {
    let sidecar = Running::start();
    let tenant = sidecar.tenant("acme");
    let ix = newest_snapshot(&sidecar).tenant(TenantId(tenant.parse().unwrap())).unwrap().ix;
    let (key, secret) = sidecar.key(&tenant, "ci");
    sidecar.hush();
    let path = format!("/keys/{key}");
    sidecar.expect(200, ("PUT", &format!("{path}/weight")), r#"{"weight":7}"#);
    sidecar.expect(200, ("PATCH", &path), r#"{"max_in_flight":2}"#);
    let shapes: Vec<_> = told(&sidecar.coordinator)
        .into_iter()
        .map(|order| match order {
            Order::Key { tenant, key: of, shape } if tenant == ix && of.to_string() == key => shape,
            other => panic!("{other:?}"),
        })
        .collect();
    let shape = |max_in_flight| KeyShape { weight: 7, max_in_flight };
    assert_eq!(shapes, [shape(None), shape(Some(2))]);
    let obleth_policy::key::KeyAnswer::Found(record) = sidecar.shards[0].look_up(&secret) else {
        panic!("the key is there")
    };
    assert_eq!(record.shape, shape(Some(2)));
    sidecar.expect(200, ("DELETE", &path), "");
    assert!(told(&sidecar.coordinator).is_empty(), "what it has in the queue goes on as it was");
}

#[test]
fn a_coordinator_that_starts_gets_the_shares_and_its_book_of_limits_and_nothing_else() {
    let sidecar = Running::start();
    let tenant = sidecar.tenant("acme");
    let (key, _) = sidecar.key(&tenant, "ci");
    sidecar.expect(200, ("PUT", &format!("/keys/{key}/weight")), r#"{"weight":7}"#);
    sidecar.hush();
    let current = newest_tenant(&sidecar);
    sidecar.coordinator.report(Report::Started);
    let Order::Shares(shares) = next_order(&sidecar.coordinator) else { panic!("not the shares") };
    assert_eq!(shares.tenants[0].tenant, current);
    assert!(matches!(next_order(&sidecar.coordinator), Order::Limits(_)));
    // Reports and events are handled in order, so an answer to a later one shows that the first was handled.
    sidecar.shards[0].look_up("sk_unknown");
    assert!(told(&sidecar.coordinator).is_empty());
}

fn newest_tenant(sidecar: &Running) -> TenantIx {
    let other = sidecar.tenant("other");
    let snapshot = newest_snapshot(sidecar);
    told(&sidecar.coordinator);
    sidecar.expect(200, ("DELETE", &format!("/tenants/{other}")), "");
    told(&sidecar.coordinator);
    snapshot.shares().tenants[0].tenant
}

/// A pool with one model, two groups, three tenants and a key each.
struct Stage {
    sidecar: Running,
    model: String,
    pool: PoolIx,
    groups: [GroupIx; 2],
    /// Id, index and key.
    tenants: Vec<(String, TenantIx, KeyId)>,
}

impl Stage {
    fn new() -> Self {
        let sidecar = Running::start();
        let body = r#"{"model_name":"m","api_base":"http://127.0.0.1:1","max_in_flight":8}"#;
        let model = id(&sidecar.expect(201, ("POST", "/models"), body)).to_owned();
        sidecar.expect(201, ("POST", "/groups"), r#"{"name":"gold","weight":300}"#);
        let mut tenants = Vec::new();
        for (name, group) in [("a", "default"), ("b", "default"), ("c", "gold")] {
            let body = format!(r#"{{"name":"{name}","group_name":"{group}","max_in_flight":5}}"#);
            let tenant = id(&sidecar.expect(201, ("POST", "/tenants"), &body)).to_owned();
            let (key, _) = sidecar.key(&tenant, &format!("key of {name}"));
            tenants.push((tenant, key));
        }
        let snapshot = newest_snapshot(&sidecar);
        let known = |id: &str| snapshot.tenant(TenantId(id.parse().unwrap())).unwrap();
        let gold = known(&tenants[2].0).group;
        let indexed = |(id, key): &(String, String)| (id.clone(), known(id).ix, KeyId(key.parse().unwrap()));
        Self {
            model,
            pool: snapshot.models()[0].pool,
            groups: [GroupIx::DEFAULT, gold],
            tenants: tenants.iter().map(indexed).collect(),
            sidecar,
        }
    }

    /// `figures` are waiting, running, settled and outstanding of each tenant.
    fn live(&self, figures: [(u32, u32, u64, u64); 3]) -> Vec<LivePool> {
        let standing = |weight, (waiting, running, settled, outstanding)| Standing {
            weight,
            waiting,
            running,
            settled: Cost(settled),
            outstanding: Cost(outstanding),
            ..Standing::default()
        };
        let node = |level, standing, oldest_wait_ms| LiveNode { level, standing, oldest_wait_ms };
        let [a, b, c] = figures;
        let both = (a.0 + b.0, a.1 + b.1, a.2 + b.2, a.3 + b.3);
        let mut nodes = vec![
            node(Level::Group(self.groups[0]), standing(100, both), None),
            node(Level::Group(self.groups[1]), standing(300, c), None),
        ];
        for (at, of) in figures.into_iter().enumerate() {
            let (_, tenant, key) = self.tenants[at];
            let weight = 100 * (at as u32 + 1);
            let group = self.groups[usize::from(at == 2)];
            nodes.push(node(Level::Tenant(group, tenant), standing(weight, of), None));
            nodes.push(node(Level::Key(tenant, key), standing(50, of), (of.0 > 0).then_some(70 * weight)));
        }
        nodes.sort_by_key(|node| node.level);
        let (waiting, running) = (both.0 + c.0, both.1 + c.1);
        let contended = waiting > 0;
        vec![LivePool {
            pool: self.pool,
            max_in_flight: 8,
            held: running + 2,
            running,
            waiting,
            contended,
            nodes,
        }]
    }

    /// Answers looks with these pools until something else is ordered.
    fn play(&self, pools: Vec<LivePool>) -> std::thread::JoinHandle<()> {
        self.sidecar.hush();
        let coordinator = self.sidecar.coordinator.clone();
        std::thread::spawn(move || {
            while let Order::Look = next_order(&coordinator) {
                coordinator.report(Report::Live(pools.clone()));
            }
        })
    }

    /// Ends what [`Stage::play`] began.
    fn end(&self, played: std::thread::JoinHandle<()>) {
        self.sidecar.expect(200, ("PUT", &format!("/keys/{}/weight", self.tenants[0].2)), r#"{"weight":50}"#);
        played.join().unwrap();
    }
}

#[test]
fn the_live_view_is_the_tree_with_share_and_entitlement() {
    let stage = Stage::new();
    let played = stage.play(stage.live([(3, 1, 2000, 1000), (0, 0, 1000, 0), (1, 3, 12_000, 4000)]));
    let view = stage.sidecar.expect(200, ("GET", "/fairshare/live"), "");
    let key = |at: usize, share: f64, entitlement: Value, rest: Value| {
        let (_, _, key) = stage.tenants[at];
        let name = format!("key of {}", ["a", "b", "c"][at]);
        merged(
            json!({"id": key.to_string(), "name": name, "weight": 50, "share": share,
                      "entitlement": entitlement}),
            rest,
        )
    };
    let tenant = |at: usize, share: f64, entitlement: Value, rest: Value| {
        let keys = json!([key(at, share, entitlement.clone(), rest.clone())]);
        merged(
            json!({"id": stage.tenants[at].0, "name": (["a", "b", "c"][at]), "weight": 100 * (at + 1),
                      "max_in_flight": 5, "share": share, "entitlement": entitlement, "keys": keys}),
            rest,
        )
    };
    let a = json!({"in_flight": 1, "queued": 3, "oldest_wait_ms": 7000, "served_tokens": 3.0});
    let b = json!({"in_flight": 0, "queued": 0, "oldest_wait_ms": null, "served_tokens": 1.0});
    let c = json!({"in_flight": 3, "queued": 1, "oldest_wait_ms": 21_000, "served_tokens": 16.0});
    let default = json!({"name": "default", "weight": 100, "share": 0.2, "entitlement": 0.25, "in_flight": 1,
        "queued": 3, "oldest_wait_ms": 7000, "served_tokens": 4.0,
        "tenants": [tenant(0, 0.15, json!(0.25), a), tenant(1, 0.05, json!(null), b)]});
    let gold = merged(
        json!({"name": "gold", "weight": 300, "share": 0.8, "entitlement": 0.75,
               "tenants": [tenant(2, 0.8, json!(0.75), c.clone())]}),
        c,
    );
    let pool = json!({"model": "m", "pool": stage.model, "max_in_flight": 8, "in_flight": 4, "kept": 2,
        "queued": 4, "contended": true, "groups": [default, gold]});
    assert_eq!(view, json!([pool]));

    // It is as the document says it is.
    let document = send(stage.sidecar.admin, ("GET", "/api/openapi.json"), &[], b"").json();
    let schema = &document["components"]["schemas"]["LivePool"];
    let shown = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let group = &schema["properties"]["groups"]["items"];
    let tenant = &group["properties"]["tenants"]["items"];
    let key = &tenant["properties"]["keys"]["items"];
    let mut at = &view[0];
    for (schema, below) in [(schema, "groups"), (group, "tenants"), (tenant, "keys"), (key, "")] {
        assert_eq!(shown(&schema["properties"]), shown(at));
        at = &at[below][0];
    }
    stage.end(played);
}

fn merged(mut one: Value, other: Value) -> Value {
    one.as_object_mut().unwrap().extend(other.as_object().unwrap().clone());
    one
}

#[test]
fn what_is_deleted_is_shown_only_while_something_of_it_runs() {
    let stage = Stage::new();
    stage.sidecar.expect(200, ("DELETE", &format!("/tenants/{}", stage.tenants[1].0)), "");
    let shown = |live| {
        let played = stage.play(live);
        let view = stage.sidecar.expect(200, ("GET", "/fairshare/live"), "");
        stage.end(played);
        let groups = view[0]["groups"].as_array().cloned().unwrap_or_default();
        let tenants = groups.iter().flat_map(|group| group["tenants"].as_array().unwrap());
        tenants.map(|tenant| tenant["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(shown(stage.live([(0, 0, 5, 0), (0, 1, 5, 5), (0, 0, 5, 0)])), ["a", "b", "c"]);
    assert_eq!(shown(stage.live([(0, 0, 5, 0), (0, 0, 10, 0), (0, 0, 5, 0)])), ["a", "c"]);
    stage.sidecar.expect(200, ("DELETE", &format!("/models/{}", stage.model)), "");
    assert_eq!(shown(stage.live([(0, 0, 5, 0), (0, 0, 10, 0), (0, 1, 5, 5)])), ["a", "c"]);
    assert_eq!(shown(stage.live([(0, 0, 5, 0), (0, 0, 10, 0), (0, 0, 10, 0)])).len(), 0);
}

#[test]
fn a_coordinator_that_does_not_answer_is_said_so() {
    let sidecar = Running::start();
    let answer = sidecar.get("/fairshare/live");
    assert_eq!((answer.status, answer.refusal().0.as_str()), (503, "coordinator_silent"));
}

#[test]
fn traffic_is_sampled_and_counted_by_tenant_and_nothing_is_asked_without() {
    let stage = Stage::new();
    let sidecar = &stage.sidecar;
    sidecar.hush();
    assert_eq!(
        sidecar.expect(200, ("GET", "/fairshare/history"), ""),
        json!({"every_ms": 2000, "samples": []})
    );
    let metrics = || send(sidecar.metrics, ("GET", "/metrics"), &[], b"").body;
    assert!(!metrics().contains("tenant=\"a\""));
    assert!(told(&sidecar.coordinator).is_empty(), "nothing is in flight");

    sidecar.coordinator.report(Report::Started);
    assert!(matches!(next_order(&sidecar.coordinator), Order::Shares(_)));
    assert!(matches!(next_order(&sidecar.coordinator), Order::Limits(_)));
    let played = stage.play(stage.live([(0, 1, 2000, 1500), (0, 0, 0, 0), (4, 0, 0, 0)]));
    sidecar.shards[1].0.gauges().in_flight.add(1);
    sidecar.shards[1].0.tell(Event::Started).unwrap();
    let samples = loop {
        let history = sidecar.expect(200, ("GET", "/fairshare/history"), "");
        if history["samples"] != json!([]) {
            break history["samples"].clone();
        }
    };
    let sample = &samples[0];
    assert!(sample["at"].as_str().unwrap().ends_with('Z') && sample["covers_ms"].is_u64());
    let tenant = |at: usize, in_flight, queued, served| {
        json!({"id": stage.tenants[at].0, "name": (["a", "b", "c"][at]), "in_flight": in_flight,
               "queued": queued, "served_tokens": served})
    };
    let pool = json!({"model": "m", "pool": stage.model, "in_flight": 1, "queued": 4, "served_tokens": 3.5,
        "tenants": [tenant(0, 1, 0, 3.5), tenant(2, 0, 4, 0.0)]});
    assert_eq!(sample["pools"], json!([pool]));
    let metrics = metrics();
    assert!(metrics.contains("obleth_tenant_served_tokens_total{tenant=\"a\"} 3.5\n"), "{metrics}");
    assert!(!metrics.contains("tenant=\"b\""), "it was served nothing");
    // Against this sample nothing was served since.
    let view = sidecar.expect(200, ("GET", "/fairshare/live"), "");
    assert_eq!(view[0]["groups"][0]["share"], json!(null));
    stage.end(played);
}
