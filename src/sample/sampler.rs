//! Sampler: the machine's files and the server's processes, at one moment -> one `Sample`.
//!
//! Memory in use is read first and the runners after it. The other way round, what a load takes between the two readings
//! would be counted as somebody else's, and we would run from our own shadow.
//!
//! It blocks, so it belongs on a thread of its own.

use std::path::{Path, PathBuf};

use procfs::FromRead;
use procfs::process::Status;

use super::gpu::Gpus;
use super::host::HostError;
use super::host::cgroup::{GroupUse, ServerGroup, Sight, tightest};
use super::host::memory::{HostMemory, memory};
use super::host::pressure::{Counters, Windows};
use super::host::thrash::{Group, ThrashCounters};
use super::host::{arc, cpu, stall, vmstat, work, zones};
use super::listener::ServerPlace;
use super::runners::Runners;
use super::{CgroupReading, ForeignUse, Reading, Resident, Sample, Traffic, hot_weights, own_memory};
use crate::units::{Bytes, Moment};

/// Takes samples, one after another.
#[derive(Debug)]
pub struct Sampler {
    root: PathBuf,
    /// `None` while it is not known where the server is.
    runners: Option<Runners>,
    gpus: Gpus,
    group: ServerGroup,
    windows: Windows,
    pretend: Option<Pretended>,
    complaints: Complaints,
}

/// What was complained of last, so that it is said once and not every second.
#[derive(Debug, Default)]
struct Complaints {
    memory: Option<String>,
    arc: Option<String>,
    zones: Option<String>,
    group: Option<String>,
    reclaim: Option<String>,
    stall: Option<String>,
    cpu: Option<String>,
}

/// A machine of another size, on which nothing else ran at the start.
#[derive(Clone, Copy, Debug)]
struct Pretended {
    capacity: Bytes,
    /// What others used in the first sample; it is left out for the whole run.
    foreign_at_start: Option<Bytes>,
}

impl Sampler {
    /// `root` is `/` in life; `server` is `None` while it is not known where the server listens.
    pub fn new(root: &Path, server: Option<ServerPlace>, pretend: Option<Bytes>) -> Self {
        Sampler {
            root: root.to_owned(),
            runners: server.map(|place| Runners::new(root, place)),
            gpus: Gpus::default(),
            group: ServerGroup::new(root),
            windows: Windows::new(Bytes(procfs::page_size())),
            pretend: pretend.map(|capacity| Pretended { capacity, foreign_at_start: None }),
            complaints: Complaints::default(),
        }
    }

    /// The same, with the memory of graphics cards.
    pub fn with_gpus(self, gpus: Gpus) -> Self {
        Sampler { gpus, ..self }
    }

    /// The cards that are looked at.
    pub fn gpus(&self) -> &Gpus {
        &self.gpus
    }

    /// The runners that are looked at, for what is said at the start.
    pub fn runners(&self) -> Option<&Runners> {
        self.runners.as_ref()
    }

    /// Reads everything once. What cannot be read is absent from the sample.
    pub fn take(&mut self, now: Moment, residents: Option<Vec<Resident>>, traffic: Traffic) -> Sample {
        let Sampler { root, group, complaints, .. } = self;
        let memory = complain_once(&mut complaints.memory, memory(root));
        let memory = memory.map(|memory| memory.with_more(more(root, memory, complaints)));
        // Which process it is was found by the look before; what is charged to its group is read before the runners too.
        let server = self.runners.as_ref().and_then(Runners::server);
        let sight = memory.map(|memory| group.look(server, memory.total).map(Some));
        let sight = sight.and_then(|sight| complain_once(&mut complaints.group, sight)).unwrap_or(Sight::Hidden);
        self.gpus.read(now);
        let runners = self.runners.as_mut().and_then(|runners| runners.look(now));
        let runners = runners.and_then(|runners| self.gpus.attribute(runners));
        let ourselves = ourselves(root);
        // A server that says it holds a model has a process, so it is ours that cannot be found.
        let holds = residents.as_ref().is_some_and(|residents| !residents.is_empty());
        let runners = runners.filter(|runners| !(runners.is_empty() && holds));
        let seen = runners.as_deref().unwrap_or_default();
        let gpus = self.gpus.pools(seen);
        let hot = hot_weights(seen);
        let group = match &sight {
            Sight::Hidden => Group::Hidden,
            Sight::Seen(groups) => Group::Seen(tightest(groups, hot)),
        };
        // One whose memory is hidden is none that we know all of.
        let ticks = || self.runners.as_ref().filter(|_| runners.is_some()).and_then(Runners::ticks);
        let pressures = self.windows.observe(now, || Counters {
            work: work::counters(root, ticks()),
            ..counters(root, memory, group, complaints)
        });
        let real = memory.map(|memory| Reading {
            capacity: memory.capacity,
            used: memory.capacity.saturating_sub(memory.available.saturating_sub(hot)),
        });
        let ram = match &mut self.pretend {
            None => real,
            Some(pretended) => {
                real.map(|real| pretended.reading(real, own_memory(seen) + ourselves.unwrap_or_default()))
            }
        };
        let foreign_use =
            ForeignUse { cpu: pressures.foreign_cpu, gpu: self.gpus.foreign_use(now, runners.as_deref()) };
        let host_use = real.filter(|_| self.pretend.is_some()).map(|real| real.used.share_of(real.capacity));
        let cgroup = match group {
            Group::Hidden => None,
            Group::Seen(tightest) => tightest.map(|group| charged(group, hot)),
        };
        Sample {
            ram,
            gpus,
            runners,
            ourselves,
            residents,
            stall: pressures.stall,
            thrash: pressures.thrash,
            cgroup,
            swap: memory.and_then(|memory| memory.swap),
            cpu: pressures.cpu,
            foreign_use,
            traffic,
            host_use,
        }
    }
}

fn charged(group: &GroupUse, hot: Bytes) -> CgroupReading {
    let reading = Reading { capacity: group.limit, used: group.used(hot) };
    CgroupReading { reading, weights: group.weights(hot), oom_kills: group.oom_kills }
}

/// What can be had beyond what the kernel says. What cannot be read is complained of, and then counts as used, so that
/// nothing is loaded on it.
fn more(root: &Path, memory: HostMemory, complaints: &mut Complaints) -> Bytes {
    let given_back = complain_once(&mut complaints.arc, arc::reclaimable(root));
    let on_lists = complain_once(&mut complaints.zones, zones::on_lists(root, memory.total));
    given_back.unwrap_or_default() + on_lists.unwrap_or_default()
}

/// The counts that a window begins or ends with.
fn counters(root: &Path, memory: Option<HostMemory>, group: Group<'_>, complaints: &mut Complaints) -> Counters {
    let reclaim = complain_once(&mut complaints.reclaim, vmstat::reclaim(root));
    let files = memory.and_then(|memory| memory.files);
    let of_group = match group {
        Group::Hidden | Group::Seen(None) => None,
        Group::Seen(Some(group)) => {
            ThrashCounters::of_group(group, reclaim).map(|counters| (group.place.clone(), counters))
        }
    };
    Counters {
        stall: complain_once(&mut complaints.stall, stall::counters(root, reclaim)),
        machine: reclaim.and_then(|reclaim| ThrashCounters::of_machine(reclaim, files, group)),
        group: of_group,
        cpu: complain_once(&mut complaints.cpu, cpu::counters(root)),
        work: None,
    }
}

impl Pretended {
    fn reading(&mut self, real: Reading, own: Bytes) -> Reading {
        let foreign = real.used.saturating_sub(own);
        let at_start = *self.foreign_at_start.get_or_insert(foreign);
        Reading { capacity: self.capacity, used: real.used.saturating_sub(at_start) }
    }
}

/// What this process holds itself. Its file pages are those of the program, which the kernel counts as free to take.
fn ourselves(root: &Path) -> Option<Bytes> {
    let status = Status::from_file(root.join("proc/self/status")).ok()?;
    Some(Bytes(status.rssanon?.saturating_add(status.rssshmem?).saturating_mul(1024)))
}

/// What was read, if it could be; an error is logged when it is a new one.
fn complain_once<T>(last: &mut Option<String>, read: Result<Option<T>, HostError>) -> Option<T> {
    let (value, complaint) = match read {
        Ok(value) => (value, None),
        Err(error) => (None, Some(error.to_string())),
    };
    if let Some(error) = &complaint
        && complaint != *last
    {
        tracing::warn!(message = "A reading of the machine failed; it counts as unknown.", %error);
    }
    *last = complaint;
    value
}

#[cfg(test)]
mod tests {
    use super::super::ResidentState;
    use super::super::fixture::{Copied, fixture};
    use super::*;
    use crate::units::Permille;

    fn place() -> Option<ServerPlace> {
        ServerPlace::from_url("http://127.0.0.1:11434", &["ollama"])
    }

    fn take(sampler: &mut Sampler, at: Moment) -> Sample {
        sampler.take(at, None, Traffic::default())
    }

    fn holds() -> Option<Vec<Resident>> {
        Some(vec![Resident { model: "qwen3:4b".to_owned(), state: ResidentState::Loaded, context: None }])
    }

    #[test]
    fn hot_weights_of_runners_are_in_use_though_the_kernel_calls_them_available() {
        let root = fixture("bare-metal");
        // ZFS would give back 2 GiB.
        let bare = memory(&root).unwrap().unwrap().with_more(Bytes::gib(2));
        let ram = take(&mut Sampler::new(&root, place(), None), Moment(0)).ram.unwrap();
        assert_eq!(ram.capacity, bare.capacity);
        assert_eq!(ram.used, bare.capacity.saturating_sub(bare.available) + Bytes::mib(1900));
        let blind = take(&mut Sampler::new(&root, None, None), Moment(0));
        assert_eq!(blind.runners, None);
        assert_eq!(blind.ram.unwrap().used, bare.capacity.saturating_sub(bare.available));
    }

    #[test]
    fn pages_on_the_lists_of_the_processors_are_not_in_use() {
        let tree = Copied::of("bare-metal");
        let used = || take(&mut Sampler::new(tree.root(), place(), None), Moment(0)).ram.unwrap();
        let before = used();
        let pages = |bytes: Bytes| bytes.0 / procfs::page_size();
        let total = crate::sample::host::machine::machine(tree.root()).unwrap().memory;
        let (managed, count) = (pages(total), pages(Bytes::mib(300)));
        let zone = format!("Node 0, zone Normal\n  managed {managed}\n  pagesets\n    cpu: 0\n  count: {count}\n");
        std::fs::write(tree.root().join("proc/zoneinfo"), zone).unwrap();
        assert_eq!(used().used, before.used.saturating_sub(Bytes::mib(300)));
    }

    #[test]
    fn what_cannot_be_read_of_the_rest_is_complained_of_and_counts_as_used() {
        let tree = Copied::of("bare-metal");
        let mut sampler = Sampler::new(tree.root(), place(), None);
        let before = take(&mut sampler, Moment(0)).ram.unwrap();
        assert_eq!((&sampler.complaints.arc, &sampler.complaints.zones), (&None, &None));
        tree.edit("proc/spl/kstat/zfs/arcstats", "c_min ", "c_mean ");
        std::fs::create_dir(tree.root().join("proc/zoneinfo")).unwrap();
        let after = take(&mut sampler, Moment(1000)).ram.unwrap();
        assert_eq!(after.used, before.used + Bytes::gib(2), "nothing is loaded on what is not known");
        let Complaints { arc, zones, .. } = &sampler.complaints;
        assert!(arc.as_ref().is_some_and(|arc| arc.contains("no `c_min`")), "{arc:?}");
        assert!(zones.as_ref().is_some_and(|zones| zones.contains("proc/zoneinfo`")), "{zones:?}");
    }

    #[test]
    fn our_own_process_is_read_and_is_absent_where_it_cannot_be() {
        let tree = Copied::of("bare-metal");
        assert_eq!(take(&mut Sampler::new(tree.root(), place(), None), Moment(0)).ourselves, None);
        std::fs::create_dir_all(tree.root().join("proc/self")).unwrap();
        std::fs::copy(tree.root().join("proc/733/status"), tree.root().join("proc/self/status")).unwrap();
        let whole = take(&mut Sampler::new(tree.root(), place(), None), Moment(0));
        assert_eq!(whole.ourselves, Some(Bytes::mib(900 + 64)));
        let mut pretending = Sampler::new(tree.root(), place(), Some(Bytes::gib(4)));
        let pretended = take(&mut pretending, Moment(0));
        let own = own_memory(pretended.runners.as_deref().unwrap()) + Bytes::mib(964);
        assert_eq!(pretended.ram.unwrap().used, own, "what is ours is not left out with what others used at the start");
        let live = take(&mut Sampler::new(Path::new("/"), None, None), Moment(0)).ourselves.unwrap();
        assert!(live > Bytes::mib(1) && live < Bytes::gib(4), "{live}");
    }

    #[test]
    fn traffic_and_residents_are_passed_through() {
        let traffic = Traffic { in_flight: 2, held: 1, admitted_total: 9 };
        let sample = Sampler::new(&fixture("bare-metal"), place(), None).take(Moment(0), holds(), traffic);
        assert_eq!((sample.traffic, sample.residents), (traffic, holds()));
        assert_eq!(sample.host_use, None);
    }

    #[test]
    fn stalls_come_with_the_second_window_and_are_absent_without_psi() {
        let tree = Copied::of("bare-metal");
        let mut sampler = Sampler::new(tree.root(), None, None);
        assert_eq!(take(&mut sampler, Moment(0)).stall, None);
        tree.edit("proc/pressure/memory", "total=681245", "total=881245");
        assert_eq!(take(&mut sampler, Moment(2000)).stall.unwrap().some, Permille(100));
        let mut without = Sampler::new(&fixture("wsl"), None, None);
        take(&mut without, Moment(0));
        assert_eq!(take(&mut without, Moment(2000)).stall, None);
    }

    /// What two samples of a tree show, in a few words.
    fn shown((name, url): (&str, &str)) -> String {
        let place = ServerPlace::from_url(url, &["ollama"]);
        let mut sampler = Sampler::new(&fixture(name), place, None);
        take(&mut sampler, Moment(0));
        let sample = take(&mut sampler, Moment(2000));
        let told = |what: &str, is_there: bool| if is_there { format!(" {what}") } else { format!(" no-{what}") };
        let ram = sample.ram.map_or("none".to_owned(), |ram| format!("{}", ram.capacity));
        let swap = sample.swap.map_or("unknown".to_owned(), |swap| swap.total.to_string());
        let group = sample
            .cgroup
            .map_or("none".to_owned(), |group| format!("{} of {}", group.reading.used, group.reading.capacity));
        let runners = sample.runners.map_or("hidden".to_owned(), |runners| runners.len().to_string());
        let (stall, thrash, cpu) = (sample.stall.is_some(), sample.thrash.is_some(), sample.cpu.is_some());
        let rest = told("stall", stall) + &told("thrash", thrash) + &told("cpu", cpu);
        format!("{name}: memory {ram}, swap {swap}, group {group}, runners {runners},{rest}")
    }

    #[test]
    fn every_source_is_read_in_every_shape_of_machine() {
        let (here, container) = ("http://127.0.0.1:11434", "http://ollama:11434");
        let shapes = [
            ("bare-metal", here),
            ("cgroup-v1", here),
            ("cgroup-v1-unlimited", here),
            ("cgroup-v2", here),
            ("container-alone", container),
            ("container-shared-pids", container),
            ("docker-desktop", here),
            ("docker-on-host", here),
            ("gvisor", here),
            ("host-cgroups", here),
            ("lxcfs", here),
            ("no-psi", here),
            ("wsl", here),
            ("zram", here),
        ];
        insta::assert_snapshot!(shapes.map(shown).join("\n"), @r"
        bare-metal: memory 30.3 GiB, swap 8 GiB, group none, runners 2, stall thrash cpu
        cgroup-v1: memory 30.3 GiB, swap 8 GiB, group 3.9 GiB of 8 GiB, runners 2, stall thrash no-cpu
        cgroup-v1-unlimited: memory 30.3 GiB, swap 8 GiB, group none, runners 2, stall thrash no-cpu
        cgroup-v2: memory 30.3 GiB, swap 8 GiB, group 3.3 GiB of 6 GiB, runners 2, stall thrash no-cpu
        container-alone: memory 30.3 GiB, swap 8 GiB, group none, runners hidden, stall thrash no-cpu
        container-shared-pids: memory 30.3 GiB, swap 8 GiB, group none, runners 2, stall thrash no-cpu
        docker-desktop: memory 7.8 GiB, swap 8 GiB, group none, runners hidden, stall thrash no-cpu
        docker-on-host: memory 30.3 GiB, swap 8 GiB, group none, runners 1, stall thrash no-cpu
        gvisor: memory 4 GiB, swap 0 B, group none, runners hidden, no-stall no-thrash no-cpu
        host-cgroups: memory 30.3 GiB, swap 8 GiB, group 2.9 GiB of 4 GiB, runners 2, stall thrash no-cpu
        lxcfs: memory 8 GiB, swap 8 GiB, group none, runners hidden, stall thrash no-cpu
        no-psi: memory 30.3 GiB, swap 8 GiB, group none, runners hidden, no-stall thrash no-cpu
        wsl: memory 15.7 GiB, swap 8 GiB, group none, runners hidden, no-stall thrash no-cpu
        zram: memory 30.3 GiB, swap 16 GiB, group none, runners hidden, stall thrash cpu
        ");
    }

    #[test]
    fn what_others_take_of_the_processors_is_all_work_without_ours_and_unknown_where_ours_is_hidden() {
        let tree = Copied::of("bare-metal");
        let proc = tree.root().join("proc");
        std::fs::create_dir_all(proc.join("self")).unwrap();
        std::fs::copy(proc.join("950/stat"), proc.join("self/stat")).unwrap();
        let cpu = |text: &str| std::fs::write(proc.join("stat"), text).unwrap();
        cpu("cpu  5000 0 1000 4000 0 0 0 0 0 0\n");
        let mut sampler = Sampler::new(tree.root(), place(), None);
        let mut blind = Sampler::new(tree.root(), None, None);
        assert_eq!(take(&mut sampler, Moment(0)).foreign_use, ForeignUse::default(), "there was no window yet");
        take(&mut blind, Moment(0));
        // Of 800 ticks 500 were worked: 180 for the runner, 20 for the server, 50 for us.
        cpu("cpu  5400 0 1100 4250 50 0 0 0 0 0\n");
        tree.edit("proc/733/stat", " 3 0 2 1 4 0 ", " 3 0 152 31 4 0 ");
        tree.edit("proc/812/stat", " 3 0 2 1 4 0 ", " 3 0 22 1 4 0 ");
        tree.edit("proc/self/stat", " 3 0 2 1 4 0 ", " 3 0 32 21 4 0 ");
        let cpu_share = |sample: Sample| sample.foreign_use.cpu;
        assert_eq!(cpu_share(take(&mut sampler, Moment(2000))), Some(Permille(312)));
        assert_eq!(cpu_share(take(&mut blind, Moment(2000))), None);
        cpu("cpu  5900 0 1100 4550 50 0 0 0 0 0\n");
        tree.remove("proc/733");
        assert_eq!(cpu_share(take(&mut sampler, Moment(4000))), None, "what it had of them is not known");
        cpu("cpu  6000 0 1100 4850 50 0 0 0 0 0\n");
        assert_eq!(cpu_share(take(&mut sampler, Moment(6000))), Some(Permille(250)));
    }

    #[test]
    fn a_thrashing_machine_without_psi_is_seen_and_so_is_a_thrashing_group() {
        let tree = Copied::of("no-psi");
        let mut sampler = Sampler::new(tree.root(), None, None);
        take(&mut sampler, Moment(0));
        // A GiB of 2.2 was read again.
        tree.edit("proc/vmstat", "workingset_refault_file 1615334", "workingset_refault_file 1877478");
        tree.edit("proc/vmstat", "\npgscan_file 0\n", "\npgscan_file 9\n");
        let sample = take(&mut sampler, Moment(2000));
        assert_eq!(sample.stall, None);
        let pages = Bytes(262_144 * procfs::page_size());
        let share = pages.share_of(Bytes((1_187_288 + 1_153_052) * 1024));
        assert_eq!(sample.thrash.map(|thrash| (thrash.refaulted, thrash.reclaiming)), Some((share, true)));

        let tree = Copied::of("cgroup-v2");
        let mut sampler = Sampler::new(tree.root(), place(), None);
        take(&mut sampler, Moment(0));
        // The group is known from the first look at the runners on.
        take(&mut sampler, Moment(2000));
        let stat = "sys/fs/cgroup/system.slice/ollama.service/memory.stat";
        tree.edit(stat, "workingset_refault_file 1000", "workingset_refault_file 641000");
        tree.edit(stat, "pgscan 9000", "pgscan 9001");
        let thrash = take(&mut sampler, Moment(4000)).thrash.unwrap();
        assert!(thrash.refaulted >= Permille(1000) && thrash.reclaiming, "{thrash:?}");
    }

    #[test]
    fn the_servers_group_is_a_pool_and_its_hot_weights_are_used() {
        let mut sampler = Sampler::new(&fixture("cgroup-v2"), place(), None);
        take(&mut sampler, Moment(0));
        let group = take(&mut sampler, Moment(1000)).cgroup.unwrap();
        let used = Bytes::mib(1500 + 1900);
        assert_eq!(group.reading, Reading { capacity: Bytes::gib(6), used });
        assert_eq!((group.weights, group.oom_kills), (Bytes::mib(1900), Some(2)));
    }

    #[test]
    fn memory_that_cannot_be_read_is_absent_and_the_rest_is_still_there() {
        let tree = Copied::of("bare-metal");
        tree.edit("proc/meminfo", "MemTotal", "MemOther");
        let sample = take(&mut Sampler::new(tree.root(), place(), None), Moment(0));
        assert_eq!(sample.ram, None);
        assert_eq!(sample.runners.unwrap().len(), 2);
    }

    /// All of it is written by its `Debug`, so no collection can be forgotten here.
    #[test]
    fn processes_that_come_and_go_leave_nothing_behind() {
        let tree = Copied::of("bare-metal");
        let mut sampler = Sampler::new(tree.root(), place(), None);
        let mut sizes = Vec::new();
        for look in 0..400_u32 {
            // A runner and a stranger, each time others; both are gone before the next.
            let (runner, stranger) = (10_000 + 2 * look, 10_001 + 2 * look);
            tree.fork(733, runner, 812);
            tree.fork(950, stranger, 1);
            let sample = take(&mut sampler, Moment(u64::from(look) * 2000));
            assert_eq!(sample.runners.unwrap().len(), 3, "the new one is seen");
            [runner, stranger].iter().for_each(|pid| tree.remove(&format!("proc/{pid}")));
            sizes.push(format!("{sampler:#?}").lines().count());
        }
        let (first, last) = sizes.split_at(100);
        assert!(last.iter().max() <= first.iter().max(), "{sizes:?}");
    }

    #[test]
    fn a_server_that_holds_a_model_is_not_gone_but_invisible() {
        let tree = Copied::of("bare-metal");
        let mut sampler = Sampler::new(tree.root(), place(), None);
        take(&mut sampler, Moment(0));
        tree.remove("proc/812");
        assert_eq!(take(&mut sampler, Moment(1000)).runners, Some(Vec::new()));
        assert_eq!(sampler.take(Moment(2000), holds(), Traffic::default()).runners, None);
    }

    #[test]
    fn a_pretended_machine_leaves_out_what_others_used_at_the_start() {
        let tree = Copied::of("bare-metal");
        let mut sampler = Sampler::new(tree.root(), place(), Some(Bytes::gib(4)));
        let first = take(&mut sampler, Moment(0));
        let own = own_memory(first.runners.as_deref().unwrap());
        assert_eq!(first.ram, Some(Reading { capacity: Bytes::gib(4), used: own }));
        assert_eq!(first.host_use, Some(Permille(336)));
        // Another program takes a GiB.
        tree.edit("proc/meminfo", "MemAvailable: 20971520 kB", "MemAvailable: 19922944 kB");
        assert_eq!(take(&mut sampler, Moment(1000)).ram.unwrap().used, own + Bytes::gib(1));
        // More becomes free than others had not used at the start.
        tree.edit("proc/meminfo", "MemAvailable: 19922944 kB", "MemAvailable: 31000000 kB");
        tree.remove("proc/733");
        assert_eq!(take(&mut sampler, Moment(2000)).ram.unwrap().used, Bytes::ZERO);
    }

    /// A stand-in for a model server: 200 MB of its own, a mapped and read model file of 100 MB, a socket.
    const STAND_IN: &str = "
import mmap, socket, sys
own = bytearray(b'x') * 200_000_000
with open(sys.argv[1], 'wb') as file:
    file.write(b'y' * 100_000_000)
with open(sys.argv[1], 'rb') as file:
    weights = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
sum(weights[at] for at in range(0, len(weights), 4096))
listener = socket.create_server(('127.0.0.1', 0))
print(listener.getsockname()[1], flush=True)
sys.stdin.read()
";

    #[test]
    fn a_live_server_is_found_by_its_socket_and_its_memory_is_its_own() {
        use std::io::BufRead;
        use std::process::{Command, Stdio};

        // Not in /tmp: a file of a tmpfs is shared memory, not page cache.
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let file = directory.path().join("stand-in.gguf");
        let mut child = Command::new("python3")
            .args(["-c", STAND_IN])
            .arg(&file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the stand-in server is a python3 script");
        let mut line = String::new();
        std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        // No name is given, so that only the socket can lead to it.
        let place = ServerPlace::from_url(&format!("http://127.0.0.1:{}", line.trim()), &[]);
        let mut sampler = Sampler::new(Path::new("/"), place, None);
        let sample = take(&mut sampler, Moment(0));
        let server = sampler.runners().unwrap().server();
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(server, Some(child.id()));
        let (ram, runners) = (sample.ram.unwrap(), sample.runners.unwrap());
        let within = |amount: Bytes, about: u64| amount.0.abs_diff(about) * 20 < about;
        assert_eq!(runners.len(), 1);
        assert!(within(runners[0].anonymous, 205_000_000), "{runners:?}");
        assert!(within(hot_weights(&runners), 100_000_000), "{runners:?}");
        assert!(ram.used > own_memory(&runners), "{ram:?}");
        assert_eq!(take(&mut sampler, Moment(1000)).runners, Some(Vec::new()), "it has ended");
    }
}
