//! View: marks under a root path -> whose memory it is that the kernel tells of here.

use std::path::Path;

use procfs::{FromRead, MountEntry};

use super::read;

/// Whose memory it is that `/proc/meminfo` tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// The machine's, seen from the machine.
    Machine,
    /// The machine's, seen from a container.
    Container,
    /// That of a system container, as LXCFS makes it up.
    Lxcfs,
    /// That of the virtual machine of WSL.
    Wsl,
    /// That of the virtual machine of Docker Desktop.
    DockerDesktop,
}

impl View {
    /// For the start message.
    pub fn sentence(self) -> &'static str {
        match self {
            View::Machine => "The memory seen is the whole machine's.",
            View::Container => "This is a container; the memory seen is the whole machine's.",
            View::Lxcfs => "The memory seen is this system container's share (LXCFS), not the whole machine's.",
            View::Wsl => "This is WSL: only the memory of its virtual machine is seen, not what Windows uses.",
            View::DockerDesktop => {
                "This is Docker Desktop: only the memory of its virtual machine is seen, not the rest of the computer."
            }
        }
    }
}

/// What is seen from here; a plain machine where nothing says otherwise.
pub fn view(root: &Path) -> View {
    let mounts = Vec::<MountEntry>::from_file(root.join("proc/mounts")).unwrap_or_default();
    if mounts.iter().any(|mount| mount.fs_file == "/proc/meminfo" && mount.fs_vfstype.starts_with("fuse.lxcfs")) {
        return View::Lxcfs;
    }
    let kernel = read(&root.join("proc/sys/kernel/osrelease")).ok().flatten().unwrap_or_default().to_lowercase();
    if kernel.contains("microsoft") {
        return View::Wsl;
    }
    if kernel.contains("linuxkit") {
        return View::DockerDesktop;
    }
    let marked = [".dockerenv", "run/.containerenv"].iter().any(|mark| root.join(mark).exists());
    // Kubernetes leaves no mark, but the root of every image is an overlay.
    let layered = mounts.iter().any(|mount| mount.fs_file == "/" && mount.fs_vfstype == "overlay");
    if marked || layered { View::Container } else { View::Machine }
}

#[cfg(test)]
mod tests {
    use super::super::super::fixture::fixture;
    use super::*;

    #[test]
    fn what_is_seen_from_here_is_told_apart() {
        for (name, seen) in [
            ("bare-metal", View::Machine),
            ("container-alone", View::Container),
            ("container-shared-pids", View::Container),
            ("lxcfs", View::Lxcfs),
            ("wsl", View::Wsl),
            ("docker-desktop", View::DockerDesktop),
            ("quota-v1", View::Container),
            ("gvisor", View::Machine),
        ] {
            assert_eq!(view(&fixture(name)), seen, "{name}");
        }
    }
}
