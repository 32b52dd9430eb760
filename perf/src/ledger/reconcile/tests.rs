//! Every fault that a reconciliation looks for, made on purpose, and the books of a kill that are in order.

use super::*;
use crate::ledger::told::Refusal;

const PRICE: Price = Price { input: 1_000_000, output: 2_000_000 };
const SECOND: Duration = Duration::from_secs(1);

fn told(end: End, tokens: u64) -> Told {
    Told { kind: Kind::Stream, sent: 10 * SECOND, ended: 11 * SECOND, tokens, end }
}

fn refused() -> End {
    End::Refused(Refusal { status: 503, code: "queue_full".into() })
}

/// A request that the backend has made so many tokens of.
fn seen(tokens: u64, completed: bool) -> Seen {
    Seen { times: 1, prompt_tokens: 3, tokens, completed }
}

/// A row of request 0 with so many tokens, at the right cost.
fn row(outcome: Outcome, output_tokens: u64) -> Row {
    let source = if outcome == Outcome::Ok { Source::Upstream } else { Source::Counted };
    Row {
        id: 1,
        number: Some(0),
        status: 200,
        outcome,
        code: "".into(),
        input_tokens: 3,
        output_tokens,
        source: Some(source),
        cost_micro_usd: Some(3 + 2 * output_tokens),
    }
}

fn rejected() -> Row {
    Row {
        status: 503,
        code: "queue_full".into(),
        source: None,
        cost_micro_usd: None,
        ..row(Outcome::Rejected, 0)
    }
}

fn judge(told: Told, seen: Seen, rows: &[Row], kills: &[Duration]) -> Vec<Fault> {
    let books = Books { told: &[told], seen: &[seen], rows, kills, price: PRICE };
    books.judge().faults.into_keys().collect()
}

const NO_KILL: &[Duration] = &[];
const KILLED: &[Duration] = &[Duration::from_secs(11)];

#[test]
fn books_that_agree_have_no_fault() {
    let nobody = Seen::default();
    let none: [Fault; 0] = [];
    assert_eq!(judge(told(End::Whole, 5), seen(5, true), &[row(Outcome::Ok, 5)], NO_KILL), none);
    assert_eq!(judge(told(refused(), 0), nobody, &[rejected()], NO_KILL), none);
    assert_eq!(judge(told(End::Left, 2), seen(4, false), &[row(Outcome::ClientGone, 3)], NO_KILL), none);
    assert_eq!(judge(told(End::Left, 0), nobody, &[], NO_KILL), none, "it was never read");
    assert_eq!(judge(told(End::Cut, 1), seen(4, false), &[row(Outcome::GatewayLost, 0)], KILLED), none);
    assert_eq!(judge(told(End::Cut, 1), seen(4, true), &[row(Outcome::Ok, 4)], KILLED), none);
    assert_eq!(judge(told(End::Cut, 0), nobody, &[], KILLED), none, "it was never dispatched");
}

#[test]
fn what_is_missing_is_lost() {
    assert_eq!(judge(told(End::Cut, 0), seen(4, false), &[], KILLED), [Fault::Lost]);
    assert_eq!(judge(told(End::Left, 0), seen(4, false), &[], NO_KILL), [Fault::Lost]);
    assert_eq!(judge(told(refused(), 0), Seen::default(), &[], NO_KILL), [Fault::LostAnswer]);
}

#[test]
fn a_request_or_a_record_that_is_there_twice_is_found() {
    let other = Row { id: 2, ..row(Outcome::Ok, 5) };
    let twice = judge(told(End::Whole, 5), seen(5, true), &[row(Outcome::Ok, 5), other], NO_KILL);
    assert_eq!(twice, [Fault::Twice]);
    let same = Row { number: Some(1), ..row(Outcome::Ok, 5) };
    let books = judge(told(End::Whole, 5), seen(5, true), &[row(Outcome::Ok, 5), same], NO_KILL);
    assert_eq!(books, [Fault::Twice, Fault::Invented]);
}

#[test]
fn a_row_of_nobody_is_invented() {
    let nobodys = Row { id: 2, number: None, ..row(Outcome::Ok, 5) };
    let faults = judge(told(End::Whole, 5), seen(5, true), &[row(Outcome::Ok, 5), nobodys], NO_KILL);
    assert_eq!(faults, [Fault::Invented]);
    let refusal = Refusal { status: 401, code: "invalid_api_key".into() };
    let stranger = Told { kind: Kind::Stranger, ..told(End::Refused(refusal), 0) };
    assert!(judge(stranger.clone(), Seen::default(), &[], NO_KILL).is_empty());
    assert!(judge(stranger, Seen::default(), &[rejected()], NO_KILL).contains(&Fault::Invented));
}

#[test]
fn complete_answers_are_held_to_the_token() {
    for wrong in [row(Outcome::Ok, 4), Row { source: Some(Source::Counted), ..row(Outcome::Ok, 5) }] {
        assert_eq!(judge(told(End::Whole, 5), seen(5, true), &[wrong], NO_KILL), [Fault::Tokens]);
    }
    let unseen = judge(told(End::Whole, 5), Seen::default(), &[row(Outcome::Ok, 5)], NO_KILL);
    assert_eq!(unseen, [Fault::Tokens]);
}

#[test]
fn broken_answers_are_held_to_what_was_in_flight() {
    for (tokens, fault) in [(1, true), (2, false), (4, false), (5, true)] {
        let faults = judge(told(End::Left, 2), seen(4, false), &[row(Outcome::ClientGone, tokens)], NO_KILL);
        assert_eq!(faults.contains(&Fault::BrokenTokens), fault, "{tokens}");
    }
}

#[test]
fn rows_say_what_the_client_was_told() {
    let other = Row { code: "queue_timeout".into(), ..rejected() };
    assert_eq!(judge(told(refused(), 0), Seen::default(), &[other], NO_KILL), [Fault::Refusal]);
    let gone = judge(told(End::Whole, 5), seen(5, true), &[row(Outcome::ClientGone, 5)], NO_KILL);
    assert_eq!(gone, [Fault::Outcome]);
}

#[test]
fn only_a_kill_loses_a_request_and_only_one_without_an_end() {
    let lost = [row(Outcome::GatewayLost, 0)];
    let none: [Fault; 0] = [];
    assert_eq!(judge(told(End::Left, 0), seen(4, false), &lost, NO_KILL), [Fault::FalselyLost]);
    assert_eq!(judge(told(End::Left, 0), seen(4, false), &lost, KILLED), none);
    assert_eq!(judge(told(End::Left, 0), seen(4, false), &lost, &[13 * SECOND]), [Fault::FalselyLost]);
    assert_eq!(judge(told(End::Whole, 5), seen(5, true), &lost, KILLED), [Fault::FalselyLost]);
}

#[test]
fn a_cut_without_a_kill_is_a_fault_unless_the_backend_was_meant_to() {
    let cut = told(End::Cut, 1);
    let rows = [row(Outcome::UpstreamCut, 1)];
    assert_eq!(judge(cut.clone(), seen(1, false), &rows, NO_KILL), [Fault::Cut]);
    let meant = Told { kind: Kind::Faulty, ..cut };
    assert!(judge(meant, seen(1, false), &rows, NO_KILL).is_empty());
}

#[test]
fn a_cost_is_that_of_its_tokens() {
    for wrong in [None, Some(0)] {
        let row = Row { cost_micro_usd: wrong, ..row(Outcome::Ok, 5) };
        assert_eq!(judge(told(End::Whole, 5), seen(5, true), &[row], NO_KILL), [Fault::Cost]);
    }
}
