//! Process: the files of one process -> what it is, whose it is, and what it alone holds.

use std::path::{Path, PathBuf};

use procfs::FromRead;
use procfs::process::{SmapsRollup, Stat, Status};

use crate::units::Bytes;

/// How much of a command line is looked at.
const ARGUMENTS_MAX: usize = 32;
const KERNEL_THREADS: i32 = 2;

/// One process of somebody, as far as it may be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub pid: u32,
    pub parent: u32,
    /// The process that leads its session: the shell, for what was started in a terminal.
    pub session: u32,
    pub has_terminal: bool,
    pub user: u32,
    /// The kernel's name for it, of 15 bytes at most.
    pub name: String,
    /// Absent where we may not ask.
    pub program: Option<PathBuf>,
    pub arguments: Vec<String>,
    /// Where it stands in the unified tree of cgroups, or in systemd's own of version 1.
    pub cgroup: String,
    pub anonymous: Bytes,
    pub shared: Bytes,
}

/// Reads what is cheap to read. `None` for one that has ended, and for the kernel's own.
pub(super) fn read(proc: &Path, pid: u32) -> Option<Process> {
    let folder = proc.join(pid.to_string());
    let status = Status::from_file(folder.join("status")).ok()?;
    // Only what has memory of its own has this line.
    let anonymous = kib(status.rssanon?);
    let stat = Stat::from_file(folder.join("stat")).ok()?;
    if stat.ppid == KERNEL_THREADS {
        return None;
    }
    let cgroup = std::fs::read_to_string(folder.join("cgroup")).unwrap_or_default();
    let arguments = std::fs::read(folder.join("cmdline")).unwrap_or_default();
    let arguments = arguments.split(|byte| *byte == 0).filter(|one| !one.is_empty()).take(ARGUMENTS_MAX);
    Some(Process {
        pid,
        parent: u32::try_from(stat.ppid).unwrap_or(0),
        session: u32::try_from(stat.session).unwrap_or(0),
        has_terminal: stat.tty_nr != 0,
        user: status.ruid,
        name: status.name,
        program: std::fs::read_link(folder.join("exe")).ok(),
        arguments: arguments.map(|one| String::from_utf8_lossy(one).into_owned()).collect(),
        cgroup: systemd_path(&cgroup).to_owned(),
        anonymous,
        shared: kib(status.rssshmem.unwrap_or(0)),
    })
}

/// What goes when the process goes: its anonymous and shared pages, each divided by how many hold it. Pages of files are
/// left out, for the kernel counts most of them as free to take already. `None` where it may not be read.
pub(super) fn proportional(proc: &Path, pid: u32) -> Option<Bytes> {
    let rollup = SmapsRollup::from_file(proc.join(format!("{pid}/smaps_rollup"))).ok()?;
    let map = rollup.memory_map_rollup.0.into_iter().next()?.extension.map;
    // procfs gives bytes.
    let part = |name: &str| map.get(name).copied();
    Some(Bytes(part("Pss_Anon")?.saturating_add(part("Pss_Shmem")?)))
}

fn kib(amount: u64) -> Bytes {
    Bytes(amount.saturating_mul(1024))
}

/// The line of version 2 (`0::/…`), or systemd's named one of version 1 when the first says nothing.
fn systemd_path(text: &str) -> &str {
    let paths = text.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        Some((parts.next()?, parts.next()?, parts.next().filter(|path| path.len() > 1)?))
    });
    let unified = paths.clone().find(|(number, controllers, _)| *number == "0" && controllers.is_empty());
    let named = || paths.clone().find(|(_, controllers, _)| *controllers == "name=systemd");
    unified.or_else(named).map_or("", |(.., path)| path)
}
