//! Where a request comes from, and whether it may: ranges of addresses, and the client behind trusted proxies.
//!
//! An IPv4 address that is written inside an IPv6 one is that IPv4 address, everywhere. What a client says of
//! itself must never count: only a trusted proxy's word moves the address away from the connection's peer.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

/// Entries of `X-Forwarded-For` that are looked at. A longer way has no honest cause; the walk ends there.
pub const MAX_HOPS: usize = 32;

/// A range of addresses: those that share their first `prefix` bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr {
    /// The lowest address of the range; never an IPv4 address inside an IPv6 one.
    base: IpAddr,
    /// 0 to 32 for IPv4, 0 to 128 for IPv6.
    prefix: u8,
}

/// Why a text is no range. The display form follows the text's name: "`allowed_ips[2]` must be …".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadCidr {
    /// No address, or no number of bits behind it.
    #[error("must be an address or a range, such as 10.0.0.0/8, 192.0.2.7 or 2001:db8::/32")]
    Text,
    /// More bits than the address has.
    #[error("must have a prefix length from 0 to {0}")]
    Prefix(u8),
    /// Bits behind the prefix: a slip of the pen, and nobody knows which half is meant.
    #[error("must have no address bits behind its prefix: write {0}")]
    Host(Cidr),
}

impl Cidr {
    /// Whether `address` is in the range.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.base, address.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(address)) => self.mask_v4(address) == base,
            (IpAddr::V6(base), IpAddr::V6(address)) => self.mask_v6(address) == base,
            _ => false,
        }
    }

    fn mask_v4(&self, address: Ipv4Addr) -> Ipv4Addr {
        let host = u32::MAX.checked_shr(self.prefix.into()).unwrap_or(0);
        Ipv4Addr::from_bits(address.to_bits() & !host)
    }

    fn mask_v6(&self, address: Ipv6Addr) -> Ipv6Addr {
        let host = u128::MAX.checked_shr(self.prefix.into()).unwrap_or(0);
        Ipv6Addr::from_bits(address.to_bits() & !host)
    }
}

impl FromStr for Cidr {
    type Err = BadCidr;

    fn from_str(text: &str) -> Result<Self, BadCidr> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| BadCidr::Text)?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => bits,
            Some(digits) => {
                let digits = Some(digits)
                    .filter(|d| (1..=3).contains(&d.len()) && d.bytes().all(|b| b.is_ascii_digit()));
                let number: u16 = digits.and_then(|d| d.parse().ok()).ok_or(BadCidr::Text)?;
                u8::try_from(number).ok().filter(|n| *n <= bits).ok_or(BadCidr::Prefix(bits))?
            }
        };
        // `::ffff:10.0.0.0/104` is 10.0.0.0/8; a wider one is not about IPv4 alone.
        let canonical = address.to_canonical();
        let (address, prefix) = match prefix.checked_sub(96) {
            Some(short) if address.is_ipv6() && canonical.is_ipv4() => (canonical, short),
            _ => (address, prefix),
        };
        let whole = Self { base: address, prefix };
        let base = match address {
            IpAddr::V4(v4) => IpAddr::V4(whole.mask_v4(v4)),
            IpAddr::V6(v6) => IpAddr::V6(whole.mask_v6(v6)),
        };
        let range = Self { base, prefix };
        if base == address { Ok(range) } else { Err(BadCidr::Host(range)) }
    }
}

impl fmt::Display for Cidr {
    /// As it is typed: a range of one address without its prefix.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = if self.base.is_ipv4() { 32 } else { 128 };
        if self.prefix == whole { self.base.fmt(f) } else { write!(f, "{}/{}", self.base, self.prefix) }
    }
}

/// From where a key may be used: anywhere, or from these ranges (an empty list allows nothing).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NetworkGrant {
    /// From anywhere.
    #[default]
    All,
    /// Only from here.
    Only(Arc<[Cidr]>),
}

impl NetworkGrant {
    /// Whether the client's address matters at all.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        matches!(self, Self::Only(_))
    }

    /// Whether a client at `address` is allowed; one whose address nobody knows is not, where it matters.
    #[must_use]
    pub fn allows(&self, address: Option<IpAddr>) -> bool {
        match self {
            Self::All => true,
            Self::Only(ranges) => address.is_some_and(|address| any_contains(ranges, address)),
        }
    }
}

fn any_contains(ranges: &[Cidr], address: IpAddr) -> bool {
    ranges.iter().any(|range| range.contains(address))
}

/// The client's address. It is the connection's peer, unless that is a trusted proxy: then `forwarded`, the values
/// of all `X-Forwarded-For` lines in their order, is read from the right, and the first address that is not a
/// trusted proxy's is the client. Where the list ends or cannot be read, the last address that could be is the
/// client's: one that a trusted party vouched for.
#[must_use]
pub fn client_address<'h>(
    peer: IpAddr,
    forwarded: impl DoubleEndedIterator<Item = &'h [u8]>,
    trusted: &[Cidr],
) -> IpAddr {
    let mut client = peer.to_canonical();
    let hops = forwarded.rev().flat_map(|line| line.rsplit(|byte| *byte == b','));
    for hop in hops.take(MAX_HOPS) {
        if !any_contains(trusted, client) {
            return client;
        }
        // Empty members of a list mean nothing (RFC 9110 §5.6.1).
        let hop = hop.trim_ascii();
        if hop.is_empty() {
            continue;
        }
        match hop_address(hop) {
            Some(address) => client = address.to_canonical(),
            None => return client,
        }
    }
    client
}

/// An address as proxies write it: bare, or with a port, IPv6 then in brackets.
fn hop_address(hop: &[u8]) -> Option<IpAddr> {
    // Longer than any address with a port: not worth a parse.
    let text = std::str::from_utf8(hop).ok().filter(|text| text.len() <= 64)?;
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    text.parse().ok().or_else(with_port).or_else(bracketed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn ranges(texts: &[&str]) -> Vec<Cidr> {
        texts.iter().map(|text| cidr(text)).collect()
    }

    fn client(peer: &str, lines: &[&str], trusted: &[&str]) -> IpAddr {
        client_address(ip(peer), lines.iter().map(|line| line.as_bytes()), &ranges(trusted))
    }

    #[test]
    fn a_range_holds_its_first_and_last_address_and_not_their_neighbours() {
        for (range, inside, outside) in [
            (
                "10.0.0.0/8",
                &["10.0.0.0", "10.255.255.255"][..],
                &["9.255.255.255", "11.0.0.0", "::a00:1"][..],
            ),
            ("192.0.2.7", &["192.0.2.7", "::ffff:192.0.2.7"], &["192.0.2.6", "192.0.2.8"]),
            ("0.0.0.0/0", &["0.0.0.0", "255.255.255.255", "::ffff:1.2.3.4"], &["::", "2001:db8::1"]),
            ("2001:db8::/33", &["2001:db8::", "2001:db8:7fff::1"], &["2001:db8:8000::", "10.0.0.1"]),
            ("::1", &["::1"], &["::2", "127.0.0.1"]),
            ("::/0", &["::", "ffff::"], &["1.2.3.4"]),
            ("::ffff:10.0.0.0/104", &["10.9.9.9", "::ffff:10.0.0.1"], &["11.0.0.0"]),
        ] {
            let range = cidr(range);
            inside.iter().for_each(|at| assert!(range.contains(ip(at)), "{at} in {range}"));
            outside.iter().for_each(|at| assert!(!range.contains(ip(at)), "{at} not in {range}"));
        }
    }

    #[test]
    fn what_is_no_range_is_refused_with_the_remedy() {
        for wrong in [
            "",
            "10",
            "10.0.0",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/8/8",
            "host",
            "1.2.3.4:5",
            "fe80::1%1",
            "010.0.0.1",
            " 10.0.0.1",
            "10.0.0.0/0008",
        ] {
            assert_eq!(wrong.parse::<Cidr>(), Err(BadCidr::Text), "{wrong}");
        }
        assert_eq!("10.0.0.0/33".parse::<Cidr>(), Err(BadCidr::Prefix(32)));
        assert_eq!("::/129".parse::<Cidr>(), Err(BadCidr::Prefix(128)));
        assert_eq!("::/999".parse::<Cidr>(), Err(BadCidr::Prefix(128)));
        let slip = "10.0.0.1/8".parse::<Cidr>().unwrap_err();
        assert_eq!(slip.to_string(), "must have no address bits behind its prefix: write 10.0.0.0/8");
    }

    #[test]
    fn a_grant_without_a_list_asks_for_no_address_and_an_empty_list_allows_none() {
        assert!(NetworkGrant::All.allows(None) && !NetworkGrant::All.is_limited());
        let only = |texts: &[&str]| NetworkGrant::Only(ranges(texts).into());
        assert!(!only(&[]).allows(Some(ip("10.0.0.1"))) && only(&[]).is_limited());
        assert!(only(&["::1", "10.0.0.0/8"]).allows(Some(ip("10.0.0.1"))));
        assert!(!only(&["0.0.0.0/0", "::/0"]).allows(None), "an address that nobody knows is not allowed");
    }

    #[test]
    fn the_client_is_the_first_from_the_right_that_is_no_trusted_proxy() {
        let proxies = &["10.0.0.0/8", "::1"][..];
        for (peer, lines, expected) in [
            // Nobody trusted speaks: what the header says is the client's own invention.
            ("203.0.113.9", &["10.0.0.1"][..], "203.0.113.9"),
            ("203.0.113.9", &["198.51.100.1, 10.0.0.2"], "203.0.113.9"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("::ffff:10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("::1", &["192.0.2.1, 198.51.100.1, 10.0.0.2"], "198.51.100.1"),
            ("10.0.0.1", &["192.0.2.1", "198.51.100.1,10.0.0.3"], "198.51.100.1"),
            ("10.0.0.1", &["10.9.9.9,10.0.0.3"], "10.9.9.9"),
            ("10.0.0.1", &["  198.51.100.1\t,, ,"], "198.51.100.1"),
            ("10.0.0.1", &["198.51.100.1:4711"], "198.51.100.1"),
            ("10.0.0.1", &["[2001:db8::7]:4711"], "2001:db8::7"),
            ("10.0.0.1", &["[2001:db8::7]"], "2001:db8::7"),
            ("10.0.0.1", &["::ffff:198.51.100.1"], "198.51.100.1"),
            // Garbage ends the walk at the last address that somebody trusted wrote.
            ("10.0.0.1", &["198.51.100.1, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.1, for=x, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["\u{e9}"], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.1 198.51.100.2"], "10.0.0.1"),
        ] {
            assert_eq!(client(peer, lines, proxies), ip(expected), "{peer} {lines:?}");
        }
        assert_eq!(
            client("10.0.0.1", &["198.51.100.1"], &[]),
            ip("10.0.0.1"),
            "nobody is trusted by default"
        );
    }

    #[test]
    fn a_way_without_end_is_not_walked() {
        let line = "10.0.0.1,".repeat(MAX_HOPS);
        let far = format!("198.51.100.1,{line}");
        assert_eq!(client("10.0.0.2", &[&far], &["10.0.0.0/8"]), ip("10.0.0.1"));
    }

    fn any_ip() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<u32>().prop_map(|b| Ipv4Addr::from_bits(b).into()),
            any::<u128>().prop_map(|b| Ipv6Addr::from_bits(b).into())
        ]
    }

    /// An address and a range around it.
    fn range_around() -> impl Strategy<Value = (IpAddr, Cidr)> {
        (any_ip(), any::<u8>()).prop_map(|(address, prefix)| {
            let address = address.to_canonical();
            let prefix = prefix % if address.is_ipv4() { 33 } else { 129 };
            let range = match format!("{address}/{prefix}").parse() {
                Ok(range) | Err(BadCidr::Host(range)) => range,
                Err(error) => unreachable!("{address}/{prefix}: {error}"),
            };
            (address, range)
        })
    }

    proptest! {
        #[test]
        fn a_range_holds_what_it_was_made_around_and_reads_back((address, range) in range_around()) {
            prop_assert!(range.contains(address));
            prop_assert_eq!(range.to_string().parse::<Cidr>(), Ok(range));
        }

        #[test]
        fn two_addresses_are_in_one_range_when_their_first_bits_agree((address, range) in range_around(), flip in any::<u8>()) {
            let bits = if address.is_ipv4() { 32 } else { 128 };
            let at = flip % bits;
            let other: IpAddr = match address {
                IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() ^ (1 << (31 - at))).into(),
                IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() ^ (1 << (127 - at))).into(),
            };
            prop_assume!(other.to_canonical() == other);
            prop_assert_eq!(range.contains(other), at >= range.prefix);
        }

        #[test]
        fn what_an_untrusted_peer_says_never_counts(peer in any_ip(), line in ".{0,200}", (inside, range) in range_around()) {
            prop_assume!(!range.contains(peer));
            let lines = [line, inside.to_string()];
            let lines = lines.iter().map(|line| line.as_bytes());
            prop_assert_eq!(client_address(peer, lines, &[range]), peer.to_canonical());
        }

        #[test]
        fn what_stands_left_of_the_client_never_counts(client in any_ip(), spoofed in "[ -~]{0,200}", (proxy, range) in range_around()) {
            prop_assume!(!range.contains(client));
            let line = format!("{spoofed},{client}");
            prop_assert_eq!(client_address(proxy, std::iter::once(line.as_bytes()), &[range]), client.to_canonical());
        }
    }
}
