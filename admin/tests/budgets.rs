//! What budgets have used, through a running sidecar: `/budgets`, what the owner of the limits is told, and who hears of a
//! budget that fills up.

mod running;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use obleth_link::{CoordinatorEnd, Order, Report};
use obleth_policy::{
    id::TenantId,
    limit::{Measure, Meter, Scope, Standing},
    unit::UnixMs,
};
use running::{Record, Running, next_order, send, until};
use serde_json::{Value, json};

/// A sidecar with a group, a tenant in it and its key.
struct Stage {
    sidecar: Running,
    group: String,
    tenant: String,
    key: String,
}

/// Stands for the owner of the limits: answers every look with the same, and keeps what it is told to correct.
struct Owner {
    corrections: Arc<Mutex<Vec<(Measure, i64)>>>,
    looks: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Owner {
    fn of(coordinator: &CoordinatorEnd, standings: &[Standing]) -> Self {
        let (corrections, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let looks = Arc::new(AtomicU64::new(0));
        let (coordinator, standings) = (coordinator.clone(), standings.to_vec());
        let (kept, ends): (Arc<Mutex<Vec<_>>>, _) = (Arc::clone(&corrections), Arc::clone(&stop));
        let looked = Arc::clone(&looks);
        let thread = thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                match coordinator.take_order() {
                    Some(Order::LookAtLimits) => {
                        looked.fetch_add(1, Ordering::Relaxed);
                        coordinator.report(Report::Limits(standings.clone()));
                    }
                    Some(Order::Correct(of)) => kept.lock().unwrap().push((of.meter.measure, of.by)),
                    Some(_) => {}
                    None => thread::sleep(Duration::from_millis(1)),
                }
            }
        });
        Self { corrections, looks, stop, thread: Some(thread) }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // The test has judged already.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

impl Stage {
    fn new() -> Self {
        let sidecar = Running::start();
        let group = sidecar.expect(201, ("POST", "/groups"), r#"{"name":"gold"}"#);
        let tenant = sidecar.expect(201, ("POST", "/tenants"), r#"{"name":"acme","group_name":"gold"}"#);
        let id = |made: &Value| made["id"].as_str().unwrap().to_owned();
        let (group, tenant) = (id(&group), id(&tenant));
        let (key, _) = sidecar.key(&tenant, "ci");
        Self { sidecar, group, tenant, key }
    }

    /// Requests of some days ago that came to 132 tokens and 7 micro-USD each.
    fn record(&self, numbers: std::ops::Range<u16>) {
        let record = |number: u16| {
            let mut rest = [0; 10];
            rest[8..].copy_from_slice(&number.to_be_bytes());
            Record {
                ts: now() - 3 * 86_400_000,
                rest,
                request_id: format!("r-{number}"),
                tenant: self.tenant.clone(),
                key: self.key.clone(),
                model: "llama".into(),
                refused: false,
                input_tokens: 102,
                cost: Some(7),
            }
        };
        self.sidecar.record(numbers.map(record));
    }

    fn set(&self, kind: &str, id: &str, body: &str) {
        self.sidecar.expect(200, ("PUT", &format!("/{kind}/{id}/budget")), body);
    }

    fn budgets(&self, query: &str) -> Value {
        self.sidecar.expect(200, ("GET", &format!("/budgets{query}")), "")
    }

    fn metric(&self, name: &str) -> f64 {
        let body = send(self.sidecar.metrics, ("GET", "/metrics"), &[], b"").body;
        let line = body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {body}")).parse().unwrap()
    }
}

/// Of every budget of a list: what it is, and what was used of what.
fn short(budgets: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let of = |row: &Value| {
        ["scope", "name", "period", "unit", "spent", "limit"].map(|member| text(&row[member])).join(" ")
    };
    budgets.as_array().unwrap().iter().map(of).collect()
}

#[test]
fn a_budget_that_is_made_late_counts_what_was_used_before_also_for_the_owner_and_the_next_process() {
    let stage = Stage::new();
    stage.record(0..10);
    let owner = Owner::of(&stage.sidecar.coordinator, &[]);
    stage.set("keys", &stage.key, r#"{"period":"lifetime","limit_tokens":1500,"limit_micro_usd":1000}"#);
    let corrected = || owner.corrections.lock().unwrap().clone();
    until("the owner hears of both", || corrected().len() >= 2);
    let mut corrections = corrected();
    corrections.sort_unstable();
    corrections.truncate(2);
    assert_eq!(corrections, [(Measure::LifetimeTokens, 1320), (Measure::LifetimeMicroUsd, 70)]);
    let row = &stage.budgets("")[0];
    assert_eq!((&row["spent"], &row["left"], &row["exhausted"]), (&json!(1320), &json!(180), &json!(false)));
    assert_eq!((&row["begins_at"], &row["resets_at"]), (&json!(null), &json!(null)));
    assert_eq!(row["days_left"], json!(1.0), "1320 were used in seven days");
    assert_eq!((&row["tenant_id"], &row["scope_id"]), (&json!(stage.tenant), &json!(stage.key)));
    assert_eq!(
        short(&stage.budgets("")),
        ["key ci lifetime tokens 1320 1500", "key ci lifetime micro_usd 70 1000"]
    );
    // Told once, and once only over restarts.
    until("it is told", || stage.metric(r#"obleth_budget_alerts_total{threshold="80"}"#) == 1.0);
    assert_eq!(stage.metric(r#"obleth_budget_alerts_total{threshold="100"}"#), 0.0);
    assert!(stage.metric("obleth_budget_repairs_total") >= 2.0);

    // Lowered below what was used: nothing is left, and that is told.
    stage.set("keys", &stage.key, r#"{"period":"lifetime","limit_tokens":1000}"#);
    let row = &stage.budgets("?limit=1")[0];
    assert_eq!((&row["spent"], &row["left"], &row["exhausted"]), (&json!(1320), &json!(0), &json!(true)));
    until("it is told", || stage.metric(r#"obleth_budget_alerts_total{threshold="100"}"#) == 1.0);

    drop(owner);
    let Stage { sidecar, group, tenant, key } = stage;
    let (dir, settings) = sidecar.stop();
    let sidecar = Running::start_in(dir, settings).unwrap();
    let book = loop {
        if let Order::Limits(book) = next_order(&sidecar.coordinator) {
            break book;
        }
    };
    let mut spent: Vec<_> = book.spent.iter().map(|spent| (spent.meter.measure, spent.amount)).collect();
    spent.sort_unstable();
    assert_eq!(spent, [(Measure::LifetimeTokens, 1320), (Measure::LifetimeMicroUsd, 70)]);
    let stage = Stage { sidecar, group, tenant, key };
    for threshold in [80, 100] {
        let name = format!(r#"obleth_budget_alerts_total{{threshold="{threshold}"}}"#);
        assert_eq!(stage.metric(&name), 0.0, "it was told before");
    }
}

#[test]
fn a_refusal_is_told_for_itself_and_the_thresholds_when_they_come() {
    let stage = Stage::new();
    stage.record(0..6);
    stage.set("tenants", &stage.tenant, r#"{"period":"lifetime","limit_tokens":1000}"#);
    let meter = Meter {
        scope: Scope::Tenant(TenantId(stage.tenant.parse().unwrap())),
        measure: Measure::LifetimeTokens,
    };
    let told =
        |threshold: &str| stage.metric(&format!(r#"obleth_budget_alerts_total{{threshold="{threshold}"}}"#));
    for _ in 0..2 {
        stage.sidecar.coordinator.report(Report::Exhausted(meter, UnixMs(0)));
    }
    until("the refusal is told", || told("refused") == 1.0);
    until("the past is summed", || short(&stage.budgets("")) == ["tenant acme lifetime tokens 792 1000"]);
    assert_eq!((told("80"), told("100")), (0.0, 0.0), "so much is not used");
    stage.set("tenants", &stage.tenant, r#"{"period":"lifetime","limit_tokens":792}"#);
    until("all of it is used", || told("100") == 1.0);
    assert_eq!((told("80"), told("refused")), (1.0, 1.0));
}

#[test]
fn questions_one_after_the_other_cost_the_owner_a_few_looks_per_second() {
    let stage = Stage::new();
    stage.set("tenants", &stage.tenant, r#"{"period":"daily","limit_tokens":6}"#);
    let owner = Owner::of(&stage.sidecar.coordinator, &[]);
    let begun = Instant::now();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..6).for_each(|_| drop(stage.budgets(""))));
        }
    });
    let (looks, took) = (owner.looks.load(Ordering::Relaxed), begun.elapsed());
    // Two for those that were under way when it began and ended.
    let most = took.as_millis() / 250 + 2;
    assert!(looks > 0 && u128::from(looks) <= most, "{looks} looks in {took:?} for 24 questions");
}

#[test]
fn budgets_are_listed_by_what_is_asked_for_and_in_pages() {
    let stage = Stage::new();
    stage.set("groups", &stage.group, r#"{"period":"monthly","limit_micro_usd":5}"#);
    stage.set("tenants", &stage.tenant, r#"{"period":"daily","limit_tokens":6,"limit_micro_usd":0}"#);
    stage.set("keys", &stage.key, r#"{"period":"lifetime","limit_tokens":7}"#);
    let other = stage.sidecar.tenant("other");
    stage.set("tenants", &other, r#"{"period":"daily","limit_tokens":8}"#);
    let meter = Meter {
        scope: Scope::Tenant(TenantId(stage.tenant.parse().unwrap())),
        measure: Measure::DailyTokens,
    };
    let today = UnixMs(now().div_euclid(86_400_000) * 86_400_000);
    let ends = UnixMs(today.0 + 86_400_000);
    let standing = Standing { meter, since: today, ends, limit: 6, used: 3, reserved: 2, version: 1 };
    let _owner = Owner::of(&stage.sidecar.coordinator, &[standing]);

    let all = [
        "tenant other daily tokens 0 8",
        "key ci lifetime tokens 0 7",
        "tenant acme daily tokens 3 6",
        "tenant acme daily micro_usd 0 0",
        "group gold monthly micro_usd 0 5",
    ];
    assert_eq!(short(&stage.budgets("")), all);
    assert_eq!(short(&stage.budgets("?scope=key")), all[1..2]);
    assert_eq!(short(&stage.budgets(&format!("?tenant_id={}", stage.tenant))), all[1..4]);
    assert_eq!(short(&stage.budgets(&format!("?tenant_id={}&scope=tenant", stage.tenant))), all[2..4]);
    assert_eq!(short(&stage.budgets(&format!("?scope_id={}", stage.group))), all[4..]);

    let mut seen = Vec::new();
    let mut next = Some("/budgets?limit=2".to_owned());
    while let Some(path) = next {
        let answer = stage.sidecar.get(&path);
        seen.extend(short(&answer.json()));
        let link = answer.header("link").map(str::to_owned);
        next = link
            .map(|link| link.split(['<', '>']).nth(1).unwrap().strip_prefix("/api/v1").unwrap().to_owned());
    }
    assert_eq!(seen, all);

    let rows = stage.budgets(&format!("?scope_id={}", stage.tenant));
    let (tokens, money) = (&rows[0], &rows[1]);
    assert_eq!((&tokens["reserved"], &tokens["left"]), (&json!(2), &json!(1)), "as the owner says");
    assert_eq!((&money["left"], &money["exhausted"]), (&json!(0), &json!(true)), "0 is nothing");
    assert_eq!(tokens["days_left"], json!(null), "the ledger has nothing of the last days");
    let begins = tokens["begins_at"].as_str().unwrap();
    assert!(begins.ends_with("T00:00:00Z") && tokens["resets_at"].as_str().unwrap() > begins);

    // What was deleted, or taken away, has no budget.
    stage.sidecar.expect(200, ("DELETE", &format!("/tenants/{other}")), "");
    stage.sidecar.expect(200, ("DELETE", &format!("/keys/{}/budget?period=lifetime", stage.key)), "");
    assert_eq!(short(&stage.budgets("")), all[2..]);
}

#[test]
fn a_question_that_makes_no_sense_is_refused_by_name() {
    let stage = Stage::new();
    for (query, param) in [
        ("scope=user", "scope"),
        ("scope_id=7", "scope_id"),
        ("tenant_id=acme", "tenant_id"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("after=00000000-0000-0000-0000-000000000007", "after"),
        ("period=daily", "period"),
    ] {
        let answer = stage.sidecar.get(&format!("/budgets?{query}"));
        assert_eq!((answer.status, answer.refusal().1), (400, json!(param)), "{query}");
    }
}

#[test]
fn without_an_answer_of_the_owner_the_book_is_shown() {
    let stage = Stage::new();
    stage.record(0..3);
    stage.set("tenants", &stage.tenant, r#"{"period":"lifetime","limit_tokens":1000}"#);
    until("the past is summed", || short(&stage.budgets("")) == ["tenant acme lifetime tokens 396 1000"]);
}
