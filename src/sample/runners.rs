//! Runners: the processes under a root path -> the memory of the server and its children, or that they are invisible.
//!
//! `None` is not an empty list. Nothing found may mean that we may not look, or that the server is in a container or on
//! another machine; only when it was seen before does nothing found mean that it is gone.
//!
//! Processes are listed on every call, since a runner must be told from a stranger from its first page on, but each is
//! read when it appears and then again only in its turn, a few on every call: names and parents hardly ever change.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use procfs::process::{MMapPath, MemoryMap, MemoryMaps, Stat, Status};
use procfs::{FromRead, ProcError};

use super::host::work::{self, Pid};
use super::listener::{ServerPlace, find};
use super::{MappedFile, ProcessMemory};
use crate::units::{Bytes, Moment, Span};

/// How many processes are read anew on every call.
const REFRESHED_MAX: usize = 16;
/// How often a server is looked for that was not found.
const SEARCH: Span = Span::seconds(5);
/// How often at most it is looked for because processes have appeared. The kernel walks its whole table of connections to
/// write `/proc/net/tcp`, which is 5 ms of work on a large machine.
const SEARCH_MIN: Span = Span::seconds(2);
/// How long a process may still be mapping its files.
const YOUNG: Span = Span::seconds(30);
/// A change of resident file pages that may be a mapping made or given up.
const REMAP: Bytes = Bytes::mib(16);

pub(super) type Processes = BTreeMap<u32, Seen>;

/// What is remembered of a process: a pid alone may be somebody else's tomorrow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub name: String,
    pub parent: u32,
    start: u64,
}

/// The server's processes; keeps what is expensive to find out again.
#[derive(Debug)]
pub struct Runners {
    proc: PathBuf,
    place: ServerPlace,
    processes: Processes,
    /// The pid after which processes are read anew on the next call.
    refreshed: u32,
    searched_at: Option<Moment>,
    /// Whether processes have appeared since.
    appeared: bool,
    /// Pid and start time.
    server: Option<(u32, u64)>,
    was_seen: bool,
    mapped: BTreeMap<(u32, u64), Mapped>,
    weights_hidden: bool,
}

/// What a process maps, and when that was read.
#[derive(Clone, Debug)]
struct Mapped {
    weights: Vec<MappedFile>,
    /// Whether we were not allowed to read it.
    hidden: bool,
    first_seen: Moment,
    /// Its resident file pages at the reading.
    file: Bytes,
}

impl Runners {
    pub fn new(root: &Path, place: ServerPlace) -> Self {
        Runners {
            proc: root.join("proc"),
            place,
            processes: Processes::new(),
            refreshed: 0,
            searched_at: None,
            appeared: false,
            server: None,
            was_seen: false,
            mapped: BTreeMap::new(),
            weights_hidden: false,
        }
    }

    /// The memory of the server and its children. `None`: they cannot be seen. Empty: the server is gone.
    pub fn look(&mut self, now: Moment) -> Option<Vec<ProcessMemory>> {
        self.appeared |= self.list()?;
        let before = self.server.take();
        self.server = before.filter(|(pid, start)| self.processes.get(pid).is_some_and(|seen| seen.start == *start));
        let has_gone = before.is_some() && self.server.is_none();
        if has_gone || self.server.is_none() && self.is_search_due(now, if self.appeared { SEARCH_MIN } else { SEARCH })
        {
            self.searched_at = Some(now);
            self.appeared = false;
            let found = find(&self.proc, &self.place, &self.processes);
            self.server = found.and_then(|pid| Some((pid, self.processes.get(&pid)?.start)));
        }
        let Some((server, _)) = self.server else { return self.was_seen.then(Vec::new) };
        self.was_seen = true;
        self.weights_hidden = false;
        let family = family(server, &self.processes);
        self.mapped.retain(|(pid, _), _| family.contains(pid));
        let mut read = Vec::with_capacity(family.len());
        for pid in family {
            // One that cannot be read makes the sum unknown; one that has ended since is simply not part of it.
            read.extend(self.memory(now, pid)?);
        }
        Some(read)
    }

    /// The ticks that the server and its children have had. `None`: they cannot be seen.
    pub fn ticks(&self) -> Option<BTreeMap<Pid, u64>> {
        let Some((server, _)) = self.server else { return self.was_seen.then(BTreeMap::new) };
        let stat = |pid: u32| work::of_process(&self.proc.join(format!("{pid}/stat")));
        Some(family(server, &self.processes).into_iter().filter_map(stat).collect())
    }

    /// Whether the last look could not tell which files a runner maps, because it belongs to another user. Weights in
    /// the page cache then count as free memory.
    pub fn weights_hidden(&self) -> bool {
        self.weights_hidden
    }

    /// The server's own pid, while it is seen.
    pub fn server(&self) -> Option<u32> {
        self.server.map(|(pid, _)| pid)
    }

    fn is_search_due(&self, now: Moment, wait: Span) -> bool {
        self.searched_at.is_none_or(|searched_at| now.since(searched_at) >= wait)
    }

    /// Brings the list up to date and says whether processes have appeared; `None` when there is no list.
    fn list(&mut self) -> Option<bool> {
        let entries = std::fs::read_dir(&self.proc).ok()?;
        let listed: BTreeSet<u32> =
            entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        self.processes.retain(|pid, _| listed.contains(pid));
        let new: Vec<u32> = listed.iter().copied().filter(|pid| !self.processes.contains_key(pid)).collect();
        let turn: Vec<u32> =
            self.processes.range(self.refreshed.saturating_add(1)..).map(|(pid, _)| *pid).take(REFRESHED_MAX).collect();
        self.refreshed = turn.last().copied().unwrap_or_default();
        let server = self.server.map(|(pid, _)| pid).filter(|pid| self.processes.contains_key(pid));
        for pid in new.iter().copied().chain(turn).chain(server) {
            match look_at(&self.proc, pid) {
                Some(seen) => self.processes.insert(pid, seen),
                None => self.processes.remove(&pid),
            };
        }
        Some(!new.is_empty())
    }

    /// `Some(None)` when the process has ended; `None` when it cannot be read.
    fn memory(&mut self, now: Moment, pid: u32) -> Option<Option<ProcessMemory>> {
        let status = match Status::from_file(self.proc.join(format!("{pid}/status"))) {
            Ok(status) => status,
            Err(error) => return has_ended(&error).then_some(None),
        };
        if status.vmrss.is_none() {
            // It has given its memory back and waits to be reaped.
            return Some(None);
        }
        let kib = |count: Option<u64>| count.map(|count| Bytes(count.saturating_mul(1024)));
        let (anonymous, shared, file) = (kib(status.rssanon)?, kib(status.rssshmem)?, kib(status.rssfile)?);
        let weights = self.weights(now, pid, file);
        // Locked pages are no longer among those that the kernel calls available, so they are like the process's own.
        let mapped: Bytes = weights.iter().map(|file| file.size).sum();
        let locked = kib(status.vmlck).unwrap_or(Bytes::ZERO).min(file).min(mapped);
        let (shared, file) = (shared + locked, file.saturating_sub(locked));
        Some(Some(ProcessMemory { pid, anonymous, shared, file, weights, vram: None }))
    }

    /// The model files that it maps, read again only while that may have changed: a list of mappings is long.
    fn weights(&mut self, now: Moment, pid: u32, file: Bytes) -> Vec<MappedFile> {
        let key = (pid, self.processes.get(&pid).map_or(0, |seen| seen.start));
        let known = self.mapped.get(&key);
        let first_seen = known.map_or(now, |known| known.first_seen);
        if let Some(known) = known
            && now.since(first_seen) >= YOUNG
            && Bytes(known.file.0.abs_diff(file.0)) < REMAP
        {
            self.weights_hidden |= known.hidden;
            return known.weights.clone();
        }
        let (weights, hidden) = match MemoryMaps::from_file(self.proc.join(format!("{pid}/maps"))) {
            Ok(maps) => (model_files(&maps.0), false),
            Err(ProcError::PermissionDenied(_)) => (Vec::new(), true),
            Err(_) => (Vec::new(), false),
        };
        self.weights_hidden |= hidden;
        self.mapped.insert(key, Mapped { weights: weights.clone(), hidden, first_seen, file });
        weights
    }
}

/// `None` when it has ended since it was listed, or may not be looked at.
fn look_at(proc: &Path, pid: u32) -> Option<Seen> {
    let stat = Stat::from_file(proc.join(format!("{pid}/stat"))).ok()?;
    Some(Seen { name: stat.comm, parent: stat.ppid.unsigned_abs(), start: stat.starttime })
}

/// The process itself and all that descend from it.
fn family(server: u32, processes: &Processes) -> BTreeSet<u32> {
    let mut family = BTreeSet::from([server]);
    // Pids wrap around, so a child may stand before its parent; as many rounds as there are generations.
    loop {
        let children = processes.iter().filter(|(pid, seen)| family.contains(&seen.parent) && !family.contains(pid));
        let children: Vec<u32> = children.map(|(pid, _)| *pid).collect();
        if children.is_empty() {
            return family;
        }
        family.extend(children);
    }
}

/// The kernel says `ESRCH` when it ends between the opening and the reading.
fn has_ended(error: &ProcError) -> bool {
    const ESRCH: i32 = 3;
    match error {
        ProcError::NotFound(_) => true,
        ProcError::Io(error, _) => error.raw_os_error() == Some(ESRCH),
        ProcError::PermissionDenied(_)
        | ProcError::Incomplete(_)
        | ProcError::Other(_)
        | ProcError::InternalError(_) => false,
    }
}

/// How much of each model file is mapped. Not the size of the file: what went to a GPU is unmapped again.
fn model_files(maps: &[MemoryMap]) -> Vec<MappedFile> {
    let mut extents: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
    for map in maps.iter().filter(|map| is_model_file(&map.pathname)) {
        let length = map.address.1.saturating_sub(map.address.0);
        extents.entry(map.inode).or_default().push((map.offset, map.offset.saturating_add(length)));
    }
    extents.into_iter().map(|(inode, extents)| MappedFile { inode, size: covered(extents) }).collect()
}

/// What these ranges cover together.
fn covered(mut extents: Vec<(u64, u64)>) -> Bytes {
    extents.sort_unstable();
    let mut end = 0;
    let mut sum = 0;
    for (from, to) in extents {
        sum += to.saturating_sub(from.max(end));
        end = end.max(to);
    }
    Bytes(sum)
}

/// A file of GGUF, or a layer in Ollama's store, whether or not it was deleted since.
fn is_model_file(path: &MMapPath) -> bool {
    let MMapPath::Path(path) = path else { return false };
    let path = path.to_string_lossy();
    let path = path.strip_suffix(" (deleted)").unwrap_or(&path);
    path.to_ascii_lowercase().ends_with(".gguf") || path.contains("/blobs/sha256-")
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Copied, fixture};
    use super::super::{hot_weights, own_memory};
    use super::*;

    const NAMES: [&str; 2] = ["ollama", "llama-server"];

    fn runners(root: &Path, url: &str) -> Runners {
        Runners::new(root, ServerPlace::from_url(url, &NAMES).unwrap())
    }

    fn pids(read: Option<Vec<ProcessMemory>>) -> Option<Vec<u32>> {
        read.map(|read| read.into_iter().map(|process| process.pid).collect())
    }

    fn seen(name: &str, url: &str) -> Option<Vec<u32>> {
        pids(runners(&fixture(name), url).look(Moment(0)))
    }

    #[test]
    fn the_server_and_its_children_are_attributed_and_strangers_are_not() {
        let read = runners(&fixture("bare-metal"), "http://127.0.0.1:11434").look(Moment(0)).unwrap();
        let runner = ProcessMemory {
            pid: 733,
            anonymous: Bytes::mib(900),
            shared: Bytes::mib(64),
            file: Bytes::mib(1900),
            weights: vec![MappedFile { inode: 777, size: Bytes::gib(2) }],
            vram: None,
        };
        assert_eq!(read[0], runner, "a page that is mapped twice is one page");
        assert_eq!((read[1].pid, read[1].anonymous, read.len()), (812, Bytes::mib(120), 2));
        assert_eq!(hot_weights(&read), Bytes::mib(1900));
        assert_eq!(own_memory(&read), Bytes::mib(900 + 64 + 120 + 1900));
    }

    #[test]
    fn a_server_that_cannot_be_seen_is_none() {
        assert_eq!(seen("container-alone", "http://ollama:11434"), None);
        assert_eq!(seen("bare-metal", "http://127.0.0.1:8080"), None, "another port");
        assert_eq!(seen("bare-metal", "http://10.0.0.9:11434"), None, "another machine");
        assert_eq!(seen("bare-metal", "http://gpu-box:11434"), None, "another machine");
        assert_eq!(seen("quota-v2", "http://127.0.0.1:11434"), None, "no processes at all");
    }

    #[test]
    fn a_server_of_a_shared_pid_namespace_is_found_in_its_own_network() {
        let both = Some(vec![1, 77]);
        assert_eq!(seen("container-shared-pids", "http://ollama:11434"), both);
        assert_eq!(seen("container-shared-pids", "http://172.18.0.2:11434"), both);
        assert_eq!(seen("container-shared-pids", "http://172.18.0.9:11434"), None);
        assert_eq!(seen("container-shared-pids", "http://ollama:40123"), None, "it listens on its own loopback only");
    }

    #[test]
    fn a_published_port_leads_to_the_server_in_the_container() {
        assert_eq!(seen("docker-on-host", "http://127.0.0.1:11434"), Some(vec![650]));
    }

    #[test]
    fn a_server_of_another_user_is_found_by_its_name_in_our_network() {
        let tree = Copied::of("bare-metal");
        tree.remove("proc/812/fd");
        let net = tree.root().join("proc/812/net");
        std::fs::create_dir(&net).unwrap();
        std::fs::copy(tree.root().join("proc/net/tcp"), net.join("tcp")).unwrap();
        let look = || pids(runners(tree.root(), "http://127.0.0.1:11434").look(Moment(0)));
        assert_eq!(look(), Some(vec![733, 812]));
        tree.edit("proc/812/cmdline", "serve", "serve\0--port\x0011500");
        assert_eq!(look(), None, "it says that it listens elsewhere");
        tree.edit("proc/812/cmdline", "\0--port\x0011500", "");
        tree.edit("proc/812/net/tcp", "41001", "61001");
        assert_eq!(look(), None, "that port is one of another network");
        tree.edit("proc/812/net/tcp", "61001", "41001");
        tree.edit("proc/812/cmdline", "serve", "run");
        assert_eq!(look(), None, "a client has the same name");
    }

    #[test]
    fn a_connection_to_the_port_is_not_the_server() {
        let tree = Copied::of("bare-metal");
        tree.remove("proc/812/fd/3");
        assert_eq!(runners(tree.root(), "http://127.0.0.1:11434").look(Moment(0)), None);
    }

    #[test]
    fn a_child_that_inherited_the_socket_is_not_the_server() {
        let tree = Copied::of("bare-metal");
        tree.fork(812, 500, 812);
        tree.fork(733, 501, 500);
        assert_eq!(
            pids(runners(tree.root(), "http://localhost:11434").look(Moment(0))),
            Some(vec![500, 501, 733, 812])
        );
    }

    #[test]
    fn a_new_child_counts_from_the_first_look_and_a_dead_one_no_more() {
        let tree = Copied::of("bare-metal");
        let mut runners = runners(tree.root(), "http://127.0.0.1:11434");
        runners.look(Moment(0));
        tree.fork(733, 990, 812);
        assert_eq!(pids(runners.look(Moment(100))), Some(vec![733, 812, 990]));
        tree.remove("proc/733");
        assert_eq!(pids(runners.look(Moment(200))), Some(vec![812, 990]));
    }

    #[test]
    fn a_process_that_ends_between_two_reads_is_no_error() {
        let tree = Copied::of("bare-metal");
        tree.remove("proc/733/status");
        let mut runners = runners(tree.root(), "http://127.0.0.1:11434");
        assert_eq!(pids(runners.look(Moment(0))), Some(vec![812]));
        tree.remove("proc/812/stat");
        tree.remove("proc/812/status");
        assert_eq!(pids(runners.look(Moment(100))), Some(vec![]));
    }

    #[test]
    fn a_process_whose_memory_is_not_told_makes_all_of_it_unknown() {
        let tree = Copied::of("bare-metal");
        tree.edit("proc/733/status", "RssAnon", "RssOther");
        assert_eq!(runners(tree.root(), "http://127.0.0.1:11434").look(Moment(0)), None);
    }

    #[test]
    fn a_server_that_ended_is_an_empty_list_and_one_that_returns_is_found() {
        let tree = Copied::of("bare-metal");
        let mut runners = runners(tree.root(), "http://127.0.0.1:11434");
        runners.look(Moment(0));
        let parked = tree.root().join("parked");
        std::fs::rename(tree.root().join("proc/812"), &parked).unwrap();
        assert_eq!(runners.look(Moment(1000)), Some(Vec::new()));
        std::fs::rename(&parked, tree.root().join("proc/812")).unwrap();
        assert_eq!(runners.look(Moment(2000)), Some(Vec::new()), "it was looked for a second ago");
        assert_eq!(pids(runners.look(Moment(3000))), Some(vec![733, 812]));
    }

    #[test]
    fn a_pid_that_went_to_another_process_is_not_the_server() {
        let tree = Copied::of("bare-metal");
        let mut runners = runners(tree.root(), "http://127.0.0.1:11434");
        runners.look(Moment(0));
        tree.edit("proc/812/stat", " 900 ", " 123456 ");
        tree.edit("proc/812/stat", "(ollama)", "(vim)");
        tree.remove("proc/812/fd");
        assert_eq!(runners.look(Moment(5000)), Some(Vec::new()));
    }

    #[test]
    fn mappings_are_read_while_young_and_then_only_when_file_pages_change() {
        let tree = Copied::of("bare-metal");
        let mut runners = runners(tree.root(), "http://127.0.0.1:11434");
        let mut mapped = |at: Moment| runners.look(at).unwrap()[0].weights.len();
        assert_eq!(mapped(Moment(0)), 1);
        tree.edit("proc/733/maps", "777", "778");
        tree.edit("proc/733/maps", "blobs/sha256-", "other/");
        assert_eq!(mapped(Moment(29_000)), 0, "young");
        tree.edit("proc/733/maps", "other/aabb", "a.GGUF (deleted)");
        assert_eq!(mapped(Moment(31_000)), 0, "not looked at again");
        tree.edit("proc/733/status", "RssFile:\t 1945600 kB", "RssFile:\t 1980000 kB");
        assert_eq!(mapped(Moment(32_000)), 1, "grown");
    }

    #[test]
    fn locked_weights_are_the_process_s_own_and_not_hot_cache() {
        let tree = Copied::of("bare-metal");
        tree.edit("proc/733/status", "VmLck:\t       0 kB", "VmLck:\t 1843200 kB");
        let read = runners(tree.root(), "http://127.0.0.1:11434").look(Moment(0)).unwrap();
        assert_eq!((read[0].shared, read[0].file), (Bytes::mib(64 + 1800), Bytes::mib(100)));
        assert_eq!(hot_weights(&read), Bytes::ZERO);
    }

    #[test]
    fn a_process_that_waits_to_be_reaped_holds_nothing() {
        let tree = Copied::of("bare-metal");
        tree.edit("proc/733/status", "VmRSS", "VmGone");
        assert_eq!(pids(runners(tree.root(), "http://127.0.0.1:11434").look(Moment(0))), Some(vec![812]));
    }
}
