//! What the shards and the coordinator are sent, in which order, and what becomes of it when a ring is full.

use obleth_link::{BufferBudget, COMMAND_RING, CoordinatorEnd, ShardEnd, links};
use obleth_policy::{
    id::{KeyId, TenantId},
    limit::{Limits, Measure, Scope, Turn},
    unit::UnixMs,
};
use uuid::Uuid;

use super::*;
use crate::store::rows::{KeyRow, OldSecret};

const DIGEST: KeyDigest = KeyDigest([7; 32]);

fn pump(shards: usize) -> (Pump, Vec<ShardEnd>) {
    let (end, shards) = links(shards, BufferBudget::new(0)).unwrap();
    (Pump::new(end, 10), shards)
}

fn change(disabled: bool) -> KeyChange {
    let mut row = KeyRow::draft(TenantId(Uuid::nil()), "k".into(), "sk_0000", DIGEST);
    row.disabled = disabled;
    KeyChange { row, old: Vec::new() }
}

fn record(disabled: bool) -> KeyRecord {
    let unlimited = KeyRecord::unlimited(KeyId(Uuid::nil()), TenantId(Uuid::nil()));
    KeyRecord { disabled, ..unlimited }
}

fn under_way(pump: &Pump, shards: &[usize]) {
    pump.lock().flights.insert(DIGEST, Flight { shards: shards.to_vec(), stale: false });
}

#[test]
fn a_key_that_is_edited_while_it_is_looked_up_is_looked_up_again() {
    let (pump, shards) = pump(1);
    under_way(&pump, &[0]);
    pump.key_changed(&change(true));
    assert!(!pump.settle(DIGEST, Ok(Some(record(false)))), "the old row must not go out");
    assert!(pump.settle(DIGEST, Ok(Some(record(true)))));
    assert!(matches!(shards[0].take(), Some(Command::KeyChanged(DIGEST))));
    let answer = shards[0].take();
    assert!(matches!(answer, Some(Command::KeyAnswer(DIGEST, KeyAnswer::Found(key))) if key.disabled));
    assert!(shards[0].take().is_none());
}

#[test]
fn every_shard_that_asked_gets_the_one_answer() {
    let (pump, shards) = pump(3);
    under_way(&pump, &[0, 2]);
    assert!(pump.settle(DIGEST, Ok(None)));
    for at in [0, 2] {
        assert!(matches!(shards[at].take(), Some(Command::KeyAnswer(DIGEST, KeyAnswer::Unknown))));
    }
    assert!(shards[1].take().is_none());
}

#[test]
fn in_an_outage_a_key_ever_seen_is_answered_as_it_was_last_edited() {
    let (pump, shards) = pump(1);
    let answer = |found| {
        under_way(&pump, &[0]);
        assert!(pump.settle(DIGEST, found));
        std::iter::from_fn(|| shards[0].take()).last()
    };
    assert!(matches!(answer(Err(Fault::Io)), Some(Command::KeyAnswer(_, KeyAnswer::StoreDown))));
    answer(Ok(Some(record(false))));
    pump.key_changed(&change(true));
    let seen = answer(Err(Fault::Io));
    assert!(matches!(seen, Some(Command::KeyAnswer(_, KeyAnswer::Unconfirmed(key, _))) if key.disabled));
    answer(Ok(None));
    assert!(matches!(answer(Err(Fault::Io)), Some(Command::KeyAnswer(_, KeyAnswer::StoreDown))));
}

#[test]
fn a_change_reaches_every_secret_of_the_key_and_what_it_ended_stays_ended_in_an_outage() {
    let (pump, shards) = pump(1);
    let old = |n, ends_at| OldSecret { digest: KeyDigest([n; 32]), ends_at: UnixMs(ends_at) };
    let settle = |digest, found| {
        pump.lock().flights.insert(digest, Flight { shards: vec![0], stale: false });
        assert!(pump.settle(digest, found));
        std::iter::from_fn(|| shards[0].take()).last()
    };
    for n in 1..=3 {
        settle(KeyDigest([n; 32]), Ok(Some(record(false))));
    }
    let change = KeyChange { old: vec![old(1, 5000), old(2, 0)], ..change(true) };
    pump.key_changed(&change);
    let told: Vec<u8> = std::iter::from_fn(|| shards[0].take())
        .map(|command| match command {
            Command::KeyChanged(digest) => digest.0[0],
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, [1, 2, 7]);
    for (n, ends_at) in [(1, Some(5000)), (2, Some(0)), (3, None)] {
        let Some(Command::KeyAnswer(_, KeyAnswer::Unconfirmed(key, _))) =
            settle(KeyDigest([n; 32]), Err(Fault::Io))
        else {
            panic!("it was seen");
        };
        assert_eq!((key.secret_ends_at, key.disabled), (ends_at.map(UnixMs), n != 3), "{n}");
    }
}

#[test]
fn what_a_full_ring_refuses_is_merged_and_sent_later() {
    let (pump, shards) = pump(1);
    for _ in 0..COMMAND_RING + 100 {
        pump.key_changed(&change(false));
    }
    for generation in 1..=3 {
        pump.publish(Arc::new(Snapshot::new(generation, Vec::new(), Vec::new(), Default::default())));
    }
    assert!(!pump.flush(), "the ring is still full");
    assert_eq!(std::iter::from_fn(|| shards[0].take()).count(), COMMAND_RING);
    assert!(pump.flush());
    assert!(matches!(shards[0].take(), Some(Command::Snapshot(s)) if s.generation == 3));
    assert!(matches!(shards[0].take(), Some(Command::AllKeysChanged)));
    assert!(shards[0].take().is_none());
    pump.key_changed(&change(false));
    assert!(matches!(shards[0].take(), Some(Command::KeyChanged(DIGEST))));
}

const METER: Meter =
    Meter { scope: Scope::Tenant(TenantId(Uuid::from_u128(1))), measure: Measure::MonthlyTokens };

fn desk() -> (Pump, CoordinatorEnd) {
    let (end, _) = links(1, BufferBudget::new(0)).unwrap();
    let coordinator = end.coordinator();
    (Pump::new(end, 10), coordinator)
}

fn standing(used: u64) -> Standing {
    let (since, ends) = (UnixMs(0), UnixMs(i64::MAX));
    Standing { meter: METER, since, ends, limit: 100, used, reserved: 0, version: used }
}

#[test]
fn what_is_said_about_limits_is_there_before_the_call_returns() {
    let (pump, coordinator) = desk();
    let limits = Limits::NONE.with(METER.measure, Some(5));
    let definition = Definition { scope: METER.scope, limits, day: Turn::FOREVER, month: Turn::FOREVER };
    pump.limit_changed(definition);
    assert!(matches!(coordinator.take_order(), Some(Order::Limit(of)) if of == definition));
    pump.publish_limits(Arc::new(LimitBook { definitions: vec![definition], spent: Vec::new() }));
    assert!(
        matches!(coordinator.take_order(), Some(Order::Limits(book)) if book.definitions == [definition])
    );
    let correction = Correction { meter: METER, since: UnixMs(0), by: -5 };
    pump.correct(correction);
    assert!(matches!(coordinator.take_order(), Some(Order::Correct(of)) if of == correction));
}

#[tokio::test(start_paused = true)]
async fn who_asks_how_limits_stand_gets_an_answer_that_is_not_older_than_the_question() {
    let (pump, coordinator) = desk();
    let within = Duration::from_millis(500);
    assert_eq!(pump.look_at_limits(within).await, None, "nobody answers");
    assert!(matches!(coordinator.take_order(), Some(Order::LookAtLimits)));
    coordinator.report(Report::Limits(vec![standing(1)]));
    let asked = pump.look_at_limits(within);
    let answered = async {
        pump.take_reports();
        // The first look was older.
        let order = loop {
            match coordinator.take_order() {
                Some(order) => break order,
                None => tokio::task::yield_now().await,
            }
        };
        assert!(matches!(order, Order::LookAtLimits), "{order:?}");
        coordinator.report(Report::Limits(vec![standing(2)]));
        pump.take_reports();
    };
    let (standings, ()) = tokio::join!(asked, answered);
    assert_eq!(*standings.unwrap(), [standing(2)]);
}

#[test]
fn lives_of_the_coordinator_and_budgets_that_are_used_up_are_passed_on() {
    let (pump, coordinator) = desk();
    let mut lives = pump.lives();
    let mut exhausted = pump.exhausted();
    coordinator.report(Report::Exhausted(METER, UnixMs(7)));
    pump.take_reports();
    assert_eq!(exhausted.try_recv(), Ok((METER, UnixMs(7))));
    assert!(!lives.has_changed().unwrap());
    for life in 1..=2 {
        coordinator.report(Report::Started);
        pump.take_reports();
        assert_eq!(*lives.borrow_and_update(), life);
    }
}
