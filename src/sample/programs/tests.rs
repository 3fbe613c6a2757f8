//! Trees of /proc as real desktops, terminals and servers have them -> the programs that are named, and how large.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::*;

const USER: &str = "/user.slice/user-1000.slice/user@1000.service";

/// One process of a tree.
#[derive(Clone, Default)]
struct Made {
    pid: u32,
    parent: u32,
    session: u32,
    terminal: u32,
    user: u32,
    name: String,
    program: String,
    arguments: Vec<String>,
    cgroup: String,
    anonymous_mib: u64,
    shared_mib: u64,
    /// The kernel's division, where we may read it.
    divided_mib: Option<(u64, u64)>,
}

/// A process of a person, that may be read.
fn made(pid: u32, parent: u32, program: &str, cgroup: &str, mib: u64) -> Made {
    let name: String = program.rsplit('/').next().unwrap().chars().take(15).collect();
    Made {
        pid,
        parent,
        session: parent,
        user: 1000,
        name,
        program: program.to_owned(),
        arguments: vec![program.to_owned()],
        cgroup: cgroup.to_owned(),
        anonymous_mib: mib,
        divided_mib: Some((mib, 0)),
        ..Made::default()
    }
}

impl Made {
    fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments = arguments.iter().map(|one| (*one).to_owned()).collect();
        self
    }

    fn in_terminal(mut self, session: u32) -> Self {
        (self.session, self.terminal) = (session, 34_816);
        self
    }

    fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    fn of_user(mut self, user: u32) -> Self {
        self.user = user;
        self
    }

    /// Of another user, or made unreadable by its sandbox.
    fn hidden(mut self) -> Self {
        self.divided_mib = None;
        self
    }

    fn sharing(mut self, mib: u64, divided: u64) -> Self {
        self.shared_mib = mib;
        self.divided_mib = self.divided_mib.map(|(alone, _)| (alone, divided));
        self
    }

    fn write(&self, root: &Path) {
        let folder = root.join(format!("proc/{}", self.pid));
        fs::create_dir_all(&folder).unwrap();
        let Made { pid, parent, session, terminal, user, name, .. } = self;
        let rest = "-1 4194304 0 0 0 0 0 0 0 0 20 0 1 0 100 0 0 18446744073709551615 0 0 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0";
        let stat = format!("{pid} ({name}) S {parent} {pid} {session} {terminal} {rest}\n");
        fs::write(folder.join("stat"), stat).unwrap();
        let (anonymous, shared) = (self.anonymous_mib * 1024, self.shared_mib * 1024);
        let status = fs::read_to_string(crate::sample::fixture::fixture("bare-metal").join("proc/733/status"));
        let status: Vec<String> = status
            .unwrap()
            .lines()
            .map(|line| match line.split(':').next().unwrap() {
                "Name" => format!("Name:\t{name}"),
                "Pid" => format!("Pid:\t{pid}"),
                "Uid" => format!("Uid:\t{user}\t{user}\t{user}\t{user}"),
                "RssAnon" => format!("RssAnon:\t{anonymous} kB"),
                "RssShmem" => format!("RssShmem:\t{shared} kB"),
                _ => line.to_owned(),
            })
            .collect();
        fs::write(folder.join("status"), status.join("\n") + "\n").unwrap();
        fs::write(folder.join("cgroup"), format!("0::{}\n", self.cgroup)).unwrap();
        fs::write(folder.join("cmdline"), self.arguments.join("\0") + "\0").unwrap();
        std::os::unix::fs::symlink(&self.program, folder.join("exe")).unwrap();
        if let Some((anonymous, shared)) = self.divided_mib {
            let part = |name: &str, mib: u64| format!("{name}: {} kB\n", mib * 1024);
            let rollup = ["Rss", "Pss", "Pss_Anon", "Pss_File", "Pss_Shmem"].map(|name| match name {
                "Pss_Anon" => part(name, anonymous),
                "Pss_Shmem" => part(name, shared),
                _ => part(name, anonymous + shared + 300),
            });
            let head = "55d0c0000000-7ffd00000000 ---p 00000000 00:00 0                          [rollup]\n";
            fs::write(folder.join("smaps_rollup"), format!("{head}{}", rollup.concat())).unwrap();
        }
    }
}

fn tree(processes: &[Made]) -> TempDir {
    let root = TempDir::new().unwrap();
    let proc = root.path().join("proc");
    fs::create_dir_all(proc.join("self")).unwrap();
    let ours = crate::sample::fixture::fixture("bare-metal").join("proc/733/status");
    let ours = fs::read_to_string(ours).unwrap();
    let ours: Vec<&str> =
        ours.lines().map(|line| if line.starts_with("Uid:") { "Uid:\t1000\t1000\t1000\t1000" } else { line }).collect();
    fs::write(proc.join("self/status"), ours.join("\n") + "\n").unwrap();
    processes.iter().for_each(|process| process.write(root.path()));
    root
}

/// (name, MiB that closing it frees), the largest first
fn named(root: &TempDir, kept: &[u32]) -> Vec<(String, u64)> {
    let kept: BTreeSet<u32> = kept.iter().copied().collect();
    let found = programs(root.path(), &kept, &Holders::default());
    found.into_iter().map(|program| (program.name, program.memory.0 >> 20)).collect()
}

fn expected(programs: &[(&str, u64)]) -> Vec<(String, u64)> {
    programs.iter().map(|(name, mib)| ((*name).to_owned(), *mib)).collect()
}

/// What runs beside everything on a desktop, and must never be named.
fn desktop() -> Vec<Made> {
    let shell = format!("{USER}/session.slice/org.gnome.Shell@wayland.service");
    let files = format!("{USER}/background.slice/tracker-miner-fs-3.service");
    vec![
        made(1, 0, "/usr/lib/systemd/systemd", "/init.scope", 900).of_user(0),
        made(2, 0, "/kthreadd", "/", 0).of_user(0),
        made(50, 2, "/kworker", "/", 4000).of_user(0),
        made(600, 1, "/usr/sbin/mysqld", "/system.slice/mysql.service", 3000).of_user(110),
        made(700, 1, "/usr/bin/dockerd", "/system.slice/docker.service", 900).of_user(0),
        made(1000, 1, "/usr/lib/systemd/systemd", &format!("{USER}/init.scope"), 300),
        made(1100, 1000, "/usr/bin/gnome-shell", &shell, 1500),
        made(1200, 1000, "/usr/libexec/tracker-miner-fs-3", &files, 1200),
        made(1300, 1000, "/usr/bin/Xwayland", &shell, 700),
    ]
}

fn with_desktop(more: Vec<Made>) -> TempDir {
    tree(&[desktop(), more].concat())
}

#[test]
fn firefox_with_all_its_processes_is_one_and_the_desktop_is_never_named() {
    let scope = format!("{USER}/app.slice/app-gnome-firefox-4218.scope");
    let mut firefox = vec![made(4218, 1100, "/usr/lib/firefox/firefox", &scope, 700)];
    let contents =
        (0..9).map(|at| made(4300 + at, 4218, "/usr/lib/firefox/firefox", &scope, 250).named("Isolated Web Co"));
    firefox.extend(contents);
    assert_eq!(named(&with_desktop(firefox), &[]), expected(&[("Firefox", 700 + 9 * 250)]));
}

#[test]
fn what_chromes_renderers_share_is_counted_once_whether_or_not_the_kernel_may_be_asked() {
    let scope = format!("{USER}/app.slice/app-gnome-google\\x2dchrome-3901.scope");
    let chrome = "/opt/google/chrome/chrome";
    let renderers = |hidden: bool| {
        let one = |at: u32| made(4000 + at, 3950, chrome, &scope, 100).sharing(400, 20);
        let renderers = (0..20).map(|at| if hidden { one(at).hidden() } else { one(at) });
        let browser = made(3901, 1100, chrome, &scope, 500).sharing(400, 20);
        [browser, made(3950, 3901, chrome, &scope, 10)].into_iter().chain(renderers).collect::<Vec<Made>>()
    };
    // 20 renderers and the browser at a twentieth each.
    assert_eq!(named(&with_desktop(renderers(false)), &[]), expected(&[("Google Chrome", 510 + 2000 + 21 * 20)]));
    // A sandboxed renderer cannot be asked: then it is what each has alone, and the largest share once.
    assert_eq!(named(&with_desktop(renderers(true)), &[]), expected(&[("Google Chrome", 510 + 20 + 2000 + 400)]));
}

#[test]
fn a_game_under_proton_is_its_own_and_not_steams() {
    let scope = format!("{USER}/app.slice/app-gnome-steam-5000.scope");
    let common = "/home/u/.local/share/Steam/steamapps/common";
    let game = "Z:\\home\\u\\.local\\share\\Steam\\steamapps\\common\\Cyberpunk 2077\\bin\\x64\\Cyberpunk2077.exe";
    let proton = format!("{common}/Proton 9.0/proton");
    let launch = format!("{common}/Cyberpunk 2077/bin/x64/Cyberpunk2077.exe");
    let reaper = [
        "/home/u/.steam/ubuntu12_32/reaper",
        "SteamLaunch",
        "AppId=1091500",
        "--",
        &proton,
        "waitforexitandrun",
        &launch,
    ];
    let processes = vec![
        made(5000, 1100, "/home/u/.steam/ubuntu12_32/steam", &scope, 250),
        made(5010, 5000, "/home/u/.steam/ubuntu12_64/steamwebhelper", &scope, 400),
        made(5100, 5000, reaper[0], &scope, 1).arguments(&reaper),
        made(5200, 5100, &format!("{common}/Proton 9.0/files/bin/wineserver"), &scope, 80),
        made(5300, 5100, &format!("{common}/Proton 9.0/files/bin/wine64-preloader"), &scope, 6000)
            .named("Cyberpunk2077.e")
            .arguments(&[game]),
    ];
    assert_eq!(named(&with_desktop(processes), &[]), expected(&[("Cyberpunk 2077", 6081), ("Steam", 650)]));
}

#[test]
fn a_build_in_a_terminal_is_the_job_and_not_a_hundred_compilers_nor_the_terminal() {
    let service = format!("{USER}/app.slice/gnome-terminal-server.service");
    let spawned = format!("{USER}/app.slice/app-org.gnome.Terminal.slice/vte-spawn-8a5e.scope");
    let mut processes = vec![
        made(6000, 1000, "/usr/libexec/gnome-terminal-server", &service, 120),
        made(6010, 6000, "/usr/bin/bash", &spawned, 5).in_terminal(6010),
        made(6020, 6010, "/usr/bin/make", &spawned, 8).in_terminal(6010),
        made(6100, 6010, "/usr/bin/python3.12", &spawned, 900).in_terminal(6010).arguments(&[
            "python3",
            "-u",
            "/home/u/train.py",
        ]),
    ];
    for at in 0..40 {
        let shell = made(6200 + 3 * at, 6020, "/usr/bin/dash", &spawned, 1).in_terminal(6010).named("sh");
        let driver = made(6201 + 3 * at, shell.pid, "/usr/bin/g++", &spawned, 2).in_terminal(6010);
        let compiler = made(6202 + 3 * at, driver.pid, "/usr/libexec/gcc/cc1plus", &spawned, 500).in_terminal(6010);
        processes.extend([shell, driver, compiler]);
    }
    assert_eq!(named(&with_desktop(processes), &[]), expected(&[("make", 8 + 40 * 503), ("train.py", 900)]));
}

#[test]
fn what_runs_in_the_terminal_of_an_editor_is_not_the_editor() {
    let scope = format!("{USER}/app.slice/app-gnome-code-7000.scope");
    let processes = vec![
        made(7000, 1100, "/usr/share/code/code", &scope, 800),
        made(7010, 7000, "/usr/share/code/code", &scope, 600),
        made(7020, 7010, "/usr/bin/zsh", &scope, 6).in_terminal(7020),
        made(7030, 7020, "/home/u/.cargo/bin/cargo", &scope, 100).in_terminal(7020),
        made(7040, 7030, "/home/u/.rustup/bin/rustc", &scope, 2500).in_terminal(7020),
    ];
    assert_eq!(named(&with_desktop(processes), &[]), expected(&[("cargo", 2600), ("Visual Studio Code", 1406)]));
}

#[test]
fn containers_and_virtual_machines_are_named_and_one_that_holds_the_server_is_not() {
    let scope = |digit: &str| format!("/system.slice/docker-{}.scope", digit.repeat(64));
    let machine = "/machine.slice/machine-qemu\\x2d3\\x2dwin11.scope/libvirt/emulator";
    let processes = vec![
        made(8000, 1, "/usr/local/bin/postgres", &scope("a"), 700).of_user(999).hidden(),
        made(8001, 8000, "/usr/local/bin/postgres", &scope("a"), 300).of_user(999).hidden(),
        made(8100, 1, "/bin/ollama", &scope("b"), 200).of_user(0).hidden(),
        made(8101, 8100, "/bin/ollama", &scope("b"), 5000).of_user(0).hidden(),
        made(8200, 1, "/usr/bin/qemu-system-x86_64", machine, 4096).of_user(64055).hidden(),
    ];
    let found = named(&with_desktop(processes), &[8101]);
    assert_eq!(found, expected(&[("win11", 4096), ("postgres (aaaaaaaaaaaa)", 1000)]));
}

#[test]
fn without_units_of_a_desktop_it_goes_by_parents_and_daemons_stay() {
    let session = "/user.slice/user-1000.slice/session-2.scope";
    let processes = vec![
        made(3000, 1, "/usr/bin/xfce4-session", session, 90),
        made(3010, 3000, "/usr/bin/xfwm4", session, 200),
        made(3020, 3000, "/usr/lib/thunderbird/thunderbird-bin", session, 900),
        made(3030, 3020, "/usr/lib/thunderbird/thunderbird-bin", session, 300).named("Web Content"),
        made(3040, 1, "/usr/bin/redis-server", "/", 800).of_user(120),
    ];
    assert_eq!(named(&tree(&processes), &[]), expected(&[("Thunderbird", 1200)]));
}

#[test]
fn what_we_and_the_server_were_started_by_is_left_open_and_what_we_have_started_is_not() {
    let spawned = format!("{USER}/app.slice/app-org.gnome.Terminal.slice/vte-spawn-8a5e.scope");
    let processes = vec![
        made(6010, 1000, "/usr/bin/bash", &spawned, 5).in_terminal(6010),
        made(6020, 6010, "/home/u/start-all", &spawned, 500).in_terminal(6010),
        made(6030, 6020, "/usr/bin/tierkeeper", &spawned, 90).in_terminal(6010),
        made(6040, 6020, "/home/u/other", &spawned, 700).in_terminal(6010),
        made(6050, 6010, "/home/u/hog", &spawned, 200).in_terminal(6010),
        made(6060, 6030, "/home/u/game", &spawned, 300).in_terminal(6010),
    ];
    assert_eq!(named(&with_desktop(processes), &[6030]), expected(&[("game", 300), ("hog", 200)]));
}

#[test]
fn an_application_is_called_as_its_desktop_file_says() {
    let scope = format!("{USER}/app.slice/app-flatpak-org.inkscape.Inkscape-77.scope");
    let root = with_desktop(vec![made(77, 1000, "/app/bin/inkscape", &scope, 600)]);
    assert_eq!(named(&root, &[]), expected(&[("Inkscape", 600)]));
    let folder = root.path().join("var/lib/flatpak/exports/share/applications");
    fs::create_dir_all(&folder).unwrap();
    let text = "[Desktop Entry]\nName[de]=Tintenflasche\nName=Ink and Scape\n[Desktop Action new]\nName=New\n";
    fs::write(folder.join("org.inkscape.Inkscape.desktop"), text).unwrap();
    assert_eq!(named(&root, &[]), expected(&[("Ink and Scape", 600)]));
}

#[test]
fn a_real_program_is_found_with_what_it_really_holds() {
    // Not a child of ours, for what we are started by is left open: its shell ends at once.
    let folder = TempDir::new().unwrap();
    let (program, pid_file) = (folder.path().join("memory-hog"), folder.path().join("pid"));
    let script =
        "x = b'\\x01' * (200 << 20)\nimport os, time\nopen(PID, 'w').write(str(os.getpid()))\ntime.sleep(60)\n";
    fs::write(&program, script.replace("PID", &format!("{:?}", pid_file.display().to_string()))).unwrap();
    let command = format!("setsid python3 {} >/dev/null 2>&1 &", program.display());
    assert!(std::process::Command::new("sh").args(["-c", &command]).status().unwrap().success());
    let started = (0..1000).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::read_to_string(&pid_file).ok().and_then(|text| text.parse().ok())
    });
    let pid: u32 = started.expect("it starts within 20 seconds");
    let processes = all(Path::new("/proc"));
    let (mine, ours) = (BTreeSet::from([pid]), processes[&pid].clone());
    let found = groups(Path::new("/"), &processes, &BTreeSet::new(), ours.user);
    let group = found.iter().find(|group| group.pids.contains(&pid)).expect("it belongs to a program");
    let held = divided(Path::new("/proc"), &processes, &mine);
    std::process::Command::new("kill").arg(pid.to_string()).status().unwrap();
    if group.pids == mine {
        assert_eq!(group.name, "memory-hog");
    }
    assert!((Bytes::mib(200)..Bytes::mib(230)).contains(&held), "{held} of {ours:?}");
}
