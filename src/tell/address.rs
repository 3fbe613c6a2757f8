//! Address: where a webhook's name leads -> whether we may connect there.
//!
//! The check is on the very addresses that are then connected to (the resolver of the HTTP client is ours), so a name
//! that answers differently a second time gains nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// How far a webhook may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    Public,
    /// Also this machine and private networks: somebody's own receiver at home.
    Private,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressRefused {
    #[error("link-local and metadata addresses are never called")]
    Never,
    #[error("an address of this machine or of a private network needs `allow_private: true`")]
    Private,
}

/// Where clouds keep credentials, beside 169.254.0.0/16.
const METADATA: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// Whether this address may be connected to.
pub fn check(address: IpAddr, reach: Reach) -> Result<(), AddressRefused> {
    let address = unwrapped(address);
    let (never, private) = match address {
        IpAddr::V4(v4) => judge_v4(v4),
        IpAddr::V6(v6) => judge_v6(v6),
    };
    match reach {
        _ if never || METADATA.contains(&address) => Err(AddressRefused::Never),
        Reach::Public if private => Err(AddressRefused::Private),
        Reach::Public | Reach::Private => Ok(()),
    }
}

/// (never, only when private addresses are allowed)
fn judge_v4(address: Ipv4Addr) -> (bool, bool) {
    let [a, b, c, _] = address.octets();
    let never = a == 0 || address.is_link_local() || address.is_multicast() || a >= 240;
    let shared = a == 100 && (64..128).contains(&b);
    let special = (a, b, c) == (192, 0, 0) || (a == 198 && (18..20).contains(&b)) || address.is_documentation();
    (never, address.is_loopback() || address.is_private() || shared || special)
}

fn judge_v6(address: Ipv6Addr) -> (bool, bool) {
    let first = address.segments()[0];
    let never = address.is_unspecified() || address.is_multicast() || first & 0xffc0 == 0xfe80;
    // Unique local (fc00::/7), the old site-local (fec0::/10), and what is written in documentation.
    let private = first & 0xfe00 == 0xfc00 || first & 0xffc0 == 0xfec0 || address.segments()[..2] == [0x2001, 0xdb8];
    (never, address.is_loopback() || private)
}

/// The IPv4 address that an IPv6 one stands for, where it does: mapped, compatible, NAT64 and 6to4.
fn unwrapped(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let v4 = |high: u16, low: u16| IpAddr::V4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        _ => address,
    }
}

/// Resolves names to the addresses that may be connected to, and to no others.
#[derive(Debug)]
pub struct Resolver {
    pub reach: Reach,
}

#[derive(Debug, thiserror::Error)]
enum ResolveError {
    #[error("the name has no address")]
    NoAddress,
    #[error(transparent)]
    Refused(#[from] AddressRefused),
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.reach;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(Box::new(permitted(found, reach)?.into_iter()) as Addrs)
        })
    }
}

fn permitted(found: impl Iterator<Item = SocketAddr>, reach: Reach) -> Result<Vec<SocketAddr>, ResolveError> {
    let mut refused = None;
    let mut addresses = Vec::new();
    for address in found {
        match check(address.ip(), reach) {
            Ok(()) => addresses.push(address),
            Err(error) => refused = Some(error),
        }
    }
    match (addresses.is_empty(), refused) {
        (false, _) => Ok(addresses),
        (true, Some(error)) => Err(error.into()),
        (true, None) => Err(ResolveError::NoAddress),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(address: &str) -> (Result<(), AddressRefused>, Result<(), AddressRefused>) {
        let address = address.parse().unwrap();
        (check(address, Reach::Public), check(address, Reach::Private))
    }

    #[test]
    fn metadata_and_link_local_addresses_are_never_called() {
        let all = [
            "169.254.169.254",
            "169.254.0.1",
            "fe80::1",
            "febf::1",
            "fd00:ec2::254",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "100.100.100.200",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
            "::169.254.169.254",
        ];
        for address in all {
            assert_eq!(verdicts(address), (Err(AddressRefused::Never), Err(AddressRefused::Never)), "{address}");
        }
    }

    #[test]
    fn private_addresses_are_called_only_when_that_is_allowed() {
        let all = [
            "127.0.0.1",
            "127.8.8.8",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "::1",
            "fd12::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "fec0::1",
            "198.18.0.1",
        ];
        for address in all {
            assert_eq!(verdicts(address), (Err(AddressRefused::Private), Ok(())), "{address}");
        }
    }

    #[test]
    fn public_addresses_are_called() {
        for address in ["1.1.1.1", "162.159.128.233", "172.32.0.1", "100.128.0.1", "2606:4700::1111"] {
            assert_eq!(verdicts(address), (Ok(()), Ok(())), "{address}");
        }
    }

    #[test]
    fn of_a_name_that_leads_to_both_only_the_permitted_addresses_are_used() {
        let found = ["10.0.0.1:0", "1.1.1.1:0"].map(|address| address.parse().unwrap());
        assert_eq!(permitted(found.into_iter(), Reach::Public).unwrap(), ["1.1.1.1:0".parse().unwrap()]);
        assert!(permitted(found[..1].iter().copied(), Reach::Public).is_err());
        assert!(permitted([].into_iter(), Reach::Private).is_err());
    }
}
