//! Quotas and budgets: what operators set, what the owner of the limits and the shards are told of it, and when.

mod running;

use std::sync::Arc;

use obleth_link::{Command, Order, Report};
use obleth_policy::{
    id::TenantId,
    key::KeyAnswer,
    limit::{Definition, LimitBook, Limits, Measure, Scope, Turn},
};
use running::{Running, next_order};
use serde_json::{Value, json};

/// A sidecar with a group, a tenant in it and its key: their ids and the key's secret.
struct Stage {
    sidecar: Running,
    group: String,
    tenant: String,
    key: String,
    secret: String,
}

impl Stage {
    fn new() -> Self {
        let sidecar = Running::start();
        let group = sidecar.expect(201, ("POST", "/groups"), r#"{"name":"gold"}"#);
        let tenant = sidecar.expect(201, ("POST", "/tenants"), r#"{"name":"acme","group_name":"gold"}"#);
        let id = |made: &Value| made["id"].as_str().unwrap().to_owned();
        let (group, tenant) = (id(&group), id(&tenant));
        let (key, secret) = sidecar.key(&tenant, "ci");
        sidecar.hush();
        Self { sidecar, group, tenant, key, secret }
    }

    /// `…/budget` of the three.
    fn paths(&self) -> [String; 3] {
        [("groups", &self.group), ("tenants", &self.tenant), ("keys", &self.key)]
            .map(|(kind, id)| format!("/{kind}/{id}/budget"))
    }

    fn put(&self, path: &str, body: &str) -> Value {
        self.sidecar.expect(200, ("PUT", path), body)
    }

    /// What the owner of the limits was told since the last call; nothing waits.
    fn told(&self) -> Vec<Definition> {
        let told = std::iter::from_fn(|| self.sidecar.coordinator.take_order());
        told.filter_map(|order| if let Order::Limit(definition) = order { Some(definition) } else { None })
            .collect()
    }

    /// The one definition that the last change brought.
    #[track_caller]
    fn told_one(&self) -> Definition {
        let told = self.told();
        let [definition] = told[..] else { panic!("{told:?}") };
        definition
    }
}

/// The scope as `kind/id`.
fn name(scope: Scope) -> String {
    match scope {
        Scope::Key(id) => format!("keys/{id}"),
        Scope::Tenant(id) => format!("tenants/{id}"),
        Scope::Group(id) => format!("groups/{id}"),
    }
}

fn book(sidecar: &Running) -> Arc<LimitBook> {
    loop {
        if let Order::Limits(book) = next_order(&sidecar.coordinator) {
            return book;
        }
    }
}

#[test]
fn a_budget_is_set_changed_and_taken_away_on_keys_tenants_and_groups() {
    let stage = Stage::new();
    for path in stage.paths() {
        let budget = |period: &str, tokens: Value, money: Value| json!({"period": period, "limit_tokens": tokens, "limit_micro_usd": money});
        let budgets = |body: &str| stage.put(&path, body)["budgets"].clone();
        let monthly = r#"{"period":"monthly","limit_tokens":5,"limit_micro_usd":9007199254740991}"#;
        let most = 9_007_199_254_740_991_i64;
        assert_eq!(budgets(monthly), json!([budget("monthly", json!(5), json!(most))]));
        assert_eq!(
            budgets(r#"{"period":"monthly","limit_tokens":6}"#),
            json!([budget("monthly", json!(6), json!(most))]),
            "what is not said stays"
        );
        assert_eq!(
            budgets(r#"{"period":"daily","limit_micro_usd":0}"#),
            json!([budget("daily", json!(null), json!(0)), budget("monthly", json!(6), json!(most))])
        );
        stage.put(&path, r#"{"period":"lifetime","limit_tokens":7}"#);
        assert_eq!(
            budgets(r#"{"period":"daily","limit_micro_usd":null}"#),
            json!([budget("monthly", json!(6), json!(most)), budget("lifetime", json!(7), json!(null))]),
            "without a limit it is none"
        );
        let monthly = format!("{path}?period=monthly");
        let left = json!([budget("lifetime", json!(7), json!(null))]);
        for _ in 0..2 {
            assert_eq!(stage.sidecar.expect(200, ("DELETE", &monthly), "")["budgets"], left);
        }
        let of = path.trim_end_matches("/budget");
        assert_eq!(stage.sidecar.expect(200, ("GET", of), "")["budgets"], left);
        assert_eq!(stage.sidecar.expect(200, ("PATCH", of), r#"{"weight":5}"#)["budgets"], left);
        let list = format!("/{}", of.split('/').nth(1).unwrap());
        assert_eq!(stage.sidecar.expect(200, ("GET", &list), "")[0]["budgets"], left);
    }
}

#[test]
fn what_makes_no_budget_is_refused_by_name() {
    let stage = Stage::new();
    let both = r#""limit_tokens":1,"limit_micro_usd":1"#;
    let bodies = [
        (format!("{{{both}}}"), "period"),
        (format!(r#"{{"period":null,{both}}}"#), "period"),
        (format!(r#"{{"period":5,{both}}}"#), "period"),
        (format!(r#"{{"period":"weekly",{both}}}"#), "period"),
        (format!(r#"{{"period":"minute",{both}}}"#), "period"),
        (format!(r#"{{"period":"Daily",{both}}}"#), "period"),
        (r#"{"period":"daily"}"#.into(), "limit_tokens"),
        (r#"{"period":"daily","limit_tokens":-1}"#.into(), "limit_tokens"),
        (r#"{"period":"daily","limit_tokens":1.5}"#.into(), "limit_tokens"),
        (r#"{"period":"daily","limit_tokens":"5"}"#.into(), "limit_tokens"),
        (r#"{"period":"daily","limit_tokens":9007199254740993}"#.into(), "limit_tokens"),
        (r#"{"period":"daily","limit_tokens":18446744073709551616}"#.into(), "limit_tokens"),
        (r#"{"period":"daily","limit_micro_usd":-1}"#.into(), "limit_micro_usd"),
        (r#"{"period":"daily","limit_micro_usd":9007199254740993}"#.into(), "limit_micro_usd"),
        (r#"{"period":"daily","limit_tokens":5,"limit_usd":5}"#.into(), "limit_usd"),
    ];
    let refused = |(method, path): (&str, &str), body: &str, param: &str| {
        let answer = stage.sidecar.send(method, path, body);
        assert_eq!(answer.status, 400, "{method} {path} {body}: {}", answer.body);
        assert_eq!(answer.refusal(), ("invalid_parameter".into(), json!(param)), "{method} {path} {body}");
    };
    for path in stage.paths() {
        for (body, param) in &bodies {
            refused(("PUT", &path), body, param);
        }
        refused(("DELETE", &path), "", "period");
        refused(("DELETE", &format!("{path}?period=hourly")), "", "period");
        refused(("DELETE", &format!("{path}?period=daily&limit=5")), "", "limit");
        stage.sidecar.expect(404, ("PUT", "/keys/x/budget"), r#"{"period":"daily","limit_tokens":5}"#);
    }
    let [group, tenant, key] = stage.paths().map(|path| path.replace("/budget", ""));
    for zone in [r#""Mars/Olympus""#, r#""""#, r#""UTC+1""#, r#""Etc/Unknown""#, r#""local""#, "null", "5"] {
        let body = format!(r#"{{"name":"new","time_zone":{zone}}}"#);
        for to in [("POST", "/groups"), ("POST", "/tenants"), ("PATCH", &group), ("PATCH", &tenant)] {
            refused(to, &body, "time_zone");
        }
    }
    refused(("PATCH", &key), r#"{"time_zone":"UTC"}"#, "time_zone");
    for path in [&tenant, &key] {
        for (quota, param) in [
            (r#"{"tokens_per_minute":-1}"#, "tokens_per_minute"),
            (r#"{"requests_per_minute":9007199254740993}"#, "requests_per_minute"),
            ("{}", "tokens_per_minute"),
        ] {
            refused(("PUT", &format!("{path}/quota")), quota, param);
        }
    }
    assert_eq!(stage.told(), Vec::new(), "nothing of it is in force");
}

#[test]
fn every_change_of_limits_is_told_before_its_answer_whichever_way_it_is_made() {
    let stage = Stage::new();
    let daily = |limit| Limits::NONE.with(Measure::DailyTokens, limit);
    for path in stage.paths() {
        let of = path.trim_start_matches('/').trim_end_matches("/budget").to_owned();
        stage.put(&path, r#"{"period":"daily","limit_tokens":5}"#);
        let told = stage.told_one();
        assert_eq!((name(told.scope), told.limits), (of.clone(), daily(Some(5))));
        assert!(told.day.begins < told.day.ends && told.day.ends < told.day.next_ends);
        stage.put(&path, r#"{"period":"daily","limit_tokens":5}"#);
        assert_eq!(stage.told(), Vec::new(), "nothing has changed");
        stage.sidecar.expect(200, ("DELETE", &format!("{path}?period=daily")), "");
        assert_eq!((name(stage.told_one().scope), stage.told()), (of, Vec::new()));
    }
    for path in [format!("/tenants/{}", stage.tenant), format!("/keys/{}", stage.key)] {
        stage.put(&format!("{path}/quota"), r#"{"tokens_per_minute":5,"requests_per_minute":0}"#);
        let rates =
            Limits::NONE.with(Measure::TokensPerMinute, Some(5)).with(Measure::RequestsPerMinute, Some(0));
        assert_eq!(stage.told_one().limits, rates);
        stage.sidecar.expect(200, ("PATCH", &path), r#"{"requests_per_minute":null}"#);
        assert_eq!(stage.told_one().limits, Limits::NONE.with(Measure::TokensPerMinute, Some(5)));
    }
    let body = r#"{"name":"new","tokens_per_minute":9}"#;
    stage.sidecar.expect(201, ("POST", "/tenants"), body);
    assert!(matches!(stage.told_one().scope, Scope::Tenant(_)));
    let made = stage.sidecar.expect(201, ("POST", &format!("/tenants/{}/keys", stage.tenant)), body);
    assert_eq!(name(stage.told_one().scope), format!("keys/{}", made["id"].as_str().unwrap()));
    stage.sidecar.rotate(&stage.key, "");
    stage.put(&format!("/tenants/{}/group", stage.tenant), r#"{"group_name":"default"}"#);
    assert_eq!(stage.told(), Vec::new(), "these change no limits");

    stage.sidecar.expect(200, ("DELETE", &format!("/keys/{}", stage.key)), "");
    let told = stage.told_one();
    assert_eq!((name(told.scope), told.limits), (format!("keys/{}", stage.key), Limits::NONE));
    stage.sidecar.expect(200, ("DELETE", &format!("/tenants/{}", stage.tenant)), "");
    let told = stage.told();
    assert!(told.len() == 2 && told.iter().all(|told| told.limits.is_none()), "itself and its other key");
}

#[test]
fn of_changes_at_the_same_time_the_one_that_is_stored_last_is_told_last() {
    let stage = Stage::new();
    let (of_key, of_tenant) = (&stage.paths()[2], &stage.paths()[1]);
    let put = |limit: u32| {
        let body = if limit.is_multiple_of(5) { "null".to_owned() } else { limit.to_string() };
        let body = format!(r#"{{"period":"daily","limit_tokens":{body}}}"#);
        stage.put(of_key, &body);
        stage.put(of_tenant, &body);
    };
    let put = &put;
    std::thread::scope(|scope| {
        // No more than the ring of orders holds.
        (0..4).for_each(|n| drop(scope.spawn(move || (0..12).for_each(|m| put(n * 12 + m)))));
    });
    let told = stage.told();
    for path in [of_key, of_tenant] {
        let of = path.trim_end_matches("/budget");
        let stored = stage.sidecar.expect(200, ("GET", of), "")["budgets"][0]["limit_tokens"].as_u64();
        let last = told.iter().rfind(|told| format!("/{}", name(told.scope)) == of).unwrap();
        assert_eq!(last.limits.get(Measure::DailyTokens), stored, "{of}");
    }
}

#[test]
fn a_deleted_groups_budget_is_gone() {
    let stage = Stage::new();
    stage.put(&stage.paths()[0], r#"{"period":"lifetime","limit_tokens":5}"#);
    let told = stage.told_one();
    assert_eq!((told.day, told.month), (Turn::FOREVER, Turn::FOREVER));
    stage.put(&format!("/tenants/{}/group", stage.tenant), r#"{"group_name":"default"}"#);
    stage.sidecar.expect(200, ("DELETE", &format!("/groups/{}", stage.group)), "");
    assert_eq!(stage.told_one().limits, Limits::NONE);
    let sql = "SELECT count(*) FROM budgets";
    assert_eq!(stage.sidecar.outside().query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap(), 0);
}

#[test]
fn days_move_with_the_time_zone_of_the_tenant_and_its_keys() {
    let stage = Stage::new();
    let [group, tenant, key] = stage.paths();
    for path in [&group, &tenant, &key] {
        stage.put(path, r#"{"period":"monthly","limit_tokens":5}"#);
    }
    let before = stage.told();
    assert!(before.iter().all(|told| told.month == before[0].month && told.day == Turn::FOREVER));
    let moved = r#"{"time_zone":"asia/kolkata"}"#;
    let of = |path: &str| path.replace("/budget", "");
    assert_eq!(stage.sidecar.expect(200, ("PATCH", &of(&tenant)), moved)["time_zone"], "Asia/Kolkata");
    let told: Vec<_> = stage.told();
    assert_eq!(told.iter().map(|told| told.scope.kind()).collect::<Vec<_>>(), ["tenant", "key"]);
    let half_past_five = 5 * 3_600_000 + 1_800_000;
    for told in told {
        // The month before, if it has begun in one place and not yet in the other.
        let hours = (before[0].month.begins.0 - told.month.begins.0) % 86_400_000;
        assert_eq!(hours.rem_euclid(86_400_000), half_past_five);
    }
    stage.sidecar.expect(200, ("PATCH", &of(&group)), moved);
    assert_eq!(stage.told_one().scope.kind(), "group");
    let made = stage.sidecar.expect(201, ("POST", "/groups"), r#"{"name":"x","time_zone":"Europe/Berlin"}"#);
    assert_eq!(made["time_zone"], "Europe/Berlin");
}

#[test]
fn shards_find_the_limits_in_the_snapshot_and_in_the_key() {
    let stage = Stage::new();
    let bodies = [r#"{"period":"daily","limit_tokens":1}"#, r#"{"period":"monthly","limit_micro_usd":2}"#];
    let [group, tenant, key] = stage.paths();
    stage.put(&group, bodies[0]);
    stage.put(&tenant, bodies[1]);
    stage.put(&format!("/tenants/{}/quota", stage.tenant), r#"{"requests_per_minute":3}"#);
    let sent = std::iter::from_fn(|| stage.sidecar.shards[0].0.take());
    let snapshots = sent.filter_map(|told| if let Command::Snapshot(s) = told { Some(s) } else { None });
    let snapshot = snapshots.last().unwrap();
    let found = snapshot.tenant(TenantId(stage.tenant.parse().unwrap())).unwrap();
    assert_eq!(found.group_limits, Limits::NONE.with(Measure::DailyTokens, Some(1)));
    let own = Limits::NONE.with(Measure::MonthlyMicroUsd, Some(2)).with(Measure::RequestsPerMinute, Some(3));
    assert_eq!(found.limits, own);
    stage.put(&key, r#"{"period":"lifetime","limit_tokens":4,"limit_micro_usd":0}"#);
    let of_key = Limits::NONE.with(Measure::LifetimeTokens, Some(4)).with(Measure::LifetimeMicroUsd, Some(0));
    let limits_of = |secret: &str| match stage.sidecar.shards[0].look_up(secret) {
        KeyAnswer::Found(record) => record.limits,
        other => panic!("{other:?}"),
    };
    let (_, rotated) = stage.sidecar.rotate(&stage.key, "");
    assert_eq!((limits_of(&stage.secret), limits_of(&rotated)), (of_key, of_key), "both secrets are the key");
}

#[test]
fn the_book_is_there_before_the_first_snapshot_and_again_for_every_coordinator_that_starts() {
    let stage = Stage::new();
    for path in stage.paths() {
        stage.put(&path, r#"{"period":"daily","limit_tokens":5}"#);
    }
    let tenant = format!("/tenants/{}", stage.tenant);
    stage.put(&format!("{tenant}/quota"), r#"{"tokens_per_minute":5}"#);
    let gone = stage.sidecar.tenant("gone");
    let (deleted, _) = stage.sidecar.key(&gone, "of a tenant that is deleted");
    stage.put(&format!("/keys/{deleted}/quota"), r#"{"tokens_per_minute":5}"#);
    stage.sidecar.expect(200, ("DELETE", &format!("/tenants/{gone}")), "");
    let (key, tenant_id, group) = (stage.key.clone(), stage.tenant.clone(), stage.group.clone());
    let (dir, settings) = stage.sidecar.stop();

    let sidecar = Running::start_in(dir, settings).unwrap();
    // The shards have their first snapshot by now.
    let first = sidecar.coordinator.take_order();
    let Some(Order::Limits(first)) = first else { panic!("{first:?}") };
    let scopes = |book: &LimitBook| book.definitions.iter().map(|told| name(told.scope)).collect::<Vec<_>>();
    let expected = [format!("keys/{key}"), format!("tenants/{tenant_id}"), format!("groups/{group}")];
    assert_eq!(scopes(&first), expected);
    assert_eq!(first.definitions[1].limits.iter().count(), 2);
    sidecar.hush();
    sidecar.expect(200, ("DELETE", &format!("/keys/{key}/budget?period=daily")), "");
    sidecar.coordinator.report(Report::Started);
    assert_eq!(scopes(&book(&sidecar)), expected[1..]);
    sidecar.coordinator.report(Report::Started);
    assert_eq!(scopes(&book(&sidecar)), expected[1..]);
}

#[test]
fn a_budget_is_on_record_with_what_it_was_before() {
    let stage = Stage::new();
    for path in stage.paths() {
        stage.put(&path, r#"{"period":"daily","limit_tokens":5}"#);
        stage.sidecar.expect(200, ("DELETE", &format!("{path}?period=daily")), "");
    }
    let outside = stage.sidecar.outside();
    let sql =
        "SELECT object_kind, before, after FROM audit WHERE action = object_kind || '.budget' ORDER BY id";
    let mut statement = outside.prepare(sql).unwrap();
    let budgets = |text: String| serde_json::from_str::<Value>(&text).unwrap()["budgets"].clone();
    let rows: Vec<(String, Value, Value)> = statement
        .query_map([], |row| Ok((row.get(0)?, budgets(row.get(1)?), budgets(row.get(2)?))))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    let (none, five) = (json!([]), json!([{"period": "daily", "limit_tokens": 5, "limit_micro_usd": null}]));
    let expected = ["group", "tenant", "key"].map(|kind| {
        [(kind.to_owned(), none.clone(), five.clone()), (kind.to_owned(), five.clone(), none.clone())]
    });
    assert_eq!(rows, expected.concat());
}
