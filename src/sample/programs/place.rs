//! Place: a path in the tree of cgroups -> what systemd, a desktop or a container runtime started there.
//!
//! Desktops start each program in a unit of its own and write its id into the unit's name
//! (<https://systemd.io/DESKTOP_ENVIRONMENTS>), which tells a browser's hundred processes from everything else better
//! than any list of names.

/// Where a process stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The machine's own, or the desktop's: nothing that a person would close.
    System,
    /// A program that a desktop started, by its id: `firefox`, `org.mozilla.firefox`.
    App(String),
    /// A container, by its id.
    Container(String),
    /// A virtual machine, by its name.
    Machine(String),
    /// A login or a terminal: what it is must be known from the processes themselves. So it is where there is no systemd.
    Session,
}

/// The place that a path stands for.
pub(super) fn place(path: &str) -> Place {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    if let Some(id) = parts.iter().find_map(|part| container(part)) {
        return Place::Container(id.to_owned());
    }
    match parts.as_slice() {
        ["machine.slice", unit, ..] => Place::Machine(machine(unit)),
        ["system.slice" | "init.scope", ..] => Place::System,
        ["user.slice", _, manager, below @ ..] if manager.starts_with("user@") => of_user(below),
        _ => Place::Session,
    }
}

/// Below the manager of a user's units.
fn of_user(parts: &[&str]) -> Place {
    if let Some(id) = parts.iter().rev().find_map(|part| app(part)) {
        return Place::App(id);
    }
    let is_terminal = |part: &&str| {
        part.ends_with(".scope") && ["vte-spawn-", "tmux-spawn-", "run-"].iter().any(|head| part.starts_with(head))
    };
    // The rest are services: of the desktop, or of somebody who will know.
    if parts.iter().any(is_terminal) { Place::Session } else { Place::System }
}

/// The id of an application in the name of its unit: `app[-LAUNCHER]-ID-RANDOM.scope`, `app[-LAUNCHER]-ID[@RANDOM].service`,
/// with `-` in an id written as `\x2d`; `snap.NAME.APP-RANDOM.scope`; and what desktops wrote before there was a rule.
fn app(unit: &str) -> Option<String> {
    let (name, kind) = unit.rsplit_once('.')?;
    if let Some(rest) = name.strip_prefix("snap.") {
        return rest.split('.').next().map(unescaped);
    }
    let earlier = ["gnome-launched-", "flatpak-"].iter().find_map(|head| name.strip_prefix(head));
    let rest = name.strip_prefix("app-").or(earlier)?;
    let rest = match kind {
        "scope" => rest.rsplit_once('-')?.0,
        "service" => rest.split('@').next()?,
        _ => return None,
    };
    let id = unescaped(rest.rsplit('-').next()?);
    Some(id.strip_suffix(".desktop").map(str::to_owned).unwrap_or(id))
}

/// The id of a container: of Docker, Podman, or a runtime of Kubernetes, with the cgroup driver of systemd or without.
fn container(part: &str) -> Option<&str> {
    let name = part.strip_suffix(".scope").unwrap_or(part);
    let id = name.rsplit('-').next()?;
    (id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

/// `machine-qemu\x2d1\x2dwin10.scope`
fn machine(unit: &str) -> String {
    let name = unescaped(unit.trim_start_matches("machine-").trim_end_matches(".scope"));
    let without_driver =
        name.split_once('-').and_then(|(_, rest)| rest.split_once('-')).map(|(_, name)| name.to_owned());
    without_driver.unwrap_or(name)
}

/// systemd's `\x2d` is a `-`.
fn unescaped(name: &str) -> String {
    let mut parts = name.split("\\x");
    let mut written = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..2).and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(code) => {
                written.push(char::from(code));
                written.push_str(&part[2..]);
            }
            None => written.extend(["\\x", part]),
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_desktop_starts_is_known_by_its_unit() {
        let below = "/user.slice/user-1000.slice/user@1000.service";
        let apps = [
            ("app.slice/app-gnome-firefox-4218.scope", "firefox"),
            ("app.slice/app-gnome-google\\x2dchrome-3901.scope", "google-chrome"),
            ("app.slice/app-flatpak-org.mozilla.firefox-12345.scope", "org.mozilla.firefox"),
            ("app.slice/app-org.kde.dolphin@a1b2c3.service", "org.kde.dolphin"),
            ("app.slice/app-steam@6f1e.service", "steam"),
            ("app.slice/snap.spotify.spotify-0f1b2c3d.scope", "spotify"),
            ("gnome-launched-org.gnome.Nautilus.desktop-2210.scope", "org.gnome.Nautilus"),
            ("flatpak-com.valvesoftware.Steam-991.scope", "com.valvesoftware.Steam"),
        ];
        for (unit, id) in apps {
            assert_eq!(place(&format!("{below}/{unit}")), Place::App(id.to_owned()), "{unit}");
        }
    }

    #[test]
    fn the_system_and_the_desktop_are_nothing_to_close() {
        let below = "/user.slice/user-1000.slice/user@1000.service";
        let system = [
            "/init.scope".to_owned(),
            "/system.slice/docker.service".to_owned(),
            format!("{below}/session.slice/org.gnome.Shell@wayland.service"),
            format!("{below}/session.slice/pipewire.service"),
            format!("{below}/background.slice/tracker-miner-fs-3.service"),
            format!("{below}/app.slice/xdg-desktop-portal.service"),
            format!("{below}/init.scope"),
        ];
        for path in system {
            assert_eq!(place(&path), Place::System, "{path}");
        }
    }

    #[test]
    fn containers_machines_and_terminals_are_told_apart() {
        let id = "3f4e".repeat(16);
        for path in [
            format!("/system.slice/docker-{id}.scope"),
            format!("/docker/{id}"),
            format!("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{id}.scope/container"),
            format!("/kubepods.slice/kubepods-burstable.slice/cri-containerd-{id}.scope"),
        ] {
            assert_eq!(place(&path), Place::Container(id.clone()), "{path}");
        }
        let machine = "/machine.slice/machine-qemu\\x2d1\\x2dwin10.scope/libvirt/emulator";
        assert_eq!(place(machine), Place::Machine("win10".to_owned()));
        let terminal = "/user.slice/user-1000.slice/user@1000.service/app.slice/\
            app-org.gnome.Terminal.slice/vte-spawn-8a5e.scope";
        for path in [terminal, "/user.slice/user-1000.slice/session-2.scope", "/", ""] {
            assert_eq!(place(path), Place::Session, "{path}");
        }
    }
}
