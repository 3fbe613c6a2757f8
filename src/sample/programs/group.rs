//! Group: every process -> the program that it belongs to, as a person would close it, or none.
//!
//! Where a desktop has started it, its unit says. In a terminal it is the job: the highest process below the shell, so
//! that `make` has its compilers. A game is its own and not Steam's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::names;
use super::place::{Place, place};
use super::process::Process;

/// Users below this one are the system's.
const FIRST_PERSON: u32 = 1000;
/// How far parents are followed.
const DEPTH_MAX: usize = 64;

const SHELLS: [&str; 9] = ["bash", "sh", "dash", "zsh", "fish", "ksh", "tcsh", "nu", "pwsh"];

/// How the names of what belongs to the system or to the desktop begin, wherever it stands.
const SYSTEM: [&str; 77] = [
    "(sd-pam)",
    "Hyprland",
    "ModemManager",
    "NetworkManager",
    "Xorg",
    "Xwayland",
    "accounts-daemon",
    "agetty",
    "at-spi",
    "avahi",
    "baloo",
    "bluetoothd",
    "budgie-",
    "cinnamon",
    "colord",
    "containerd",
    "cron",
    "cups",
    "dbus-",
    "dconf-",
    "dockerd",
    "evolution-",
    "fwupd",
    "gdm",
    "geoclue",
    "gjs",
    "gnome-keyring",
    "gnome-panel",
    "gnome-session",
    "gnome-shell",
    "goa-",
    "gpg-agent",
    "gsd-",
    "gvfs",
    "ibus",
    "fcitx",
    "init",
    "kactivity",
    "kded",
    "kdeconnect",
    "kglobalaccel",
    "krunner",
    "ksmserver",
    "kwin_",
    "lightdm",
    "login",
    "marco",
    "mate-session",
    "mutter",
    "pipewire",
    "plasma",
    "polkit",
    "pulseaudio",
    "rtkit",
    "screen",
    "sddm",
    "snapd",
    "ssh-agent",
    "sshd",
    "startplasma",
    "sway",
    "systemd",
    "thermald",
    "tmux",
    "tracker-",
    "udisksd",
    "upowerd",
    "weston",
    "wireplumber",
    "wpa_supplicant",
    "xdg-",
    "xfce4-",
    "xfconfd",
    "xfdesktop",
    "xfwm4",
    "xinit",
    "xsettingsd",
];

/// A program and its processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub name: String,
    pub pids: BTreeSet<u32>,
}

/// Which process is whose, while groups are found.
struct Grouping<'a> {
    processes: &'a BTreeMap<u32, Process>,
    places: BTreeMap<u32, Place>,
    /// Ours, the server's, and what those live in.
    kept: &'a BTreeSet<u32>,
    our_user: u32,
}

/// What makes two processes one program.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    App(String),
    Container(String),
    Machine(String),
    /// A game, by the process with which Steam started it.
    Game(u32),
    /// By its highest process.
    Job(u32),
}

/// All programs that a person could close. `kept` are processes that are not to be closed: ours and the server's.
pub(super) fn groups(
    root: &Path,
    processes: &BTreeMap<u32, Process>,
    kept: &BTreeSet<u32>,
    our_user: u32,
) -> Vec<Group> {
    let places = processes.iter().map(|(pid, process)| (*pid, place(&process.cgroup))).collect();
    let grouping = Grouping { processes, places, kept, our_user };
    let mut keyed: BTreeMap<Key, BTreeSet<u32>> = BTreeMap::new();
    for process in processes.values() {
        if let Some(key) = grouping.key(process) {
            keyed.entry(key).or_default().insert(process.pid);
        }
    }
    let ours = grouping.untouchable();
    let mut named: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
    for (key, pids) in keyed.into_iter().filter(|(_, pids)| pids.is_disjoint(&ours)) {
        named.entry(grouping.name(root, &key, &pids)).or_default().extend(pids);
    }
    named.into_iter().map(|(name, pids)| Group { name, pids }).collect()
}

impl Grouping<'_> {
    fn key(&self, process: &Process) -> Option<Key> {
        if is_system(&process.name) {
            return None;
        }
        match self.places.get(&process.pid)? {
            Place::System => None,
            Place::Container(id) => Some(Key::Container(id.clone())),
            Place::Machine(name) => Some(Key::Machine(name.clone())),
            Place::App(id) => Some(self.game(process).or_else(|| self.job(process)).unwrap_or(Key::App(id.clone()))),
            Place::Session if process.user < FIRST_PERSON && process.user != self.our_user => None,
            Place::Session => self.game(process).or_else(|| self.job(process)).or_else(|| self.highest(process)),
        }
    }

    /// The game that a process belongs to: Steam puts `reaper SteamLaunch AppId=N` above each.
    fn game(&self, process: &Process) -> Option<Key> {
        let is_launch = |process: &&Process| process.arguments.iter().any(|argument| argument == "SteamLaunch");
        self.line(process).find(is_launch).map(|launch| Key::Game(launch.pid))
    }

    /// What somebody has started in a shell.
    fn job(&self, process: &Process) -> Option<Key> {
        let mut below = process;
        for above in self.line(process).skip(1) {
            if is_interactive_shell(above) {
                return Some(Key::Job(below.pid));
            }
            below = above;
        }
        None
    }

    /// The highest one of a line that ends at the system or at another user. A shell that people type into is none.
    fn highest(&self, process: &Process) -> Option<Key> {
        let of_same_user = |above: &&Process| above.user == process.user && !is_system(&above.name);
        let highest = self.line(process).take_while(of_same_user).last()?;
        (!is_interactive_shell(highest)).then_some(Key::Job(highest.pid))
    }

    /// A process, its parent, and so on, as far as they stand in the same place; what we have started is not us.
    fn line<'a>(&'a self, process: &'a Process) -> impl Iterator<Item = &'a Process> {
        let start = self.places.get(&process.pid);
        std::iter::successors(Some(process), move |process| {
            let parent = self.processes.get(&process.parent)?;
            let is_above = self.places.get(&parent.pid) == start && parent.pid > 1 && !self.kept.contains(&parent.pid);
            is_above.then_some(parent)
        })
        .take(DEPTH_MAX)
    }

    /// What must stay: our own processes and the server's, and everything that they were started by.
    fn untouchable(&self) -> BTreeSet<u32> {
        let above = |pid: &u32| {
            std::iter::successors(self.processes.get(pid), |process| self.processes.get(&process.parent))
                .take(DEPTH_MAX)
        };
        self.kept.iter().flat_map(above).map(|process| process.pid).chain(self.kept.iter().copied()).collect()
    }

    fn name(&self, root: &Path, key: &Key, pids: &BTreeSet<u32>) -> String {
        let process = |pid: &u32| self.processes.get(pid);
        let of = |pid: &u32| process(pid).map_or_else(String::new, |process| names::of_process(root, process));
        let largest = pids.iter().filter_map(process).max_by_key(|process| process.anonymous);
        let of_largest = || largest.map_or_else(String::new, |process| names::of_process(root, process));
        match key {
            Key::App(id) => names::of_app(root, id),
            Key::Machine(name) => name.clone(),
            Key::Container(id) => format!("{} ({})", of_largest(), &id[..12]),
            Key::Game(_) => pids.iter().filter_map(process).find_map(names::of_game).unwrap_or_else(of_largest),
            Key::Job(pid) => of(pid),
        }
    }
}

fn is_system(name: &str) -> bool {
    SYSTEM.iter().any(|head| name.starts_with(head))
}

/// A shell that leads a session with a terminal: what people type into.
fn is_interactive_shell(process: &Process) -> bool {
    process.has_terminal && process.session == process.pid && SHELLS.contains(&process.name.trim_start_matches('-'))
}
