//! What the owner of the limits is told, and when.

use obleth_link::{BufferBudget, CoordinatorEnd, Order, links};
use obleth_policy::{
    id::{GroupId, KeyId, TenantId},
    key::KeyDigest,
    limit::{Limits, Measure, Meter, Period, Scope, Turn},
};
use uuid::Uuid;

use super::*;
use crate::{
    store::{
        budgets::BudgetRow,
        rows::{GroupRow, TenantRow},
    },
    usage::calendar::Zone,
};

/// 2026-11-21T12:00:00Z.
const NOON: UnixMs = UnixMs(1_795_262_400_000);
const HOUR: i64 = 3_600_000;

fn tenant_id(n: u128) -> TenantId {
    TenantId(Uuid::from_u128(n))
}

fn tokens(period: Period, limit: i64) -> BudgetRow {
    BudgetRow { period, limit_tokens: Some(limit), limit_micro_usd: None }
}

fn tenant(n: u128, zone: &str, budgets: &[BudgetRow]) -> TenantRow {
    let (time_zone, budgets) = (Zone::of(zone).unwrap(), budgets.to_vec());
    TenantRow { id: tenant_id(n), time_zone, budgets, ..TenantRow::draft(n.to_string()) }
}

fn key(n: u128, tenant: u128, budgets: &[BudgetRow]) -> KeyRow {
    let draft = KeyRow::draft(tenant_id(tenant), n.to_string(), "sk_0000", KeyDigest([0; 32]));
    KeyRow { id: KeyId(Uuid::from_u128(n)), budgets: budgets.to_vec(), ..draft }
}

fn registry(tenants: &[TenantRow]) -> Registry {
    Registry { tenants: tenants.to_vec(), ..Registry::default() }
}

/// Scopes and their limits by day, in short.
fn daily(changed: &[Definition]) -> Vec<(&'static str, Option<u64>)> {
    changed.iter().map(|d| (d.scope.kind(), d.limits.get(Measure::DailyTokens))).collect()
}

fn nothing() -> Vec<Definition> {
    Vec::new()
}

#[test]
fn only_what_differs_is_told_and_what_is_gone_is_told_as_no_limits() {
    let mut definitions = Definitions::default();
    let day = [tokens(Period::Daily, 5)];
    let group = |budgets: &[BudgetRow]| GroupRow {
        id: GroupId(Uuid::from_u128(9)),
        budgets: budgets.to_vec(),
        ..GroupRow::draft("gold".into())
    };
    let with_group = |tenants: &[TenantRow], budgets: &[BudgetRow]| Registry {
        groups: vec![group(budgets)],
        ..registry(tenants)
    };
    let tenants = [tenant(1, "UTC", &day), tenant(2, "UTC", &[])];
    let told = definitions.follow(&with_group(&tenants, &day), NOON);
    assert_eq!(daily(&told), [("group", Some(5)), ("tenant", Some(5))]);
    assert_eq!(definitions.follow(&with_group(&tenants, &day), NOON), nothing());
    assert_eq!(daily(definitions.follow_key(&key(7, 2, &day), NOON).as_slice()), [("key", Some(5))]);
    assert_eq!(definitions.follow_key(&key(7, 2, &day), NOON), None);
    assert_eq!(definitions.follow_key(&key(8, 2, &[]), NOON), None, "it never had limits");
    let told = definitions.follow(&with_group(&tenants, &[]), NOON);
    assert_eq!(daily(&told), [("group", None)]);
    assert!(told[0].limits.is_none());
    assert_eq!(daily(&definitions.follow(&registry(&tenants[..1]), NOON)), [("key", None)], "of that tenant");
    assert_eq!(daily(&definitions.follow(&registry(&[]), NOON)), [("tenant", None)]);
    assert_eq!(definitions.all(), nothing());
    assert_eq!(definitions.next_end(), None);
}

#[test]
fn a_key_that_is_deleted_has_no_limits() {
    let mut definitions = Definitions::default();
    let row = key(7, 1, &[tokens(Period::Lifetime, 0)]);
    let told = definitions.follow_key(&row, NOON).unwrap();
    assert_eq!(told.limits.get(Measure::LifetimeTokens), Some(0), "0 is a limit");
    let told = definitions.follow_key(&KeyRow { deleted: true, ..row }, NOON).unwrap();
    assert!(told.limits.is_none());
}

#[test]
fn a_keys_days_are_its_tenants_and_move_with_its_zone() {
    let mut definitions = Definitions::default();
    let day = [tokens(Period::Daily, 5)];
    // The key's row comes first: its tenant's could not be read yet.
    let early = definitions.follow_key(&key(7, 1, &day), NOON).unwrap();
    assert_eq!(early.day.begins, UnixMs(NOON.0 - 12 * HOUR));
    let told = definitions.follow(&registry(&[tenant(1, "Asia/Tokyo", &[])]), NOON);
    assert_eq!((daily(&told), told[0].day.begins), (vec![("key", Some(5))], UnixMs(NOON.0 - 21 * HOUR)));
    let told = definitions.follow(&registry(&[tenant(1, "America/New_York", &day)]), NOON);
    assert_eq!(daily(&told), [("tenant", Some(5)), ("key", Some(5))]);
    assert!(told.iter().all(|told| told.day.begins == UnixMs(NOON.0 - 7 * HOUR)));
    let later = definitions.follow_key(&key(8, 1, &day), NOON).unwrap();
    assert_eq!(later.day, told[0].day);
}

#[test]
fn periods_are_renewed_when_they_end_and_rates_and_lifetimes_wake_nobody() {
    let mut definitions = Definitions::default();
    let mut rate = key(7, 1, &[tokens(Period::Lifetime, 5)]);
    rate.tokens_per_minute = Some(5);
    let told = definitions.follow_key(&rate, NOON).unwrap();
    assert_eq!((told.day, told.month, definitions.next_end()), (Turn::FOREVER, Turn::FOREVER, None));
    let rows = [
        tenant(1, "UTC", &[tokens(Period::Daily, 5)]),
        tenant(2, "Europe/Berlin", &[tokens(Period::Monthly, 5)]),
    ];
    let told = definitions.follow(&registry(&rows), NOON);
    let midnight = UnixMs(NOON.0 + 12 * HOUR);
    assert_eq!((told[0].day.ends, told[0].month), (midnight, Turn::FOREVER));
    assert_eq!(definitions.next_end(), Some(midnight));
    assert_eq!(definitions.renew(UnixMs(midnight.0 - 1)), nothing());
    let renewed = definitions.renew(midnight);
    assert_eq!(renewed.len(), 1);
    assert_eq!((renewed[0].day.begins, renewed[0].day.ends), (midnight, told[0].day.next_ends));
    assert_eq!(definitions.renew(midnight), nothing());
    // The first of December in Berlin is an hour earlier than in UTC; days have gone by unseen.
    let december = UnixMs(midnight.0 + 9 * 24 * HOUR - HOUR);
    let renewed = definitions.renew(december);
    assert_eq!(renewed.len(), 2);
    assert!(renewed.iter().any(|told| told.month.begins == december));
}

/// What was spent, as it is asked for.
struct Books(Mutex<Vec<Vec<Definition>>>);

const METER: Meter =
    Meter { scope: Scope::Tenant(TenantId(Uuid::from_u128(1))), measure: Measure::DailyTokens };

impl Spending for Books {
    async fn spent(&self, definitions: Vec<Definition>) -> Vec<Spent> {
        let mut asked = self.0.lock().unwrap();
        asked.push(definitions);
        vec![Spent { meter: METER, since: UnixMs(0), amount: asked.len() as u64 }]
    }
}

fn desk() -> (Arc<LimitDesk>, CoordinatorEnd) {
    let (end, _) = links(1, BufferBudget::new(0)).unwrap();
    let coordinator = end.coordinator();
    (Arc::new(LimitDesk::new(Arc::new(Pump::new(end, 1)))), coordinator)
}

fn book(coordinator: &CoordinatorEnd) -> Arc<LimitBook> {
    match coordinator.take_order() {
        Some(Order::Limits(book)) => book,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_first_book_holds_what_was_loaded_and_changed_and_changes_go_out_only_after_it() {
    let (desk, coordinator) = desk();
    let day = [tokens(Period::Daily, 5)];
    desk.follow(&registry(&[tenant(3, "UTC", &day)]));
    assert_eq!(desk.definitions(), nothing(), "it is in the reading that is to come");
    desk.load(&registry(&[tenant(1, "UTC", &day)]), &[key(7, 1, &day)]);
    desk.follow(&registry(&[tenant(1, "UTC", &[tokens(Period::Daily, 6)])]));
    assert!(coordinator.take_order().is_none());
    let books = Books(Mutex::default());
    desk.publish(&books).await;
    desk.begun().await;
    let first = book(&coordinator);
    assert_eq!(daily(&first.definitions), [("key", Some(5)), ("tenant", Some(6))]);
    assert_eq!((first.spent[0].amount, books.0.lock().unwrap()[0].len()), (1, 2));
    let changes = desk.changes();
    desk.follow_key(&key(7, 1, &[]));
    assert!(changes.has_changed().unwrap());
    assert!(matches!(coordinator.take_order(), Some(Order::Limit(told)) if told.limits == Limits::NONE));
}

#[tokio::test]
async fn an_owner_that_starts_is_given_what_holds_now_and_what_is_spent_now() {
    let (desk, coordinator) = desk();
    desk.load(&registry(&[tenant(1, "UTC", &[tokens(Period::Daily, 5)])]), &[]);
    let books = Books(Mutex::default());
    let (lives, of_coordinator) = (watch::Sender::new(1), coordinator.clone());
    let seen = lives.subscribe();
    desk.publish(&books).await;
    book(&coordinator);
    let running = Arc::clone(&desk);
    let run = tokio::spawn(async move { running.run(seen, &books).await });
    for (life, limit) in [(2, 6), (3, 7)] {
        desk.follow(&registry(&[tenant(1, "UTC", &[tokens(Period::Daily, limit)])]));
        assert!(matches!(of_coordinator.take_order(), Some(Order::Limit(_))));
        lives.send_replace(life);
        let given = loop {
            match of_coordinator.take_order() {
                Some(Order::Limits(book)) => break book,
                Some(other) => panic!("{other:?}"),
                None => tokio::task::yield_now().await,
            }
        };
        assert_eq!(daily(&given.definitions), [("tenant", Some(limit.unsigned_abs()))]);
        assert_eq!(given.spent[0].amount, life);
    }
    run.abort();
}

#[tokio::test(start_paused = true)]
async fn without_a_period_that_ends_it_sleeps_for_ever_and_with_one_it_wakes_for_its_end() {
    let (desk, coordinator) = desk();
    desk.publish(&Books(Mutex::default())).await;
    book(&coordinator);
    desk.load(&registry(&[tenant(1, "UTC", &[tokens(Period::Lifetime, 5)])]), &[]);
    assert!(matches!(coordinator.take_order(), Some(Order::Limit(_))));
    let begun = tokio::time::Instant::now();
    let year = Duration::from_secs(365 * 24 * 3600);
    assert!(tokio::time::timeout(year, desk.renew()).await.is_err());
    assert_eq!(begun.elapsed().as_secs(), year.as_secs());
    assert_eq!(until(UnixMs(10_000), UnixMs(9_000)), Duration::from_millis(1_050));
    assert_eq!(until(UnixMs(10_000), UnixMs(20_000)), AFTER_END, "it has ended");
    assert_eq!(until(UnixMs(i64::MAX), UnixMs(0)), LONGEST_SLEEP);
}
