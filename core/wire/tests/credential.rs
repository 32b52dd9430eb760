//! Gate 3 without a store: which key a request carries, and whether it can be one.

use obleth_wire::credential::{CredentialFault, pick};
use proptest::prelude::*;

fn pick_str<'h>(authorization: &[&'h str], keys: &[&'h str]) -> Result<&'h str, CredentialFault> {
    let bytes = |value: &&'h str| value.as_bytes();
    pick(authorization.iter().map(bytes), keys.iter().map(bytes)).map(|key| str::from_utf8(key).unwrap())
}

#[test]
fn a_key_is_taken_from_any_of_its_places() {
    for authorization in ["Bearer sk_a", "bearer sk_a", "BEARER   sk_a ", " Bearer\tsk_a"] {
        assert_eq!(pick_str(&[authorization], &[]), Ok("sk_a"), "{authorization}");
    }
    assert_eq!(pick_str(&[], &["sk_a"]), Ok("sk_a"));
    assert_eq!(pick_str(&[], &[" sk_a\t"]), Ok("sk_a"));
}

#[test]
fn the_same_key_twice_is_one_key() {
    assert_eq!(pick_str(&["Bearer sk_a", "bearer sk_a"], &["sk_a", "sk_a"]), Ok("sk_a"));
    assert_eq!(pick_str(&["sk_a"], &["sk_a"]), Ok("sk_a"));
    assert_eq!(pick_str(&["Bearer sk_a", "sk_a"], &[]), Ok("sk_a"));
}

#[test]
fn empty_headers_count_as_not_sent() {
    for (authorization, keys) in
        [(&[][..], &[][..]), (&[""], &["", " "]), (&["Bearer"], &[]), (&["Bearer  "], &[])]
    {
        assert_eq!(
            pick_str(authorization, keys),
            Err(CredentialFault::Missing),
            "{authorization:?} {keys:?}"
        );
    }
    assert_eq!(pick_str(&["Bearer "], &["sk_a"]), Ok("sk_a"));
    assert_eq!(pick_str(&["Bearer sk_a"], &[""]), Ok("sk_a"));
}

#[test]
fn two_different_credentials_are_ambiguous() {
    for (authorization, keys) in [
        (&["Bearer sk_a", "Bearer sk_b"][..], &[][..]),
        (&["Bearer sk_a"], &["sk_b"]),
        (&[], &["sk_a", "sk_b"]),
        (&[], &["sk_a", "SK_a"]),
        (&["Basic dTpw"], &["sk_a"]),
        (&["Bearer sk_a", "Bearer sk_a", "Bearer other"], &[]),
    ] {
        assert_eq!(
            pick_str(authorization, keys),
            Err(CredentialFault::Ambiguous),
            "{authorization:?} {keys:?}"
        );
    }
}

#[test]
fn what_cannot_be_a_key_is_malformed() {
    let longest = format!("sk_{}", "a".repeat(253));
    assert_eq!(pick_str(&[], &[&longest]), Ok(&*longest));
    let too_long = format!("{longest}a");
    for key in
        ["sk_", "SK_a", "sk-a", "pk_a", "sk_a b", "sk_é", "sk_a\u{7f}", "sk_a\0", "Bearer sk_a", &too_long]
    {
        assert_eq!(pick_str(&[], &[key]), Err(CredentialFault::Malformed), "{key}");
    }
    for authorization in [
        "sk_a",
        "Basic sk_a",
        "Bearersk_a",
        "Bearer: sk_a",
        "Bearer sk_a, Bearer sk_a",
        "Beare",
        "Token sk_a",
    ] {
        assert_eq!(pick_str(&[authorization], &[]), Err(CredentialFault::Malformed), "{authorization}");
    }
}

proptest! {
    #[test]
    fn arbitrary_headers_never_panic(
        authorization in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..3),
        keys in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..3),
    ) {
        let _ = pick(authorization.iter().map(Vec::as_slice), keys.iter().map(Vec::as_slice));
    }
}
