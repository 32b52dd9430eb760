//! One shard, and an owner of the limits that has nothing to say yet.

use crate::rig::{BOTH_DRIVERS, Rig, chat, status};

#[test]
fn without_an_answer_about_its_limits_a_request_goes_on_and_counts_in_them_later() {
    for epoll in BOTH_DRIVERS {
        let rig = Rig::start(epoll, |_| ());
        assert_eq!(status(&rig.request(&chat("sk_limited", ""))), 200);
        assert_eq!(rig.unfunded(), 1);
        rig.publish_limits();
        // 400 tokens are soon used up, also by what went on without being asked for.
        let mut answers = (0..200).map(|_| rig.request(&chat("sk_limited", "")));
        let refused = answers.find(|answer| status(answer) != 200).unwrap();
        assert_eq!(status(&refused), 429, "{refused}");
        assert!(
            refused.contains("budget_exceeded") && refused.contains("x-should-retry: false"),
            "{refused}"
        );
        assert_eq!(rig.unfunded(), 1, "the owner answers by now");
        assert_eq!(status(&rig.request(&chat("sk_known", ""))), 200, "others have no such limit");
    }
}

#[test]
fn where_nothing_fails_open_a_request_without_an_answer_about_its_limits_is_told_so() {
    for epoll in BOTH_DRIVERS {
        let rig = Rig::start(epoll, |settings| settings.fail_open = false);
        let refused = rig.request(&chat("sk_limited", ""));
        assert_eq!(status(&refused), 503, "{refused}");
        assert!(
            refused.contains("limits of this key") && refused.contains("retry-after: 1\r\n"),
            "{refused}"
        );
        rig.publish_limits();
        rig.until("the owner answers", || status(&rig.request(&chat("sk_limited", ""))) == 200);
    }
}
