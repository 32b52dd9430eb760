//! The bytes: what is written today can be read by every later version of this format.

use obleth_policy::{
    id::{EndpointId, GroupId, KeyId, ModelId, TenantId},
    outcome::{Code, Outcome},
    route::Route,
    unit::{MicroUsd, UnixMs},
};
use proptest::{collection, option, prelude::*, sample::select};
use uuid::Uuid;

use super::record;
use crate::{
    Admission, Kind, MAX_TEXT, Record, Text, Tokens, UsageSource,
    encoding::{MAX_RECORD, decode, encode},
    frame::{self, Frame, HEAD, MAX_NOTE, Place, Salt, Step, Walk},
    segment::{Header, Streams, beginning},
};

const SALT: u128 = 0x0192_c7f0_7f6a_7000_8000_0123_4567_89ab;

fn hex(bytes: &[u8]) -> String {
    bytes.chunks(8).map(|word| word.iter().map(|b| format!("{b:02x}")).collect::<String>() + "\n").collect()
}

fn encoded(record: &Record) -> Vec<u8> {
    let mut bytes = [0; MAX_RECORD];
    let length = encode(record, &mut bytes);
    bytes[..length].to_vec()
}

fn framed(kind: Kind, record: &Record, place: Place) -> Vec<u8> {
    frame::note(&mut [0; MAX_NOTE], (kind, record), place, &Salt::of(Uuid::from_u128(SALT))).to_vec()
}

#[test]
fn a_frame_is_what_it_was_when_this_format_was_made() {
    let record = Record {
        code: Some(Code::UpstreamCut),
        outcome: Outcome::UpstreamCut,
        admission: Admission::Queued,
        queue_ms: 77,
        usage_source: Some(UsageSource::Counted),
        retries: 2,
        request_id: Text::new("req-1"),
        session_id: Some(Text::new("chat")),
        group: None,
        ..record(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff)
    };
    let bytes = framed(Kind::End, &record, Place { stream: 3, position: 0x1_0000_0008 });
    assert_eq!(hex(&bytes), include_str!("frame.hex"));
}

#[test]
fn a_segment_begins_as_it_did_when_this_format_was_made() {
    let streams = Streams::from([(0, 4096), (7, 80)]);
    let log_id = Uuid::from_u128(SALT);
    let start = framed(Kind::Start, &record(1), Place { stream: 7, position: 8 });
    let open = std::iter::once(&start[..8]);
    let bytes = beginning(Header::of(12, log_id, 0x1_0000_0002), &streams, open, &Salt::of(log_id));
    assert_eq!(hex(&bytes), include_str!("segment.hex"));
}

#[test]
fn every_word_has_the_number_that_files_know_it_by() {
    let byte = |at: usize, record: Record| encoded(&record)[at];
    let routes =
        [("/v1/chat/completions", 1), ("/v1/completions", 2), ("/v1/embeddings", 3), ("/v1/models", 4)];
    let routes = [&routes[..], &[("/health", 5), ("other", 6)]].concat();
    let written = Route::ALL.map(|endpoint| (endpoint.label(), byte(160, Record { endpoint, ..record(1) })));
    assert_eq!(written[..], routes);

    let outcomes =
        [("ok", 1), ("rejected", 2), ("client_gone", 3), ("upstream_error", 4), ("upstream_cut", 5)];
    let outcomes = [&outcomes[..], &[("timeout", 6), ("gateway_lost", 7)]].concat();
    let written = Outcome::ALL.map(|outcome| (outcome.as_str(), byte(161, Record { outcome, ..record(1) })));
    assert_eq!(written[..], outcomes);

    let admissions = [("fast", 1), ("queued", 2), ("degraded", 3), ("rejected", 4)];
    let written =
        Admission::ALL.map(|admission| (admission.as_str(), byte(162, Record { admission, ..record(1) })));
    assert_eq!(written, admissions);

    let sources = [("upstream", 1), ("counted", 2), ("estimated", 3)];
    let source = |source| byte(163, Record { usage_source: Some(source), ..record(1) });
    assert_eq!(UsageSource::ALL.map(|one| (one.as_str(), source(one))), sources);
    assert_eq!(byte(163, Record { usage_source: None, ..record(1) }), 0);
}

#[test]
fn a_code_that_is_no_more_is_left_out_and_the_rest_is_read() {
    let written = Record { code: Some(Code::Brownout), ..record(1) };
    let mut bytes = encoded(&written);
    let at = bytes.windows(8).position(|text| text == b"brownout").unwrap();
    bytes[at..at + 8].copy_from_slice(b"blackout");
    assert_eq!(decode(&bytes), Some(Record { code: None, ..written }));
}

#[test]
fn another_logs_frame_is_none() {
    let bytes = framed(Kind::End, &record(1), Place { stream: 0, position: 0 });
    assert!(Frame::parse(&bytes, &Salt::of(Uuid::from_u128(SALT))).is_some());
    assert!(Frame::parse(&bytes, &Salt::of(Uuid::from_u128(SALT + 1))).is_none());
}

fn id() -> impl Strategy<Value = Uuid> {
    any::<u128>().prop_map(Uuid::from_u128)
}

fn text() -> impl Strategy<Value = Text> {
    // Longer than what is kept, and of characters that cannot be cut anywhere.
    "[a-zé€😀\u{0}]{0,160}".prop_map(|text| Text::new(&text))
}

fn any_record() -> impl Strategy<Value = Record> {
    let who = (id(), id(), id(), option::of(id()), option::of(id()), option::of(id()));
    let how = (
        select(&Route::ALL[..]),
        select(&Outcome::ALL[..]),
        select(&Admission::ALL[..]),
        option::of(select(&UsageSource::ALL[..])),
        option::of(select(Code::ALL)),
    );
    let much =
        (any::<[u64; 4]>(), any::<[u32; 5]>(), any::<[bool; 5]>(), any::<u16>(), any::<u8>(), any::<i64>());
    (who, how, much, text(), option::of(text())).prop_map(|(who, how, much, request_id, session_id)| {
        let ([input, cached_input, output, cost], small, has, status, retries, ts) = much;
        Record {
            id: who.0,
            ts: UnixMs(ts),
            tenant: TenantId(who.1),
            key: KeyId(who.2),
            group: who.3.map(GroupId),
            model: who.4.map(ModelId),
            endpoint: how.0,
            upstream: who.5.map(EndpointId),
            status,
            outcome: how.1,
            code: how.4,
            admission: how.2,
            queue_ms: small[0],
            ttft_ms: has[0].then_some(small[1]),
            total_ms: small[2],
            overhead_us: has[1].then_some(small[3]),
            tokens: Tokens { input, cached_input, output },
            usage_source: how.3,
            cost: has[2].then_some(MicroUsd(cost)),
            price_version: has[3].then_some(small[4]),
            streamed: has[4],
            retries,
            request_id,
            session_id,
        }
    })
}

proptest! {
    #[test]
    fn every_record_reads_back_as_it_was(record in any_record()) {
        let bytes = encoded(&record);
        prop_assert!(bytes.len().is_multiple_of(8) && bytes.len() <= MAX_RECORD);
        prop_assert_eq!(decode(&bytes), Some(record));
    }

    #[test]
    fn no_bytes_are_too_strange_to_be_looked_at(bytes in collection::vec(any::<u8>(), 0..600)) {
        let _ = decode(&bytes);
        let salt = Salt::of(Uuid::from_u128(SALT));
        prop_assert_eq!(Walk::of_segment(&bytes, salt).count(), 0, "random bytes hold no frame");
    }

    #[test]
    fn whatever_stands_between_two_frames_both_are_found(
        one in any_record(), other in any_record(), between in collection::vec(any::<u8>(), 0..400),
    ) {
        let [one, other] = [one, other].map(|one| framed(Kind::End, &one, Place { stream: 0, position: 0 }));
        let mut bytes = one.clone();
        bytes.extend_from_slice(&between);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        let is_damaged = !between.is_empty();
        bytes.extend_from_slice(&other);
        let steps: Vec<_> = Walk::of_segment(&bytes, Salt::of(Uuid::from_u128(SALT))).collect();
        let frames: Vec<_> = steps.iter().filter_map(|step| match step {
            Step::Frame(_, frame) => Some(frame.bytes),
            Step::Damage => None,
        }).collect();
        prop_assert_eq!(frames, [&one[..], &other[..]]);
        prop_assert_eq!(steps.len(), 2 + usize::from(is_damaged));
    }
}

#[test]
fn the_longest_texts_fit() {
    let long = Text::new(&"x".repeat(MAX_TEXT));
    let code = Code::ALL.iter().copied().max_by_key(|code| code.as_str().len());
    let record = Record { request_id: long.clone(), session_id: Some(long), code, ..record(1) };
    let bytes = framed(Kind::Start, &record, Place { stream: 0, position: 0 });
    assert!(bytes.len() <= MAX_NOTE);
    assert_eq!(decode(&bytes[HEAD..]), Some(record));
}
