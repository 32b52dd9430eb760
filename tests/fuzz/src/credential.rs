//! One key is taken from a request, and only if nothing else in it could be taken for the key.

use obleth_wire::credential::{self, CredentialFault};

/// Text: one header per line; `b` begins the value of `authorization`, anything else that of a key's own header.
pub(crate) fn check(text: &[u8]) {
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    let of =
        |bearer: bool| lines.iter().filter(move |line| (line[0] == b'b') == bearer).map(|line| &line[1..]);
    let picked = credential::pick(of(true), of(false));
    let backwards = credential::pick(of(true).rev(), of(false).rev());
    assert_eq!(picked, backwards, "the order of the headers shows");
    // What somebody could take for a credential: without its scheme, if it has one.
    let mut meant: Vec<&[u8]> =
        of(true).map(without_scheme).chain(of(false).map(<[u8]>::trim_ascii)).collect();
    meant.retain(|value| !value.is_empty());
    meant.sort_unstable();
    meant.dedup();
    match picked {
        Ok(key) => {
            assert_eq!(meant, [key], "another value could have been meant");
            assert!(key.starts_with(b"sk_") && key.len() > 3 && key.len() <= 256);
            assert!(key.iter().all(u8::is_ascii_graphic));
            let own = of(false).any(|value| value.trim_ascii() == key);
            assert!(own || of(true).any(|value| has_scheme(value.trim_ascii())), "not sent as a key");
        }
        Err(CredentialFault::Missing) => assert_eq!(meant.len(), 0),
        Err(CredentialFault::Ambiguous) => assert!(meant.len() > 1, "one value is not ambiguous"),
        Err(CredentialFault::Malformed) => assert_eq!(meant.len(), 1),
    }
}

fn has_scheme(value: &[u8]) -> bool {
    value.len() >= 6
        && value[..6].eq_ignore_ascii_case(b"bearer")
        && matches!(value.get(6), None | Some(b' ' | b'\t'))
}

fn without_scheme(value: &[u8]) -> &[u8] {
    let value = value.trim_ascii();
    if has_scheme(value) { value[6..].trim_ascii() } else { value }
}
