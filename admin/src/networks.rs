//! Which addresses a backend may have: the guard against requests that are to reach what only the gateway can.
//!
//! Judged are literals when they are written and what names resolve to, every time they do; shards connect to
//! nothing that was not judged here. IPv6 addresses that carry an IPv4 address are judged by that one as well, because
//! somewhere on the way they become it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::address::AddressFault;

/// What an operator lets backends be. Link-local and metadata addresses are refused whatever it says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    /// Refuses what is not on the public Internet as well, `OBLETH_BLOCK_PRIVATE_NETWORKS`.
    pub block_private: bool,
}

/// Where an IPv6 address carries an IPv4 address: the prefix, its length, and the first bit of the IPv4 address.
const CARRIERS: [(Ipv6Addr, u32, u32); 6] = [
    // IPv4-compatible, RFC 4291 §2.5.5.1
    (Ipv6Addr::UNSPECIFIED, 96, 96),
    // IPv4-mapped, RFC 4291 §2.5.5.2
    (Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96, 96),
    // IPv4-translated, RFC 2765
    (Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, 0, 0), 96, 96),
    // NAT64, RFC 6052
    (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96, 96),
    // 6to4, RFC 3056
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16, 16),
    // Teredo, RFC 4380: the relay's server
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32, 32),
];
/// NAT64 for the network's own use, RFC 8215. Where in it an IPv4 address stands is that network's choice, so none
/// of it can be judged by that.
const LOCAL_NAT64: (Ipv6Addr, u32) = (Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48);
/// Metadata services with an address that is not link-local: of Alibaba Cloud, Azure, Oracle Cloud, AWS and Google
/// Cloud.
const METADATA: [IpAddr; 5] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];
/// What is not on the public Internet (IANA special-purpose registries), multicast included.
const PRIVATE_V4: [(Ipv4Addr, u32); 11] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];
const PRIVATE_V6: [(Ipv6Addr, u32); 5] = [
    // Unspecified and loopback
    (Ipv6Addr::UNSPECIFIED, 127),
    // Unique local
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
    // Site-local, deprecated
    (Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10),
    (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
];

impl Networks {
    /// Whether a backend may be at this address.
    pub(crate) fn judge(self, ip: IpAddr) -> Result<(), AddressFault> {
        let carried = carried(ip).map(IpAddr::V4);
        let any = |is: fn(IpAddr) -> bool| is(ip) || carried.is_some_and(is);
        if any(is_never_used) {
            return Err(AddressFault::Forbidden);
        }
        if self.block_private && any(is_private) {
            return Err(AddressFault::Private);
        }
        Ok(())
    }
}

fn carried(ip: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(v6) = ip else { return None };
    // `::` and `::1` are addresses of their own.
    if v6.is_unspecified() || v6.is_loopback() {
        return None;
    }
    let (_, _, first_bit) = CARRIERS.iter().find(|(net, bits, _)| starts_with(v6, *net, *bits))?;
    let low = (v6.to_bits() >> (96 - first_bit)) & u128::from(u32::MAX);
    u32::try_from(low).ok().map(Ipv4Addr::from_bits)
}

fn is_never_used(ip: IpAddr) -> bool {
    let is_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || starts_with(v6, LOCAL_NAT64.0, LOCAL_NAT64.1),
    };
    is_local || METADATA.contains(&ip)
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => {
            PRIVATE_V4.iter().any(|(net, bits)| (v4.to_bits() ^ net.to_bits()) >> (32 - bits) == 0)
        }
        IpAddr::V6(v6) => PRIVATE_V6.iter().any(|(net, bits)| starts_with(v6, *net, *bits)),
    }
}

/// `bits` is 1 to 128.
fn starts_with(ip: Ipv6Addr, net: Ipv6Addr, bits: u32) -> bool {
    (ip.to_bits() ^ net.to_bits()) >> (128 - bits) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(block_private: bool, text: &str) -> Result<(), AddressFault> {
        Networks { block_private }.judge(text.parse().unwrap())
    }

    #[test]
    fn link_local_and_metadata_addresses_are_refused_in_whatever_notation() {
        for text in [
            "169.254.169.254",
            "169.254.0.1",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "fe80::1",
            "febf::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "::169.254.169.254",
            "::ffff:169.254.169.254",
            "::ffff:0:169.254.169.254",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::169.254.169.254",
            "64:ff9b:1:2:3:4:a9fe:a9fe",
            "64:ff9b:1:a9fe:a9:fe00::",
            "64:ff9b:1::8.8.8.8",
            "64:ff9b:1:ffff:ffff:ffff:ffff:ffff",
            "::ffff:168.63.129.16",
            "64:ff9b::192.0.0.192",
            "2002:a9fe:a9fe::1",
            "2001:0:a9fe:a9fe::1",
            "::ffff:100.100.100.200",
        ] {
            for block_private in [false, true] {
                assert_eq!(judge(block_private, text), Err(AddressFault::Forbidden), "{text}");
            }
        }
    }

    #[test]
    fn private_addresses_are_refused_where_the_operator_says_so_and_only_there() {
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fc00::1",
            "fdff::1",
            "fec0::1",
            "ff02::1",
            "::10.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:0:10.0.0.1",
            "64:ff9b::10.0.0.1",
            "2002:7f00:1::",
            "2001:0:c0a8:101::",
        ] {
            assert_eq!(judge(true, text), Err(AddressFault::Private), "{text}");
            assert_eq!(judge(false, text), Ok(()), "{text}");
        }
    }

    #[test]
    fn public_addresses_are_backends_like_others() {
        for text in [
            "8.8.8.8",
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.0.1",
            "172.32.0.1",
            "192.167.255.255",
            "2606:4700::1111",
            "64:ff9b::8.8.8.8",
            "64:ff9b:2::1",
            "168.63.129.17",
            "2002:808:808::1",
            "::ffff:8.8.8.8",
            "fbff::1",
        ] {
            assert_eq!(judge(true, text), Ok(()), "{text}");
        }
    }
}
