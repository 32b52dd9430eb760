//! Where a backend is: `api_base` as operators write it, taken apart and judged.
//!
//! A text that two programs could read as two places is refused; which places are allowed is for [`Networks`].

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use crate::networks::Networks;

/// A backend's address as it is stored, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiBase {
    /// TLS is spoken there, with a certificate for the host.
    pub(crate) tls: bool,
    /// Host and port to connect to.
    pub(crate) target: Target,
    /// What goes into the `Host` header: the port only where it was written.
    pub(crate) authority: String,
    /// Path in front of `/chat/completions`; always ends with `/v1`.
    pub(crate) base_path: String,
}

/// What to connect to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Target {
    /// A name or a literal.
    pub(crate) host: Host,
    /// 1–65535.
    pub(crate) port: u16,
}

/// A host that needs resolving, or one that does not.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Host {
    /// An address.
    Ip(IpAddr),
    /// A name, in lower case.
    Name(String),
}

/// Why an `api_base` is not usable. Each message says what to write instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressFault {
    /// Neither `http://` nor `https://`.
    #[error("must start with `http://` or `https://`, as in `http://host:8000/v1`")]
    Scheme,
    /// `user:password@`
    #[error("must not hold a user name or password; give the credential as `api_key`")]
    Userinfo,
    /// `?` or `#`
    #[error("must not hold a query or a fragment")]
    Query,
    /// No host, or one with characters that a host cannot have.
    #[error("has no valid host; write `http://host[:port][/path]`")]
    Host,
    /// Digits that are an address to some programs and a name to others.
    #[error(
        "has an IP address in an unusual notation; write all four decimal numbers, as in `http://192.0.2.1`"
    )]
    Notation,
    /// Not a port.
    #[error("has no valid port; use 1 to 65535")]
    Port,
    /// Characters that a path cannot have.
    #[error("has a path with characters that must be percent-encoded, or with `..`")]
    Path,
    /// Link-local or metadata.
    #[error("is a link-local or metadata address, which is never used as a backend")]
    Forbidden,
    /// Not on the public Internet.
    #[error(
        "is a private address, which OBLETH_BLOCK_PRIVATE_NETWORKS refuses; use a public one, or turn that off"
    )]
    Private,
}

impl ApiBase {
    /// Takes `http[s]://host[:port][/path]` apart; the path with or without a final `/v1`.
    pub(crate) fn parse(text: &str) -> Result<Self, AddressFault> {
        let (tls, rest) = after_scheme(text)?;
        if rest.contains(['?', '#']) {
            return Err(AddressFault::Query);
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(AddressFault::Userinfo);
        }
        let target = Target::parse(authority, if tls { 443 } else { 80 })?;
        if let Host::Ip(ip) = target.host {
            Networks::default().judge(ip)?;
        }
        Ok(Self { tls, target, authority: authority.to_ascii_lowercase(), base_path: base_path(path)? })
    }
}

/// Whether it is TLS, and what follows.
fn after_scheme(text: &str) -> Result<(bool, &str), AddressFault> {
    let (scheme, rest) = text.split_once("://").ok_or(AddressFault::Scheme)?;
    match scheme.to_ascii_lowercase().as_str() {
        "http" => Ok((false, rest)),
        "https" => Ok((true, rest)),
        _ => Err(AddressFault::Scheme),
    }
}

impl Target {
    fn parse(authority: &str, default_port: u16) -> Result<Self, AddressFault> {
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (literal, port) = rest.split_once(']').ok_or(AddressFault::Host)?;
                let ip: Ipv6Addr = literal.parse().map_err(|_| AddressFault::Host)?;
                (Host::Ip(ip.into()), port)
            }
            None => {
                let (host, port) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
                (Host::parse(host)?, port)
            }
        };
        Ok(Self { host, port: parse_port(port, default_port)? })
    }
}

/// From `:8000`, or nothing for the scheme's own port.
fn parse_port(text: &str, default: u16) -> Result<u16, AddressFault> {
    let Some(digits) = text.strip_prefix(':') else {
        return if text.is_empty() { Ok(default) } else { Err(AddressFault::Host) };
    };
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(AddressFault::Port);
    }
    digits.parse().ok().filter(|port| *port != 0).ok_or(AddressFault::Port)
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl Host {
    fn parse(text: &str) -> Result<Self, AddressFault> {
        if let Ok(ip) = text.parse() {
            return Ok(Self::Ip(IpAddr::V4(ip)));
        }
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        if text.is_empty() || text.len() > 253 || !text.bytes().all(fits) {
            return Err(AddressFault::Host);
        }
        // Resolvers take `2852039166`, `0x7f.1` and `010.0.0.1` for addresses: whatever ends in a number is none of
        // ours (the rule of the WHATWG's URL standard, "ends in a number").
        let last = text.strip_suffix('.').unwrap_or(text).rsplit('.').next().unwrap_or_default();
        if last.is_empty() {
            return Err(AddressFault::Host);
        }
        let is_hex = last.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("0x"));
        if is_hex || last.bytes().all(|b| b.is_ascii_digit()) {
            return Err(AddressFault::Notation);
        }
        Ok(Self::Name(text.to_ascii_lowercase()))
    }
}

fn base_path(path: &str) -> Result<String, AddressFault> {
    // RFC 3986 pchar and the slash.
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:@/".contains(&b);
    if !path.bytes().all(fits) || path.split('/').any(|segment| segment == ".." || segment == ".") {
        return Err(AddressFault::Path);
    }
    let path = path.trim_end_matches('/');
    Ok(if path.ends_with("/v1") { path.to_owned() } else { format!("{path}/v1") })
}

/// Judges an address without keeping it: for settings that are checked before anything starts.
///
/// # Errors
/// What is wrong with it, with the remedy.
pub fn check_api_base(text: &str, networks: Networks) -> Result<(), AddressFault> {
    match ApiBase::parse(text)?.target.host {
        Host::Ip(ip) => networks.judge(ip),
        Host::Name(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_usable_with_and_without_the_final_v1() {
        let rows = [
            ("http://gpu:8000", "gpu:8000", "/v1", 8000),
            ("http://gpu:8000/", "gpu:8000", "/v1", 8000),
            ("http://gpu:8000/v1", "gpu:8000", "/v1", 8000),
            ("http://gpu:8000/v1/", "gpu:8000", "/v1", 8000),
            ("HTTP://GPU", "gpu", "/v1", 80),
            ("https://gpu", "gpu", "/v1", 443),
            ("HTTPS://gpu:8443/v1", "gpu:8443", "/v1", 8443),
            ("http://gpu/team-a", "gpu", "/team-a/v1", 80),
            ("http://gpu/team-a/v1", "gpu", "/team-a/v1", 80),
            ("http://[::1]:8000/v1", "[::1]:8000", "/v1", 8000),
            ("http://127.0.0.1:1", "127.0.0.1:1", "/v1", 1),
        ];
        for (text, authority, path, port) in rows {
            let base = ApiBase::parse(text).unwrap();
            assert_eq!((&*base.authority, &*base.base_path, base.target.port), (authority, path, port));
        }
        assert!(ApiBase::parse("https://gpu").unwrap().tls && !ApiBase::parse("http://gpu").unwrap().tls);
        assert_eq!(ApiBase::parse("http://gpu").unwrap().target.host, Host::Name("gpu".into()));
        let literal = ApiBase::parse("http://[::1]").unwrap().target.host;
        assert_eq!(literal, Host::Ip(Ipv6Addr::LOCALHOST.into()));
    }

    #[test]
    fn each_unusable_address_is_told_why() {
        use AddressFault::{Forbidden, Host, Notation, Path, Port, Query, Scheme, Userinfo};
        let rows = [
            ("httpss://gpu", Scheme),
            ("ftp://gpu", Scheme),
            ("gpu:8000", Scheme),
            ("", Scheme),
            ("file:///etc/passwd", Scheme),
            ("http://u:p@gpu", Userinfo),
            ("http://gpu/v1?x=1", Query),
            ("http://gpu/v1#x", Query),
            ("http://gpu?x", Query),
            ("http://", Host),
            ("http:///v1", Host),
            ("http://a b", Host),
            ("http://gpu\r\nx: y", Host),
            ("http://[::1", Host),
            ("http://[::1]8000", Host),
            ("http://::1", Host),
            ("http://gpu:0", Port),
            ("http://gpu:65536", Port),
            ("http://gpu:+80", Port),
            ("http://gpu:", Port),
            ("http://gpu/../admin", Path),
            ("http://gpu/a b", Path),
            ("http://gpu/\u{e9}", Path),
            ("http://2852039166/", Notation),
            ("http://0xA9FEA9FE", Notation),
            ("http://0x7f.1", Notation),
            ("http://127.1", Notation),
            ("http://127.0.0.1.", Notation),
            ("http://0177.0.0.1", Notation),
            ("http://0251.0376.0251.0376", Notation),
            ("http://127.0.0.0x1:80", Notation),
            ("https://1.2.3.4.5", Notation),
            ("http://.", Host),
            ("http://169.254.169.254", Forbidden),
            ("http://[fe80::1]", Forbidden),
            ("http://[fd00:ec2::254]", Forbidden),
            ("http://[::ffff:169.254.169.254]", Forbidden),
            ("http://[::169.254.169.254]", Forbidden),
        ];
        for (text, fault) in rows {
            assert_eq!(ApiBase::parse(text), Err(fault), "{text}");
        }
    }

    #[test]
    fn a_private_literal_is_refused_where_the_operator_says_so() {
        let check = |block_private| check_api_base("http://10.0.0.7:8000", Networks { block_private });
        assert_eq!((check(false), check(true)), (Ok(()), Err(AddressFault::Private)));
        assert_eq!(check_api_base("http://gpu:8000", Networks { block_private: true }), Ok(()));
    }
}
