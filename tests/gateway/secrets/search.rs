//! Finds a secret in bytes, whole or half, in any form in which software writes bytes as text.
//!
//! It must find what is there: each form is planted and found below.

use std::fmt::Write as _;

/// A piece of a secret that counts as a leak: no honest text has this much of one by chance.
const PIECE: usize = 16;

/// Bytes to search.
pub(super) struct Haystack<'b> {
    bytes: &'b [u8],
}

/// A secret in all its forms.
pub(super) struct Needle {
    name: String,
    forms: Vec<(&'static str, Vec<u8>)>,
}

impl<'b> Haystack<'b> {
    pub(super) fn new(bytes: &'b [u8]) -> Self {
        Self { bytes }
    }

    fn holds(&self, form: &[u8]) -> bool {
        let Some((first, _)) = form.split_first() else { return false };
        let starts = self.bytes.iter().enumerate().filter(|(_, byte)| *byte == first);
        starts.into_iter().any(|(at, _)| self.bytes[at..].starts_with(form))
    }
}

impl Needle {
    pub(super) fn new(secret: &str) -> Self {
        Self::of_bytes(secret, secret.as_bytes())
    }

    /// A secret that is no text.
    pub(super) fn of_bytes(name: &str, secret: &[u8]) -> Self {
        let mut forms = vec![("itself", secret.to_vec())];
        if secret.len() >= 2 * PIECE {
            // Half a secret is a leak as well; its first characters may be shown.
            forms.push(("its middle", secret[secret.len() / 2 - PIECE / 2..][..PIECE].to_vec()));
            forms.push(("its end", secret[secret.len() - PIECE..].to_vec()));
        }
        let all_percent = |upper: bool| {
            secret.iter().fold(String::new(), |mut out, byte| {
                let written = if upper { write!(out, "%{byte:02X}") } else { write!(out, "%{byte:02x}") };
                written.map(|()| out).unwrap()
            })
        };
        let some_percent = secret.iter().fold(String::new(), |mut out, byte| {
            match byte {
                b'-' | b'_' | b'.' | b'~' => out.push(char::from(*byte)),
                byte if byte.is_ascii_alphanumeric() => out.push(char::from(*byte)),
                byte => write!(out, "%{byte:02X}").unwrap(),
            }
            out
        });
        let hex = |upper: bool| all_percent(upper).replace('%', "");
        let mut text = vec![
            ("percent", all_percent(true)),
            ("percent", all_percent(false)),
            ("percent where needed", some_percent),
            ("hex", hex(true)),
            ("hex", hex(false)),
            ("decimal list", secret.iter().map(u8::to_string).collect::<Vec<_>>().join(", ")),
        ];
        for skipped in 0..3 {
            let standard = base64_inside(secret, skipped);
            text.push(("base64", standard.replace('+', "-").replace('/', "_")));
            text.push(("base64", standard));
        }
        forms.extend(text.into_iter().map(|(form, text)| (form, text.into_bytes())));
        Self { name: name.chars().take(24).collect(), forms }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The forms in which it is there.
    pub(super) fn found_in(&self, hay: &Haystack<'_>) -> Vec<&'static str> {
        self.forms.iter().filter(|(_, form)| hay.holds(form)).map(|(name, _)| *name).collect()
    }
}

/// What base64 of a text that holds the secret has of it, where `skipped` bytes before it share its groups: the
/// characters that depend on nothing but the secret.
fn base64_inside(secret: &[u8], skipped: usize) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let whole: Vec<u8> = std::iter::repeat_n(0, skipped).chain(secret.iter().copied()).collect();
    let digits = whole.chunks_exact(3).flat_map(|group| {
        let bits = u32::from(group[0]) << 16 | u32::from(group[1]) << 8 | u32::from(group[2]);
        [18, 12, 6, 0].map(|shift| char::from(DIGITS[(bits >> shift) as usize & 63]))
    });
    // The first digits hold bits of what stands before.
    digits.skip((skipped * 8).div_ceil(6)).collect()
}

#[test]
fn the_searcher_finds_every_form_of_what_is_planted() {
    let secret = "sk_0123456789abcdef0123456789abcdef+/ü0123456789ab";
    let needle = Needle::new(secret);
    let bytes = secret.as_bytes();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let percent: String = bytes.iter().map(|byte| format!("%{byte:02X}")).collect();
    let planted = [
        secret.to_owned(),
        secret[secret.len() - 20..].to_owned(),
        secret[14..40].to_owned(),
        hex.clone(),
        hex.to_uppercase(),
        percent.to_lowercase(),
        percent,
        "sk_0123456789abcdef0123456789abcdef%2B%2F%C3%BC0123456789ab".to_owned(),
        format!("{bytes:?}"),
        // `printf '%s' "…" | base64`, of the secret with nothing, `k:` and `ke:` before it.
        "c2tfMDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWYrL8O8MDEyMzQ1Njc4OWFi".to_owned(),
        "azpza18wMTIzNDU2Nzg5YWJjZGVmMDEyMzQ1Njc4OWFiY2RlZisvw7wwMTIzNDU2Nzg5YWI=".to_owned(),
        "a2U6c2tfMDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWYrL8O8MDEyMzQ1Njc4OWFi".to_owned(),
        "OnNrXzAxMjM0NTY3ODlhYmNkZWYwMTIzNDU2Nzg5YWJjZGVmKy_DvDAxMjM0NTY3ODlhYg".to_owned(),
    ];
    for planted in planted {
        let hay = format!("before {planted} after");
        assert!(!needle.found_in(&Haystack::new(hay.as_bytes())).is_empty(), "{planted}");
    }
    for harmless in ["sk_0123", "", "sk_0123456789abcde", "c2tfMDEy"] {
        assert!(needle.found_in(&Haystack::new(harmless.as_bytes())).is_empty(), "{harmless}");
    }
}
