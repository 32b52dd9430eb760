//! How the text of a setting becomes its value.
//!
//! Every parser is a function of the text alone, but for the one that reads the file that is named; the message of an error says what is allowed. Parsers of
//! secrets and addresses with credentials in them never repeat the text.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use obleth_policy::{
    network::Cidr,
    snapshot::{Brownout, Secret},
    unit::LimitMs,
};
use obleth_proxy::UpstreamTls;

/// Largest file of certificates; all of a system's are a quarter of it.
const MAX_CA_BYTES: u64 = 1 << 20;

/// What a parser says no with.
type Refusal = String;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// `true|false|1|0|yes|no|on|off`, in any case.
pub(crate) fn boolean(text: &str) -> Result<bool, Refusal> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(format!("`{text}` is not a boolean; write one of true, false, 1, 0, yes, no, on, off")),
    }
}

/// A whole number within `range`.
pub(crate) fn whole(range: RangeInclusive<u64>) -> impl Fn(&str) -> Result<u64, Refusal> {
    move |text| {
        let (low, high) = (range.start(), range.end());
        let number: u64 =
            digits(text).ok_or_else(|| format!("`{text}` is not a whole number; write {low} to {high}"))?;
        if range.contains(&number) {
            Ok(number)
        } else {
            Err(format!("{number} is out of range; write {low} to {high}"))
        }
    }
}

/// As [`whole`], for settings of 32 bits.
pub(crate) fn whole32(range: RangeInclusive<u32>) -> impl Fn(&str) -> Result<u32, Refusal> {
    let wide = whole(u64::from(*range.start())..=u64::from(*range.end()));
    move |text| wide(text).and_then(|number| u32::try_from(number).map_err(|error| error.to_string()))
}

/// As [`whole`], for numbers of things in memory.
pub(crate) fn count(range: RangeInclusive<u64>) -> impl Fn(&str) -> Result<usize, Refusal> {
    let wide = whole(range);
    move |text| wide(text).and_then(|number| usize::try_from(number).map_err(|error| error.to_string()))
}

/// Milliseconds.
pub(crate) fn millis(range: RangeInclusive<u64>) -> impl Fn(&str) -> Result<Duration, Refusal> {
    let number = whole(range);
    move |text| number(text).map(Duration::from_millis)
}

/// Seconds.
pub(crate) fn seconds(range: RangeInclusive<u64>) -> impl Fn(&str) -> Result<Duration, Refusal> {
    let number = whole(range);
    move |text| number(text).map(Duration::from_secs)
}

/// Milliseconds of a time limit, at most `most`; 0 turns it off.
pub(crate) fn limit(most: u32) -> impl Fn(&str) -> Result<LimitMs, Refusal> {
    let number = whole32(0..=most);
    move |text| number(text).map(LimitMs)
}

/// A size in bytes within `range`: digits alone, or with `KiB`, `MiB` or `GiB`.
pub(crate) fn bytes(range: RangeInclusive<u64>) -> impl Fn(&str) -> Result<u64, Refusal> {
    move |text| {
        let (number, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
            None => (text, 1),
            Some(at) => match text[at..].trim_start() {
                "KiB" => (&text[..at], 1 << 10),
                "MiB" => (&text[..at], 1 << 20),
                "GiB" => (&text[..at], 1 << 30),
                _ => ("", 1),
            },
        };
        let size = digits(number)
            .ok_or_else(|| {
                format!(
                    "`{text}` is not a size; write bytes, or a number with KiB, MiB or GiB, as in `10 MiB`"
                )
            })?
            .checked_mul(unit)
            .filter(|size| range.contains(size));
        size.ok_or_else(|| {
            format!(
                "`{text}` is out of range; write {} to {}",
                size_text(*range.start()),
                size_text(*range.end())
            )
        })
    }
}

/// As [`bytes`], for room in memory.
pub(crate) fn memory(range: RangeInclusive<u64>) -> impl Fn(&str) -> Result<usize, Refusal> {
    let wide = bytes(range);
    move |text| wide(text).and_then(|size| usize::try_from(size).map_err(|error| error.to_string()))
}

/// A size in the largest unit that leaves no fraction.
pub(crate) fn size_text(size: u64) -> String {
    for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if size > 0 && size.trailing_zeros() >= shift {
            return format!("{} {unit}", size >> shift);
        }
    }
    format!("{size} bytes")
}

/// `ADDRESS:PORT`; `localhost` stands for 127.0.0.1. Other names are not resolved here.
pub(crate) fn address(text: &str) -> Result<SocketAddr, Refusal> {
    let local = text.strip_prefix("localhost:").and_then(|port| port.parse().ok());
    if let Some(port) = local {
        return Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    }
    text.parse().map_err(|_| {
        format!(
            "`{text}` is not an address with a port; write it like `127.0.0.1:9090` or `[::]:8080`, \
             the port being 0 to 65535"
        )
    })
}

/// Addresses and ranges, separated by commas; no text is none.
pub(crate) fn networks(text: &str) -> Result<Arc<[Cidr]>, Refusal> {
    if text.is_empty() {
        return Ok(Arc::new([]));
    }
    let range = |entry: &str| entry.trim().parse().map_err(|error| format!("`{}` {error}", entry.trim()));
    text.split(',').map(range).collect()
}

/// `sqlite:PATH`.
pub(crate) fn database(text: &str) -> Result<PathBuf, Refusal> {
    if text.starts_with("postgres://") || text.starts_with("postgresql://") {
        return Err("Postgres is not in this version; write `sqlite:PATH`, or leave it out".to_owned());
    }
    let path = text
        .strip_prefix("sqlite:")
        .ok_or("this kind of database is not known; write `sqlite:PATH`, or leave it out")?;
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.is_empty() || path.starts_with(':') || path.contains('?') {
        return Err("the path of the database file is missing; write `sqlite:/var/lib/obleth/obleth.db`, \
                    without parameters"
            .to_owned());
    }
    Ok(PathBuf::from(path))
}

/// A folder, which need not exist yet.
pub(crate) fn folder(text: &str) -> Result<PathBuf, Refusal> {
    Ok(PathBuf::from(text))
}

/// Longest name of a node, as of a host.
const MAX_NODE: usize = 64;

/// What a node is called: it stands in records, logs and file headers.
pub(crate) fn node(text: &str) -> Result<String, Refusal> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    match text.len() <= MAX_NODE && text.bytes().all(fits) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "`{text}` is no name for a node; write at most {MAX_NODE} letters, digits, `.`, `_` or `-`"
        )),
    }
}

/// The base address of an OpenAI-compatible backend, held to what the admin API takes.
pub(crate) fn base_url(text: &str) -> Result<String, Refusal> {
    // What may be where is judged once both settings are known.
    match obleth_admin::check_api_base(text, obleth_admin::Networks::default()) {
        Ok(()) => Ok(text.to_owned()),
        Err(obleth_admin::AddressFault::Userinfo) => {
            Err("an address holds no credentials; put them into OBLETH_UPSTREAM_API_KEY".to_owned())
        }
        Err(fault) => Err(fault.to_string()),
    }
}

/// The address of a ClickHouse.
pub(crate) fn clickhouse_url(text: &str) -> Result<String, Refusal> {
    obleth_admin::check_clickhouse_url(text).map_err(|fault| fault.to_string())?;
    Ok(text.to_owned())
}

/// Where events are sent.
pub(crate) fn webhook_url(text: &str) -> Result<String, Refusal> {
    obleth_admin::check_webhook_url(text).map_err(|fault| fault.to_string())?;
    Ok(text.to_owned())
}

/// The name of a database there.
pub(crate) fn clickhouse_db(text: &str) -> Result<String, Refusal> {
    obleth_admin::check_clickhouse_database(text).map_err(|fault| format!("`{text}` {fault}"))?;
    Ok(text.to_owned())
}

/// A PEM file with certificates of authorities.
pub(crate) fn ca_file(text: &str) -> Result<UpstreamTls, Refusal> {
    let read = |path: &Path| {
        let about = fs::metadata(path).map_err(|error| error.to_string())?;
        if about.is_dir() || about.len() > MAX_CA_BYTES {
            return Err(format!("it is a folder or larger than {}", size_text(MAX_CA_BYTES)));
        }
        fs::read(path).map_err(|error| error.to_string())
    };
    let pem = read(Path::new(text)).map_err(|cause| format!("cannot read {text}: {cause}"))?;
    UpstreamTls::of_pem(&pem).map_err(|fault| format!("{text} {fault}"))
}

/// Any text that can stand in a header.
pub(crate) fn visible(text: &str) -> Result<String, Refusal> {
    if text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        Err("has white space, control or non-ASCII characters in it; use visible ASCII".to_owned())
    }
}

/// The same, never to be shown.
pub(crate) fn secret(text: &str) -> Result<Secret, Refusal> {
    visible(text).map(Secret::new)
}

/// Shorter admin tokens are refused: they can be guessed.
pub(crate) const MIN_ADMIN_TOKEN: usize = 16;

/// A bearer token that cannot be guessed by trying.
pub(crate) fn admin_token(text: &str) -> Result<Secret, Refusal> {
    let token = secret(text)?;
    let first = text.bytes().next();
    if text.len() < MIN_ADMIN_TOKEN {
        return Err(format!(
            "shorter than {MIN_ADMIN_TOKEN} characters; use a long random one, or leave it out \
             and one is generated"
        ));
    }
    if text.bytes().all(|byte| Some(byte) == first) {
        return Err(
            "one character repeated; use a long random one, or leave it out and one is generated".to_owned()
        );
    }
    Ok(token)
}

/// 32 bytes, as 64 hex digits or in base64. Kept as text; the vault takes it apart again.
pub(crate) fn master_key(text: &str) -> Result<Secret, Refusal> {
    match obleth_admin::MasterKey::parse(text) {
        Ok(_) => secret(text),
        Err(_) => {
            Err("not a key of 32 bytes; write 64 hex digits (`openssl rand -hex 32`) or base64".to_owned())
        }
    }
}

/// `text` or `json`.
pub(crate) fn log_format(text: &str) -> Result<LogFormat, Refusal> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("`{text}` is no log format; write `text` or `json`")),
    }
}

/// `allow`, `never` or `reject`.
pub(crate) fn brownout(text: &str) -> Result<Brownout, Refusal> {
    let no = || format!("`{text}` is no brownout policy; write `allow`, `never` or `reject`");
    Brownout::of(text).ok_or_else(no)
}

/// A setting that may be left out: no text is no value.
pub(crate) fn maybe<T>(
    parse: impl Fn(&str) -> Result<T, Refusal>,
) -> impl Fn(&str) -> Result<Option<T>, Refusal> {
    move |text| if text.is_empty() { Ok(None) } else { parse(text).map(Some) }
}

/// Digits and nothing else: `u64::from_str` would take a sign.
fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boolean_is_one_of_eight_words_and_nothing_else() {
        for yes in ["true", "1", "yes", "on", "TRUE"] {
            assert_eq!(boolean(yes), Ok(true));
        }
        for no in ["false", "0", "no", "off", "Off"] {
            assert_eq!(boolean(no), Ok(false));
        }
        for neither in ["", "y", "2", "enabled", " true"] {
            assert!(boolean(neither).unwrap_err().contains("yes, no, on, off"), "{neither}");
        }
    }

    #[test]
    fn a_size_takes_binary_units_and_refuses_what_it_does_not_know() {
        let size = bytes(1..=1 << 40);
        assert_eq!(size("10485760"), Ok(10 << 20));
        assert_eq!(size("10 MiB"), Ok(10 << 20));
        assert_eq!(size("1GiB"), Ok(1 << 30));
        assert_eq!(size("3KiB"), Ok(3072));
        for wrong in ["", "10MB", "10 mib", "MiB", "-1", "1.5 GiB", "+3", "10 MiB x"] {
            assert!(size(wrong).unwrap_err().contains("not a size"), "{wrong}");
        }
        for far in ["0", "2000 GiB", "18446744073709551615 KiB"] {
            assert!(size(far).unwrap_err().contains("write 1 bytes to 1024 GiB"), "{far}");
        }
    }

    #[test]
    fn a_number_keeps_within_its_range_and_says_which() {
        let cores = whole32(1..=1024);
        assert_eq!(cores("1024"), Ok(1024));
        for far in ["0", "1025", "4294967297"] {
            assert!(cores(far).unwrap_err().contains("write 1 to 1024"), "{far}");
        }
        for wrong in ["", "two", "-1", "+1", "1.0", "99999999999999999999"] {
            assert!(cores(wrong).unwrap_err().contains("not a whole number"), "{wrong}");
        }
    }

    #[test]
    fn an_address_has_a_port() {
        assert_eq!(address("[::]:8080").unwrap().port(), 8080);
        assert_eq!(address("localhost:9090").unwrap().to_string(), "127.0.0.1:9090");
        for wrong in ["8080", "0.0.0.0", "0.0.0.0:65536", "gateway:80", ""] {
            assert!(address(wrong).unwrap_err().contains("127.0.0.1:9090"), "{wrong}");
        }
    }

    #[test]
    fn trusted_proxies_are_a_list_of_ranges_and_none_by_default() {
        assert!(networks("").unwrap().is_empty());
        let ranges = networks("10.0.0.0/8, ::1").unwrap();
        assert_eq!(ranges.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.0/8", "::1"]);
        for (wrong, words) in [
            ("10.0.0.0/8,", "`` must be an address or a range"),
            ("10.0.0.0/8 ::1", "must be an address or a range"),
            ("proxy.local", "`proxy.local` must be"),
            ("10.0.0.1/8", "write 10.0.0.0/8"),
        ] {
            let refused = networks(wrong).unwrap_err();
            assert!(refused.contains(words), "{wrong}: {refused}");
        }
    }

    #[test]
    fn only_a_file_can_be_the_store() {
        assert_eq!(database("sqlite:/x/y.db").unwrap(), PathBuf::from("/x/y.db"));
        assert_eq!(database("sqlite:///x/y.db").unwrap(), PathBuf::from("/x/y.db"));
        assert_eq!(database("sqlite:y.db").unwrap(), PathBuf::from("y.db"));
        let refused = database("postgres://user:hunter2@db/x").unwrap_err();
        assert!(refused.starts_with("Postgres is not in this version"), "{refused}");
        assert!(!refused.contains("hunter2"));
        for wrong in ["mysql://x", "sqlite:", "sqlite::memory:", "y.db"] {
            assert!(database(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_node_has_a_name_like_a_host() {
        assert_eq!(node("gpu-7.rack_2").unwrap(), "gpu-7.rack_2");
        for wrong in ["gpu 7", "gpu/7", "knöt", &"x".repeat(65)] {
            assert!(node(wrong).unwrap_err().contains("at most 64"), "{wrong}");
        }
    }

    #[test]
    fn a_backend_address_is_http_or_https_without_credentials() {
        assert!(base_url("http://10.0.0.5:8000/v1").is_ok());
        assert!(base_url("https://api").is_ok());
        let refused = base_url("http://user:hunter2@host").unwrap_err();
        assert!(!refused.contains("hunter2"));
        for wrong in ["10.0.0.5:8000", "http://", "http://h/?q=1", "http://h:0", "http://169.254.169.254"] {
            assert!(base_url(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_file_of_authorities_has_to_hold_some() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let refused = |content: &[u8]| {
            fs::write(&path, content).unwrap();
            ca_file(path.to_str().unwrap()).unwrap_err()
        };
        assert!(refused(b"").contains("holds no certificate"));
        assert!(
            refused(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
                .contains("no certificate")
        );
        let broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(refused(broken).contains("certificate number 1"));
        assert!(ca_file("/no/such/file").unwrap_err().starts_with("cannot read /no/such/file"));
        assert!(ca_file(folder.path().to_str().unwrap()).unwrap_err().contains("folder"));
    }

    #[test]
    fn an_admin_token_that_can_be_guessed_is_refused() {
        assert!(admin_token("0123456789abcdef").is_ok());
        assert!(admin_token("0123456789abcde").is_err());
        assert!(admin_token("aaaaaaaaaaaaaaaaaaaaaaaa").is_err());
        assert!(admin_token("0123456789 abcdef").is_err());
    }

    #[test]
    fn no_refusal_of_a_secret_repeats_it() {
        for refused in [admin_token("hunter2"), secret("hun ter2"), master_key("hunter2")] {
            assert!(!refused.unwrap_err().contains("hun"));
        }
    }
}
