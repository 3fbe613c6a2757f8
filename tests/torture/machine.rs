//! Machine: where and of what a run is -> one line for its log.

use std::process::Command;

/// The commit, the processors, the memory and the kernel, as far as they can be told.
pub fn line() -> String {
    let git = |arguments: &[&str]| {
        let folder = env!("CARGO_MANIFEST_DIR");
        let ran =
            Command::new("git").arg("-C").arg(folder).args(arguments).output().ok().filter(|ran| ran.status.success());
        ran.map(|ran| String::from_utf8_lossy(&ran.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or("unknown".to_owned());
    let changed = git(&["status", "--porcelain"]).is_some_and(|changed| !changed.is_empty());
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let (cpus, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
    let of = |text: &str, key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.map_or("unknown", |line| line.trim_start_matches([' ', '\t', ':'])).trim().to_owned()
    };
    format!(
        "commit {commit}{}; {} processors: {}; memory: {}; Linux {}",
        if changed { " with changes" } else { "" },
        cpus.lines().filter(|line| line.starts_with("processor")).count(),
        of(&cpus, "model name"),
        of(&memory, "MemTotal:"),
        read("/proc/sys/kernel/osrelease").trim(),
    )
}
