//! Cgroup: the server's process and the cgroups under a root path -> the memory limit it lives under, if it can be seen.
//!
//! Our own group is not the server's: its limit is for us, and read as capacity it would keep every model small. So a
//! group counts only when its own list names the server's process. That cannot be told from the paths: in a container
//! they begin at a root that nobody else knows, and what is mounted is mostly our own group alone.

use std::path::{Path, PathBuf};

use procfs::{FromRead, ProcessCGroups};

use super::vmstat::refaults;
use super::{HostError, counter, read};
use crate::units::Bytes;

/// How deep under the mounted groups one is looked for whose path begins outside of what we see, and how many groups are
/// looked at for that.
const DEPTH_MAX: usize = 4;
const LOOKED_AT_MAX: usize = 4096;

/// A group with a limit, the server's or one above it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupUse {
    pub place: PathBuf,
    pub limit: Bytes,
    /// All that is charged to it, the page cache included.
    pub charged: Bytes,
    /// The files among that which can be reclaimed; hot mapped weights are among them.
    pub files: Bytes,
    /// Processes killed in it because it was full; `None` where it is not told.
    pub oom_kills: Option<u64>,
    pub refaulted: Option<u64>,
    pub scanned: Option<u64>,
}

impl GroupUse {
    /// Its weights are hot at most as far as they are charged to it: the first who reads a file is charged, and that may
    /// have been somebody else.
    pub fn weights(&self, hot: Bytes) -> Bytes {
        hot.min(self.files)
    }

    pub fn used(&self, hot: Bytes) -> Bytes {
        self.charged.saturating_sub(self.files) + self.weights(hot)
    }
}

/// What is seen of the server's group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    /// It is not known which it is, or it cannot be seen from here.
    Hidden,
    /// The groups with a limit, from the server's own upwards; none is a server without a limit.
    Seen(Vec<GroupUse>),
}

/// Follows the server's group; keeps which directories it is.
#[derive(Clone, Debug)]
pub struct ServerGroup {
    root: PathBuf,
    found: Option<Found>,
}

#[derive(Clone, Debug)]
struct Found {
    pid: u32,
    /// What the process's own file said then: a process can be moved.
    written: String,
    kind: Kind,
    /// From the server's own group upwards; none when it cannot be seen.
    places: Vec<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    V1,
    V2,
}

impl ServerGroup {
    pub fn new(root: &Path) -> Self {
        ServerGroup { root: root.to_owned(), found: None }
    }

    /// A limit of all that is installed, or more, is none.
    pub fn look(&mut self, server: Option<u32>, installed: Bytes) -> Result<Sight, HostError> {
        let Some(pid) = server else {
            self.found = None;
            return Ok(Sight::Hidden);
        };
        let Some(written) = read(&self.root.join(format!("proc/{pid}/cgroup")))? else { return Ok(Sight::Hidden) };
        let known = self.found.take().filter(|found| found.pid == pid && found.written == written);
        let found = known.unwrap_or_else(|| find(&self.root, pid, written));
        let (kind, places) = (found.kind, found.places.clone());
        self.found = Some(found);
        if places.is_empty() {
            return Ok(Sight::Hidden);
        }
        let groups = places.iter().map(|place| group(kind, place, installed));
        Ok(Sight::Seen(groups.filter_map(Result::transpose).collect::<Result<_, _>>()?))
    }
}

/// The group that leaves the least of its limit, with the hot weights that are charged to it.
pub fn tightest(groups: &[GroupUse], hot: Bytes) -> Option<&GroupUse> {
    groups.iter().max_by_key(|group| group.used(hot).share_of(group.limit))
}

fn find(root: &Path, pid: u32, written: String) -> Found {
    let groups = ProcessCGroups::from_read(written.as_bytes()).map(|groups| groups.0).unwrap_or_default();
    let memory = groups.iter().find(|group| group.controllers.iter().any(|name| name == "memory"));
    // With both versions mounted, memory is where version 1 has it.
    let group = memory.map(|group| (Kind::V1, group.controllers.join(","), &group.pathname));
    let unified = groups.iter().find(|group| group.controllers.is_empty());
    let group = group.or(unified.map(|group| (Kind::V2, String::new(), &group.pathname)));
    let Some((kind, controllers, path)) = group else {
        return Found { pid, written, kind: Kind::V2, places: Vec::new() };
    };
    // The host's groups, where they were mounted for us, come before those that every container has.
    let bases = ["host/cgroup", "sys/fs/cgroup"].map(|base| root.join(base).join(&controllers));
    let places = bases.iter().find_map(|base| places(base, path, pid)).unwrap_or_default();
    Found { pid, written, kind, places }
}

/// The group of that path under a base, and all above it; `None` when it does not hold the process.
fn places(base: &Path, path: &str, pid: u32) -> Option<Vec<PathBuf>> {
    let path = Path::new(path.trim_start_matches('/'));
    let outside = path.starts_with("..");
    let inner: PathBuf = path.components().filter(|part| part.as_os_str() != "..").collect();
    let direct = Some(base.join(&inner)).filter(|leaf| !outside && holds(leaf, pid));
    // Its path is told from our own group, which we cannot place in what is mounted; or from a root above that.
    let leaf = direct.or_else(|| below(base, &inner, pid))?;
    let above = leaf.ancestors().take_while(|place| place.starts_with(base));
    Some(above.map(Path::to_owned).collect())
}

fn holds(group: &Path, pid: u32) -> bool {
    let listed = read(&group.join("cgroup.procs")).ok().flatten().unwrap_or_default();
    listed.lines().any(|line| line.parse() == Ok(pid))
}

/// Looks for a group whose path ends like this and that holds the process.
fn below(base: &Path, inner: &Path, pid: u32) -> Option<PathBuf> {
    if inner.as_os_str().is_empty() {
        return None;
    }
    let (mut layer, mut looked_at) = (vec![base.to_owned()], 0);
    for _ in 0..DEPTH_MAX {
        let mut next = Vec::new();
        for place in layer {
            let leaf = place.join(inner);
            if holds(&leaf, pid) {
                return Some(leaf);
            }
            looked_at += 1;
            if looked_at > LOOKED_AT_MAX {
                return None;
            }
            let entries = std::fs::read_dir(&place).into_iter().flatten().flatten();
            next.extend(entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|it| it.path()));
        }
        layer = next;
    }
    None
}

/// `None` when it has no limit.
fn group(kind: Kind, place: &Path, installed: Bytes) -> Result<Option<GroupUse>, HostError> {
    let limits: &[&str] = match kind {
        Kind::V1 => &["memory.limit_in_bytes"],
        // Beyond the second it is only slowed down, which is as bad for a model.
        Kind::V2 => &["memory.max", "memory.high"],
    };
    let mut limit = installed;
    for name in limits {
        limit = limit.min(amount(&place.join(name))?.unwrap_or(installed));
    }
    if limit >= installed {
        return Ok(None);
    }
    let (charged, events, prefix) = match kind {
        Kind::V1 => ("memory.usage_in_bytes", "memory.oom_control", "total_"),
        Kind::V2 => ("memory.current", "memory.events", ""),
    };
    let missing = |name: &str, what: &str| HostError::Content { path: place.join(name), what: format!("no {what}") };
    let charged = amount(&place.join(charged))?.ok_or_else(|| missing(charged, "number"))?;
    let stat = read(&place.join("memory.stat"))?.unwrap_or_default();
    let count = |name: &str| counter(&stat, &format!("{prefix}{name}"));
    let files = count("active_file").zip(count("inactive_file")).ok_or_else(|| missing("memory.stat", "file pages"))?;
    let oom_kills = read(&place.join(events))?.and_then(|text| counter(&text, "oom_kill"));
    Ok(Some(GroupUse {
        place: place.to_owned(),
        limit,
        charged,
        files: Bytes(files.0.saturating_add(files.1)),
        oom_kills,
        refaulted: refaults(&stat, prefix),
        scanned: count("pgscan"),
    }))
}

/// `None` when there is no such file, as at the root of version 2, and when it says `max`. Version 1 says a number of
/// pages near the largest there is instead, which is more than any machine has.
fn amount(path: &Path) -> Result<Option<Bytes>, HostError> {
    let Some(text) = read(path)? else { return Ok(None) };
    match text.trim() {
        "max" => Ok(None),
        number => match number.parse() {
            Ok(amount) => Ok(Some(Bytes(amount))),
            Err(_) => Err(HostError::Content { path: path.to_owned(), what: format!("no number: {number}") }),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::fixture::{Copied, fixture};
    use super::*;

    const INSTALLED: Bytes = Bytes::gib(31);

    fn look(root: &Path, pid: u32) -> Sight {
        ServerGroup::new(root).look(Some(pid), INSTALLED).unwrap()
    }

    fn limits(root: &Path, pid: u32) -> Option<Vec<Bytes>> {
        match look(root, pid) {
            Sight::Hidden => None,
            Sight::Seen(groups) => Some(groups.iter().map(|group| group.limit).collect()),
        }
    }

    #[test]
    fn every_limit_above_the_server_is_seen_in_both_versions() {
        assert_eq!(limits(&fixture("cgroup-v2"), 812), Some(vec![Bytes::gib(6), Bytes::gib(16)]));
        assert_eq!(limits(&fixture("cgroup-v1"), 812), Some(vec![Bytes::gib(8)]));
        let Sight::Seen(groups) = look(&fixture("cgroup-v1"), 812) else { panic!("it is seen") };
        let expected = GroupUse {
            place: fixture("cgroup-v1").join("sys/fs/cgroup/memory/docker/feed"),
            limit: Bytes::gib(8),
            charged: Bytes::mib(5120),
            files: Bytes::mib(3072),
            oom_kills: Some(1),
            refaulted: Some(1234),
            scanned: None,
        };
        assert_eq!(groups, [expected]);
    }

    #[test]
    fn what_is_used_counts_hot_weights_and_no_other_files() {
        let Sight::Seen(groups) = look(&fixture("cgroup-v2"), 812) else { panic!("it is seen") };
        let own = &groups[0];
        assert_eq!((own.charged, own.files), (Bytes::mib(4000), Bytes::mib(2500)));
        assert_eq!(own.used(Bytes::ZERO), Bytes::mib(1500));
        assert_eq!(own.used(Bytes::mib(1900)), Bytes::mib(3400));
        assert_eq!(own.used(Bytes::gib(9)), Bytes::mib(4000), "what another group was charged for is not in this one");
        assert_eq!((own.oom_kills, own.refaulted, own.scanned), (Some(2), Some(1007), Some(9000)));
    }

    #[test]
    fn the_tightest_group_is_the_one_that_counts() {
        let tree = Copied::of("cgroup-v2");
        let Sight::Seen(groups) = look(tree.root(), 812) else { panic!("it is seen") };
        assert_eq!(tightest(&groups, Bytes::ZERO).unwrap().limit, Bytes::gib(6));
        tree.edit("sys/fs/cgroup/system.slice/memory.current", "6291456000", "16000000000");
        let Sight::Seen(groups) = look(tree.root(), 812) else { panic!("it is seen") };
        assert_eq!(tightest(&groups, Bytes::ZERO).unwrap().limit, Bytes::gib(16), "others fill the slice");
        assert_eq!(tightest(&[], Bytes::ZERO), None);
    }

    #[test]
    fn no_limit_and_more_than_is_installed_are_the_same() {
        assert_eq!(limits(&fixture("cgroup-v1-unlimited"), 812), Some(vec![]), "version 1 says 9223372036854771712");
        let tree = Copied::of("cgroup-v2");
        tree.edit("sys/fs/cgroup/system.slice/memory.high", "17179869184", "max");
        tree.edit("sys/fs/cgroup/system.slice/ollama.service/memory.max", "6442450944", "33285996544");
        assert_eq!(limits(tree.root(), 812), Some(vec![]));
    }

    #[test]
    fn the_lower_of_the_two_limits_of_version_2_holds() {
        let tree = Copied::of("cgroup-v2");
        tree.edit("sys/fs/cgroup/system.slice/ollama.service/memory.high", "max", "5368709120");
        assert_eq!(limits(tree.root(), 812), Some(vec![Bytes::gib(5), Bytes::gib(16)]));
    }

    #[test]
    fn our_own_limit_is_never_the_servers() {
        assert_eq!(limits(&fixture("container-shared-pids"), 1), None, "only our own group is mounted");
        assert_eq!(limits(&fixture("container-alone"), 1), None);
        // Version 1 in a container: the path is the host's, and what is mounted is our own.
        let tree = Copied::of("cgroup-v1");
        tree.edit("proc/812/cgroup", "/docker/feed", "/docker/other");
        assert_eq!(limits(tree.root(), 812), None);
        tree.edit("proc/812/cgroup", "/docker/other", "/");
        assert_eq!(limits(tree.root(), 812), None, "the root of what is mounted does not hold it");
    }

    #[test]
    fn a_server_in_another_container_is_found_where_the_hosts_groups_are_mounted() {
        assert_eq!(limits(&fixture("host-cgroups"), 812), Some(vec![Bytes::gib(4)]));
        let tree = Copied::of("host-cgroups");
        tree.edit("host/cgroup/system.slice/docker-feed.scope/cgroup.procs", "812", "813");
        assert_eq!(limits(tree.root(), 812), None, "a name alone is no proof");
    }

    #[test]
    fn a_server_that_is_moved_is_followed() {
        let tree = Copied::of("cgroup-v2");
        let mut group = ServerGroup::new(tree.root());
        let mut seen = |pid| group.look(pid, INSTALLED).unwrap();
        assert!(matches!(seen(Some(812)), Sight::Seen(groups) if groups.len() == 2));
        tree.edit("proc/812/cgroup", "/system.slice/ollama.service", "/system.slice");
        tree.edit("sys/fs/cgroup/system.slice/cgroup.procs", "\n", "812\n");
        assert!(matches!(seen(Some(812)), Sight::Seen(groups) if groups.len() == 1));
        assert_eq!(seen(None), Sight::Hidden);
        assert_eq!(seen(Some(9999)), Sight::Hidden, "it has ended");
    }

    #[test]
    fn a_limit_without_numbers_is_an_error_and_not_none() {
        let tree = Copied::of("cgroup-v2");
        tree.edit("sys/fs/cgroup/system.slice/ollama.service/memory.max", "6442450944", "lots");
        let look = || ServerGroup::new(tree.root()).look(Some(812), INSTALLED);
        assert!(matches!(look(), Err(HostError::Content { .. })));
        tree.edit("sys/fs/cgroup/system.slice/ollama.service/memory.max", "lots", "6442450944");
        tree.remove("sys/fs/cgroup/system.slice/ollama.service/memory.current");
        assert!(matches!(look(), Err(HostError::Content { .. })));
    }
}
