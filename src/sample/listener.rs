//! Listener: where the server is said to be, and the processes under a root path -> the process that listens there.
//!
//! The socket is the surest sign, but who holds a socket may only be seen by its own user and by root. So a process of
//! a known name counts as well, if the port is listened on in its network: a server in a container is never taken for
//! one that listens here, nor is a server on another machine for one that happens to run on this one.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;

use procfs::net::{TcpNetEntries, TcpState};
use procfs::process::Process;
use procfs::{FromReadSI, current_system_info};

use super::runners::{Processes, Seen};

/// Where the model server is said to listen, and what its process may be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerPlace {
    pub host: Host,
    pub port: u16,
    pub names: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// In the network that we are in ourselves.
    Loopback,
    /// Here, in a container or on another machine: whichever has this address.
    Address(IpAddr),
    /// Another container, if its processes can be seen at all; else another machine. A name is not looked up, since a
    /// slow resolver must not hold up the sampler.
    Name(String),
}

impl ServerPlace {
    /// `None` when the text is no URL with a host.
    pub fn from_url(url: &str, names: &[&str]) -> Option<Self> {
        let url = reqwest::Url::parse(url).ok()?;
        let name = url.host_str()?;
        let host = match name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            Ok(address) if address.is_loopback() || address.is_unspecified() => Host::Loopback,
            Ok(address) => Host::Address(address),
            Err(_) if name == "localhost" || name.ends_with(".localhost") => Host::Loopback,
            Err(_) => Host::Name(name.to_owned()),
        };
        let names = names.iter().map(|&name| name.to_owned()).collect();
        Some(ServerPlace { host, port: url.port_or_known_default()?, names })
    }

    fn is_served_at(&self, local: SocketAddr) -> bool {
        let ip = local.ip().to_canonical();
        local.port() == self.port
            && (ip.is_unspecified()
                || match &self.host {
                    Host::Loopback => ip.is_loopback(),
                    Host::Address(address) => ip == address.to_canonical(),
                    Host::Name(_) => !ip.is_loopback(),
                })
    }
}

/// The process that listens there; `None` when there is none or it cannot be seen.
pub(super) fn find(proc: &Path, place: &ServerPlace, processes: &Processes) -> Option<u32> {
    let is_here = match &place.host {
        Host::Loopback => true,
        Host::Address(address) => has_address(&proc.join("net"), *address),
        Host::Name(_) => false,
    };
    if !is_here {
        return find_elsewhere(proc, place, processes);
    }
    if let Some(inside) = behind_docker(proc, place, processes) {
        return find_elsewhere(proc, &inside, processes);
    }
    let here = listening(&proc.join("net"), place);
    if here.is_empty() {
        return None;
    }
    find_by_socket(proc, &here, place, processes)
        .or_else(|| named(place, processes).find(|pid| in_same_network(proc, *pid, &here, place)))
}

/// By the socket itself. Those of the right name come first, so that usually only one process is looked into.
fn find_by_socket(proc: &Path, sockets: &[u64], place: &ServerPlace, processes: &Processes) -> Option<u32> {
    let links: Vec<String> = sockets.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let holds = |pid: u32| {
        let Ok(files) = std::fs::read_dir(proc.join(pid.to_string()).join("fd")) else { return false };
        files
            .flatten()
            .filter_map(|file| std::fs::read_link(file.path()).ok())
            .any(|target| target.to_str().is_some_and(|target| links.iter().any(|link| link == target)))
    };
    let rest = processes.iter().filter(|(_, seen)| !is_named(place, seen)).map(|(pid, _)| *pid);
    let named = processes.iter().filter(|(_, seen)| is_named(place, seen)).map(|(pid, _)| *pid);
    let mut found = named.chain(rest).find(|pid| holds(*pid))?;
    // A child may have inherited the socket; the server is the one that it came from.
    while let Some(parent) = processes.get(&found).map(|seen| seen.parent).filter(|parent| holds(*parent)) {
        found = parent;
    }
    Some(found)
}

/// By name, in a network that is not ours.
fn find_elsewhere(proc: &Path, place: &ServerPlace, processes: &Processes) -> Option<u32> {
    let mut named = named(place, processes).peekable();
    // What listens here is not elsewhere; it is only worth reading when there is somebody to compare with.
    let here = named.peek().map_or_else(Vec::new, |_| listening(&proc.join("net"), place));
    named.find(|pid| {
        let net = proc.join(pid.to_string()).join("net");
        let sockets = listening(&net, place);
        let apart = sockets.iter().any(|inode| !here.contains(inode));
        let addressed = match &place.host {
            Host::Loopback => false,
            Host::Address(address) => has_address(&net, *address),
            Host::Name(_) => true,
        };
        apart && addressed && is_plausible(proc, *pid, place)
    })
}

fn in_same_network(proc: &Path, pid: u32, here: &[u64], place: &ServerPlace) -> bool {
    let theirs = listening(&proc.join(pid.to_string()).join("net"), place);
    theirs.iter().any(|inode| here.contains(inode)) && is_plausible(proc, pid, place)
}

fn is_named(place: &ServerPlace, seen: &Seen) -> bool {
    place.names.contains(&seen.name)
}

/// Topmost ones first: a runner of Ollama has the name of its server.
fn named<'a>(place: &'a ServerPlace, processes: &'a Processes) -> impl Iterator<Item = u32> + 'a {
    let below = |seen: &Seen| processes.get(&seen.parent).is_some_and(|parent| is_named(place, parent));
    let all = move || processes.iter().filter(|(_, seen)| is_named(place, seen));
    all().filter(move |(_, seen)| !below(seen)).map(|(pid, _)| *pid)
}

/// Whether its own arguments do not say that it is something else: a client of Ollama, or a server on another port.
fn is_plausible(proc: &Path, pid: u32, place: &ServerPlace) -> bool {
    let arguments = arguments(proc, pid);
    let client = ["run", "ps", "list", "ls", "pull", "push", "create", "show", "stop", "rm", "cp", "launch"];
    let is_ollama = arguments.first().is_some_and(|program| program.rsplit('/').next() == Some("ollama"));
    if is_ollama && arguments.get(1).is_some_and(|command| client.contains(&command.as_str())) {
        return false;
    }
    option(&arguments, "--port").is_none_or(|port| port.parse() == Ok(place.port))
}

/// Docker's own proxy holds a published port; the server is in the container that it names.
fn behind_docker(proc: &Path, place: &ServerPlace, processes: &Processes) -> Option<ServerPlace> {
    let proxies = processes.iter().filter(|(_, seen)| seen.name == "docker-proxy");
    proxies.map(|(pid, _)| arguments(proc, *pid)).find_map(|arguments| {
        let port = option(&arguments, "-host-port")?.parse::<u16>().ok()?;
        (port == place.port).then_some(())?;
        Some(ServerPlace {
            host: Host::Address(option(&arguments, "-container-ip")?.parse().ok()?),
            port: option(&arguments, "-container-port")?.parse().ok()?,
            names: place.names.clone(),
        })
    })
}

fn arguments(proc: &Path, pid: u32) -> Vec<String> {
    Process::new_with_root(proc.join(pid.to_string())).and_then(|process| process.cmdline()).unwrap_or_default()
}

/// The value of `--name value` or `--name=value`.
fn option<'a>(arguments: &'a [String], name: &str) -> Option<&'a str> {
    arguments.iter().enumerate().find_map(|(index, argument)| match argument.strip_prefix(name)? {
        "" => arguments.get(index + 1).map(String::as_str),
        rest => rest.strip_prefix('='),
    })
}

/// The inodes of the sockets that listen at this place, in the network that this directory tells of.
fn listening(net: &Path, place: &ServerPlace) -> Vec<u64> {
    let tables = ["tcp", "tcp6"].map(|name| TcpNetEntries::from_file(net.join(name), current_system_info()));
    let entries = tables.into_iter().flatten().flat_map(|table| table.0);
    let listeners = entries.filter(|entry| entry.state == TcpState::Listen && place.is_served_at(entry.local_address));
    listeners.map(|entry| entry.inode).collect()
}

/// Whether an interface of that network has this address.
fn has_address(net: &Path, address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let trie = std::fs::read_to_string(net.join("fib_trie")).unwrap_or_default();
            let written = format!("|-- {address}");
            let mut last = "";
            trie.lines().map(str::trim).any(|line| {
                if line.starts_with("|--") {
                    last = line;
                }
                line == "/32 host LOCAL" && last == written
            })
        }
        IpAddr::V6(address) => {
            let interfaces = std::fs::read_to_string(net.join("if_inet6")).unwrap_or_default();
            let addresses = interfaces.lines().filter_map(|line| line.split_whitespace().next());
            addresses
                .filter_map(|hex| u128::from_str_radix(hex, 16).ok())
                .any(|bits| Ipv6Addr::from_bits(bits) == address)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_places() {
        let place = |url| ServerPlace::from_url(url, &["ollama"]).map(|place| (place.host, place.port));
        assert_eq!(place("http://127.0.0.1:11434"), Some((Host::Loopback, 11434)));
        assert_eq!(place("http://localhost:8080/v1"), Some((Host::Loopback, 8080)));
        assert_eq!(place("http://[::1]:8080"), Some((Host::Loopback, 8080)));
        assert_eq!(place("http://0.0.0.0:8080"), Some((Host::Loopback, 8080)));
        assert_eq!(place("http://192.168.1.9"), Some((Host::Address([192, 168, 1, 9].into()), 80)));
        assert_eq!(place("http://ollama:11434"), Some((Host::Name("ollama".to_owned()), 11434)));
        assert_eq!(place("ollama"), None);
    }

    #[test]
    fn a_socket_serves_a_place_only_at_its_addresses() {
        let serves = |url, local: &str| ServerPlace::from_url(url, &[]).unwrap().is_served_at(local.parse().unwrap());
        assert!(serves("http://127.0.0.1:80", "127.0.0.1:80"));
        assert!(serves("http://127.0.0.1:80", "[::]:80"));
        assert!(!serves("http://127.0.0.1:80", "127.0.0.1:81"));
        assert!(!serves("http://127.0.0.1:80", "192.168.1.9:80"));
        assert!(serves("http://192.168.1.9:80", "[::ffff:192.168.1.9]:80"));
        assert!(!serves("http://ollama:80", "127.0.0.1:80"));
    }

    #[test]
    fn options_are_read_in_both_forms() {
        let arguments = ["x", "--port", "1", "--host=2"].map(str::to_owned);
        assert_eq!((option(&arguments, "--port"), option(&arguments, "--host")), (Some("1"), Some("2")));
        assert_eq!(option(&arguments, "--por"), None);
    }
}
