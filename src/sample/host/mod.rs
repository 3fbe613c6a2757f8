//! Host: the kernel's own files under a root path -> memory, pressure, cgroups, and what kind of machine this is.
//!
//! A file that is not there (`Ok(None)`), a file that says nonsense (an error) and a count of zero are three different
//! answers: the first is a machine without that signal, the second is no reading, only the third is a calm machine.
//!
//! Files of the shape `name number` are looked up by name here and not parsed whole by procfs: its `Meminfo` asks for
//! twenty lines that sandboxes such as gVisor do not write, where a few are needed.

pub mod memory;
pub mod arc;
pub mod zones;
pub mod stall;
pub mod vmstat;
pub mod thrash;
pub mod work;
pub mod cpu;
pub mod pressure;
pub mod cgroup;
pub mod machine;
pub mod view;

use std::io;
use std::path::{Path, PathBuf};

/// Why a file gave no reading although it is there.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("could not read `{}`: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("`{}` does not say what it should: {what}", path.display())]
    Content { path: PathBuf, what: String },
}

/// The number on the line that begins with this name: `MemTotal:  123 kB`, `pswpin 0`.
fn counter(text: &str, name: &str) -> Option<u64> {
    let mut words = text.lines().filter(|line| line.starts_with(name)).map(str::split_whitespace);
    let mut words = words.find_map(|mut words| {
        let first = words.next()?;
        (first.strip_suffix(':').unwrap_or(first) == name).then_some(words)
    })?;
    words.next()?.parse().ok()
}

/// `None` when the file is not there, or when the kernel has the file but was told not to keep the count (`psi=0`).
fn read(path: &Path) -> Result<Option<String>, HostError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(source) if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::Unsupported) => Ok(None),
        Err(source) => Err(HostError::Read { path: path.to_owned(), source }),
    }
}
