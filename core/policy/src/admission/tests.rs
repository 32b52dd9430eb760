//! What a core's side promises, without a coordinator.

use super::*;
use crate::{
    id::{KeyId, TenantIx},
    protocol::LeafTotals,
};

fn ask() -> Ask {
    let leaf = LeafId { pool: PoolIx(0), tenant: TenantIx(0), key: KeyId(uuid::Uuid::nil()) };
    Ask {
        leaf,
        shape: KeyShape::default(),
        capped: false,
        input: Cost::TOKEN,
        streams: true,
        patience: Duration::from_secs(60),
        reject_over: None,
    }
}

#[test]
fn behind_a_full_link_reports_do_not_pile_up_and_the_last_one_is_the_newest() {
    let mut admission = Admission::new(1);
    let mut now = Instant(0);
    let _ = admission.say(now, |_| Ok(()));
    let _ = admission.obey(now, 1, Down::Stock(PoolIx(0), 1));
    let Verdict::Granted(slot) = admission.ask(now, &ask()) else { unreachable!("there is a credit") };
    let ticket = admission.ask(now, &ask());
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
    let long_input = Ask { input: Cost(400_000), streams: false, ..ask() };
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
    assert_eq!(charged, Cost(600_000), "input, and two seconds of output");
}

#[test]
fn a_grant_without_a_taker_goes_to_the_oldest_request_of_the_same_key() {
    let (mut admission, now) = (Admission::new(1), Instant(0));
    let mut ticket = || match admission.ask(now, &ask()) {
        Verdict::Queued(id) => id,
        Verdict::Granted(_) => unreachable!("there is no credit"),
    };
    let (first, second, third) = (ticket(), ticket(), ticket());
    // The first place is used again, by the youngest.
    let grant = |ticket| Down::Grant { ticket, predicted_ms: 0, standing: 0 };
    admission.withdraw(now, first);
    assert_eq!(admission.obey(now, 1, Down::Withdrawn(first)), None);
    assert!(matches!(admission.ask(now, &ask()), Verdict::Queued(id) if id.place == first.place));
    admission.withdraw(now, third);
    assert_eq!(admission.obey(now, 1, grant(third)), Some(second));
}
