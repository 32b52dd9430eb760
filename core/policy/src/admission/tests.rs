//! A core by itself, with a coordinator played by hand.

use uuid::Uuid;

use super::*;
use crate::{
    id::{KeyId, TenantIx},
    protocol::{LeafTotals, PoolTotals, ReportEvery},
};

const POOL: PoolIx = PoolIx(0);
const LIFE: u32 = 7;

fn ask_of(key: u128) -> Ask {
    Ask {
        leaf: LeafId { pool: POOL, tenant: TenantIx(0), key: KeyId(Uuid::from_u128(key)) },
        shape: KeyShape::default(),
        capped: false,
        input: Cost(1000),
        streams: true,
        patience: Duration::from_secs(60),
        reject_over: None,
    }
}

fn at(ms: u64) -> Instant {
    Instant(ms * 1_000_000)
}

/// Everything that it has to say at a time.
fn words(core: &mut Admission, now: Instant) -> Vec<Up> {
    let mut words = Vec::new();
    assert!(core.say(now, |up| {
        words.push(up);
        Ok(())
    }));
    words
}

fn tickets(words: &[Up]) -> Vec<TicketId> {
    words.iter().filter_map(|up| if let Up::Ticket(ticket) = up { Some(ticket.id) } else { None }).collect()
}

fn pool_totals(words: &[Up]) -> PoolTotals {
    let last = words
        .iter()
        .filter_map(|up| if let Up::Pool(_, totals) = up { Some(*totals) } else { None })
        .next_back();
    last.unwrap()
}

fn leaf_totals(words: &[Up]) -> LeafTotals {
    let last = words
        .iter()
        .filter_map(|up| if let Up::Leaf(totals) = up { Some(*totals) } else { None })
        .next_back();
    last.unwrap()
}

/// A core that keeps so many credits and has said everything.
fn stocked(credits: u32) -> Admission {
    let mut core = Admission::new(LIFE);
    core.obey(at(0), LIFE, Down::Stock(POOL, credits));
    words(&mut core, at(0));
    core
}

fn grant(ticket: TicketId) -> Down {
    Down::Grant { ticket, predicted_ms: 5, standing: -2 }
}

#[test]
fn a_credit_that_lies_here_is_taken_without_a_word() {
    let mut core = stocked(1);
    let Verdict::Granted(slot) = core.ask(at(0), &ask_of(1)) else { unreachable!("there is a credit") };
    assert!(!core.is_urgent() && words(&mut core, at(0)).is_empty());
    core.release(at(10), slot, Cost(5000));
    assert!(!core.is_urgent(), "the credit stays here");
    let said = words(&mut core, at(100));
    assert_eq!((leaf_totals(&said).settled, pool_totals(&said).returned), (Cost(5000), 0));
    assert_eq!((pool_totals(&said).finished, pool_totals(&said).service_us), (1, 10_000));
}

#[test]
fn a_capped_request_asks_though_a_credit_lies_here() {
    let mut core = stocked(1);
    let verdict = core.ask(at(0), &Ask { capped: true, ..ask_of(1) });
    assert!(matches!(verdict, Verdict::Queued(_)));
    assert_eq!(tickets(&words(&mut core, at(0))).len(), 1);
}

#[test]
fn a_credit_that_falls_free_goes_back_at_once_when_it_is_wanted() {
    let mut core = stocked(3);
    let Verdict::Granted(slot) = core.ask(at(0), &ask_of(1)) else { unreachable!("there is a credit") };
    core.obey(at(1), LIFE, Down::Recall(POOL, ReportEvery(1000)));
    assert_eq!(pool_totals(&words(&mut core, at(1))).returned, 2, "the unused ones");
    core.release(at(2), slot, Cost(5000));
    assert!(core.is_urgent());
    assert_eq!(pool_totals(&words(&mut core, at(2))).returned, 3);
    assert!(matches!(core.ask(at(3), &ask_of(1)), Verdict::Queued(_)));
}

#[test]
fn a_grant_ends_the_wait_and_its_credit_goes_back_in_the_end() {
    let mut core = Admission::new(LIFE);
    let Verdict::Queued(id) = core.ask(at(0), &ask_of(1)) else { unreachable!("it holds nothing") };
    words(&mut core, at(0));
    assert_eq!((core.waiting(), core.collect(id)), (1, Wait::Waiting));
    assert_eq!(core.obey(at(5), LIFE, grant(id)), Some(id));
    let Wait::Granted { slot, predicted_ms: 5, standing: -2 } = core.collect(id) else { unreachable!() };
    assert_eq!(core.waiting(), 0);
    core.release(at(9), slot, Cost(3000));
    let said = words(&mut core, at(9));
    assert_eq!((leaf_totals(&said).granted, leaf_totals(&said).running), (1, 0));
    assert_eq!((pool_totals(&said).returned, pool_totals(&said).service_us), (1, 4000));
}

#[test]
fn who_left_before_the_grant_came_gives_the_credit_to_the_next_of_the_same_key_only() {
    let mut core = Admission::new(LIFE);
    let ids: Vec<_> = [1, 2, 1]
        .into_iter()
        .map(|key| match core.ask(at(0), &ask_of(key)) {
            Verdict::Queued(id) => id,
            Verdict::Granted(_) => unreachable!("it holds nothing"),
        })
        .collect();
    core.withdraw(at(1), ids[0]);
    assert_eq!(core.obey(at(2), LIFE, grant(ids[0])), Some(ids[2]), "not the other key's, which came first");
    assert!(words(&mut core, at(2)).contains(&Up::Withdraw(ids[2])), "that ticket is served");
    assert!(matches!(core.collect(ids[2]), Wait::Granted { .. }));
    // Its own grant was under way as well: nobody is left to take it.
    assert_eq!(core.obey(at(3), LIFE, grant(ids[2])), None);
    assert_eq!(pool_totals(&words(&mut core, at(3))).returned, 1);
    assert_eq!(core.collect(ids[1]), Wait::Waiting);
}

#[test]
fn who_leaves_with_the_grant_in_hand_gives_it_back_and_pays_nothing() {
    let mut core = Admission::new(LIFE);
    let Verdict::Queued(id) = core.ask(at(0), &ask_of(1)) else { unreachable!("it holds nothing") };
    core.obey(at(1), LIFE, grant(id));
    core.withdraw(at(2), id);
    let said = words(&mut core, at(2));
    let LeafTotals { settled, outstanding, running, granted, .. } = leaf_totals(&said);
    assert_eq!((settled, outstanding, running, granted), (Cost(0), Cost(0), 0, 1));
    assert_eq!((pool_totals(&said).returned, pool_totals(&said).finished), (1, 0));
}

#[test]
fn words_for_another_life_are_void() {
    let mut core = Admission::new(LIFE);
    let Verdict::Queued(id) = core.ask(at(0), &ask_of(1)) else { unreachable!("it holds nothing") };
    assert_eq!(core.obey(at(1), LIFE - 1, grant(id)), None);
    assert_eq!(core.obey(at(1), LIFE - 1, Down::Stock(POOL, 5)), None);
    assert!(matches!(core.ask(at(1), &ask_of(1)), Verdict::Queued(_)));
}

#[test]
fn a_new_life_brings_what_runs_and_asks_again_for_who_waits() {
    let mut core = stocked(3);
    let Verdict::Granted(slot) = core.ask(at(0), &ask_of(1)) else { unreachable!("there is a credit") };
    let Verdict::Queued(waits) = core.ask(at(0), &Ask { capped: true, ..ask_of(2) }) else { unreachable!() };
    let Verdict::Queued(left) = core.ask(at(0), &Ask { capped: true, ..ask_of(2) }) else { unreachable!() };
    core.withdraw(at(1), left);
    words(&mut core, at(1));
    core.hello(LIFE + 1);
    let said = words(&mut core, at(2));
    assert_eq!((said.first(), said.last()), (Some(&Up::Hello(LIFE + 1)), Some(&Up::Told)));
    assert_eq!(tickets(&said), [waits]);
    assert_eq!(
        (pool_totals(&said).brought, leaf_totals(&said).running),
        (1, 1),
        "unused credits are not brought"
    );
    core.release(at(3), slot, Cost(2000));
    assert_eq!(pool_totals(&words(&mut core, at(3))).returned, 1);
}

#[test]
fn what_a_full_link_refuses_is_said_later_and_once() {
    let mut core = Admission::new(LIFE);
    core.ask(at(0), &ask_of(1));
    let mut room = 1;
    let mut heard = Vec::new();
    let mut push = |up| {
        if room == 0 {
            return Err(up);
        }
        room -= 1;
        heard.push(up);
        Ok(())
    };
    assert!(!core.say(at(0), &mut push));
    assert!(core.is_urgent());
    heard.extend(words(&mut core, at(1)));
    assert_eq!((heard.len(), tickets(&heard).len()), (3, 1), "{heard:?}");
}

#[test]
fn service_is_charged_as_it_comes_and_at_least_what_was_expected() {
    let mut core = stocked(1);
    let Verdict::Granted(slot) = core.ask(at(0), &ask_of(1)) else { unreachable!("there is a credit") };
    core.release(at(1), slot, Cost(9000));
    let Verdict::Granted(slot) = core.ask(at(1), &ask_of(1)) else { unreachable!("it came back") };
    let expected = leaf_totals(&words(&mut core, at(101))).outstanding;
    assert!(expected > Cost(1000), "its input and the low end of an answer");
    core.progress(at(102), &slot, Cost(1500));
    core.progress(at(102), &slot, Cost(20_000));
    // The one answer so far cost 8000: a running one is charged three quarters of that beyond what it has brought.
    assert_eq!(leaf_totals(&words(&mut core, at(202))).outstanding, Cost(20_000 + 6000));
    core.release(at(203), slot, Cost(21_000));
    let LeafTotals { settled, outstanding, .. } = leaf_totals(&words(&mut core, at(303)));
    assert_eq!((settled, outstanding), (Cost(30_000), Cost(0)));
}

#[test]
fn a_request_without_a_token_is_charged_for_its_time() {
    let mut core = stocked(1);
    for cost in [Cost(100_000), Cost(0)] {
        let Verdict::Granted(slot) = core.ask(at(0), &ask_of(1)) else { unreachable!("there is a credit") };
        core.release(at(500), slot, cost);
    }
    assert_eq!(leaf_totals(&words(&mut core, at(600))).settled, Cost(200_000));
}

#[test]
fn an_answer_that_cannot_be_seen_is_estimated_while_somebody_waits() {
    let mut core = stocked(2);
    let Verdict::Granted(first) = core.ask(at(0), &ask_of(1)) else { unreachable!("there is a credit") };
    core.release(at(1000), first, Cost(1_000_000));
    let silent = Ask { streams: false, ..ask_of(1) };
    let Verdict::Granted(_slot) = core.ask(at(1000), &silent) else { unreachable!("there is a credit") };
    core.obey(at(1000), LIFE, Down::Recall(POOL, ReportEvery(100_000)));
    words(&mut core, at(1000));
    assert_eq!(core.reports_at(), Some(at(1100)));
    let outstanding = leaf_totals(&words(&mut core, at(3000))).outstanding;
    let ahead = 999_000 * 3 / 4;
    let seen = Cost(1_999_000 + ahead);
    assert_eq!(
        outstanding, seen,
        "its input, two seconds of output at what the pool yields, and what is ahead"
    );
}

#[test]
fn an_account_that_is_not_used_is_closed_and_begins_again_at_zero() {
    let mut core = stocked(1);
    let Verdict::Granted(slot) = core.ask(at(0), &ask_of(1)) else { unreachable!("there is a credit") };
    core.release(at(0), slot, Cost(9000));
    words(&mut core, at(200));
    let mut closed = Vec::new();
    for key in 2..8 {
        let Verdict::Granted(slot) = core.ask(at(20_000), &ask_of(key)) else { unreachable!("it came back") };
        core.release(at(20_000), slot, Cost(1000));
        closed.extend(words(&mut core, at(20_200)));
    }
    let first = ask_of(1).leaf;
    let closing =
        closed.iter().any(|up| matches!(up, Up::Leaf(totals) if totals.leaf == first && totals.closes));
    assert!(closing, "{closed:?}");
    let Verdict::Granted(slot) = core.ask(at(20_300), &ask_of(1)) else { unreachable!("it came back") };
    core.release(at(20_300), slot, Cost(500));
    assert_eq!(leaf_totals(&words(&mut core, at(20_500))).settled, Cost(500));
}

#[test]
fn behind_a_full_link_reports_do_not_pile_up_and_the_last_one_is_the_newest() {
    let mut admission = Admission::new(1);
    let mut now = Instant(0);
    let _ = admission.say(now, |_| Ok(()));
    let _ = admission.obey(now, 1, Down::Stock(PoolIx(0), 1));
    let Verdict::Granted(slot) = admission.ask(now, &ask_of(1)) else { unreachable!("there is a credit") };
    let ticket = admission.ask(now, &ask_of(1));
    assert!(matches!(ticket, Verdict::Queued(_)), "there is no second credit");
    for token in 1..1000 {
        admission.progress(now, &slot, Cost(token * 2000));
        now = now.plus(Duration::from_secs(1));
        assert!(!admission.say(now, Err), "the link is full");
    }
    let mut said = Vec::new();
    assert!(admission.say(now, |up| {
        said.push(up);
        Ok(())
    }));
    assert!(matches!(said[0], Up::Ticket(_)));
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(matches!(said[1], Up::Leaf(LeafTotals { outstanding: Cost(1_998_000), .. })), "{said:?}");
}

#[test]
fn an_answer_that_is_not_seen_is_charged_its_input_once_and_its_output_by_the_time() {
    let mut admission = Admission::new(1);
    let mut now = Instant(0);
    let _ = admission.obey(now, 1, Down::Stock(PoolIx(0), 1));
    // A request with much input and little output, done in 20 ms: 100 tokens of output per second.
    let long_input = Ask { input: Cost(400_000), streams: false, ..ask_of(1) };
    let Verdict::Granted(slot) = admission.ask(now, &long_input) else { unreachable!("there is a credit") };
    now = now.plus(Duration::from_millis(20));
    admission.release(now, slot, Cost(402_000));
    let Verdict::Granted(_slot) = admission.ask(now, &long_input) else { unreachable!("there is a credit") };
    let _ = admission.obey(now, 1, Down::Recall(PoolIx(0), crate::protocol::ReportEvery(1000)));
    let mut charged = Cost(0);
    for _ in 0..2 {
        now = now.plus(Duration::from_secs(1));
        assert!(admission.say(now, |up| {
            if let Up::Leaf(LeafTotals { outstanding, .. }) = up {
                charged = outstanding;
            }
            Ok(())
        }));
    }
    assert_eq!(charged, Cost(600_000 + 1500), "input, two seconds of output, and what is ahead");
}

#[test]
fn a_grant_without_a_taker_goes_to_the_oldest_request_of_the_same_key() {
    let (mut admission, now) = (Admission::new(1), Instant(0));
    let mut ticket = || match admission.ask(now, &ask_of(1)) {
        Verdict::Queued(id) => id,
        Verdict::Granted(_) => unreachable!("there is no credit"),
    };
    let (first, second, third) = (ticket(), ticket(), ticket());
    // The first place is used again, by the youngest.
    let grant = |ticket| Down::Grant { ticket, predicted_ms: 0, standing: 0 };
    admission.withdraw(now, first);
    assert_eq!(admission.obey(now, 1, Down::Withdrawn(first)), None);
    assert!(matches!(admission.ask(now, &ask_of(1)), Verdict::Queued(id) if id.place == first.place));
    admission.withdraw(now, third);
    assert_eq!(admission.obey(now, 1, grant(third)), Some(second));
}

#[test]
fn the_end_of_a_capped_request_is_said_at_once_though_credits_are_kept() {
    let mut core = stocked(2);
    let Verdict::Queued(id) = core.ask(at(0), &Ask { capped: true, ..ask_of(1) }) else { unreachable!() };
    core.obey(at(1), LIFE, grant(id));
    let Wait::Granted { slot, .. } = core.collect(id) else { unreachable!() };
    words(&mut core, at(1));
    core.release(at(2), slot, Cost(3000));
    assert!(core.is_urgent(), "the next one of its cap waits for this");
    let said = words(&mut core, at(2));
    assert_eq!((leaf_totals(&said).running, pool_totals(&said).returned), (0, 1));
    assert_eq!(core.held(POOL), 2);
}

#[test]
fn a_failure_teaches_nothing_about_lengths_and_times() {
    let mut core = stocked(1);
    for (time, cost) in [(1000, Cost(100_000)), (1, Cost(0)), (1, Cost(0))] {
        let Verdict::Granted(slot) = core.ask(at(0), &ask_of(1)) else { unreachable!("it came back") };
        core.release(at(time), slot, cost);
    }
    let totals = pool_totals(&words(&mut core, at(2000)));
    assert_eq!((totals.finished, totals.service_us, totals.cost), (1, 1_000_000, Cost(100_000)));
}

#[test]
fn input_that_was_guessed_wrong_does_not_pass_for_output() {
    let mut core = stocked(1);
    for _ in 0..2 {
        let guess = Ask { input: Cost(5_000_000), ..ask_of(1) };
        let Verdict::Granted(slot) = core.ask(at(0), &guess) else { unreachable!("it came back") };
        core.learn_input(&slot, Counted { cost: Cost(1000), tokens: 1, bytes: 4 });
        core.release(at(100), slot, Cost(1000 + 80_000));
    }
    let Verdict::Granted(_slot) = core.ask(at(200), &ask_of(1)) else { unreachable!("it came back") };
    let charged = leaf_totals(&words(&mut core, at(300))).outstanding;
    assert!(charged > Cost(1000 + 30_000), "its input, and the low end of what answers were: {charged:?}");
}
