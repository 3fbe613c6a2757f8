//! A fake of NVIDIA's library: a scenario -> a library of its own in a folder of its own, that answers by it.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

#[derive(Debug)]
pub(crate) struct FakeNvml {
    folder: TempDir,
}

impl FakeNvml {
    /// Builds it. Each is a file of its own: the loader takes two names of one file for one library.
    pub(crate) fn with(scenario: &str) -> Self {
        let fake = FakeNvml { folder: tempfile::tempdir().unwrap() };
        fake.becomes(scenario);
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/fake_nvml/nvml.c");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .args([fake.library(), source])
            .arg("-ldl")
            .output()
            .expect("a C compiler is what the linker is found by, too");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        fake
    }

    pub(crate) fn library(&self) -> PathBuf {
        self.folder.path().join("libnvidia-ml.so.1")
    }

    /// From the next call on. A file takes the other's place, so that no call sees half of one.
    pub(crate) fn becomes(&self, scenario: &str) {
        let new = self.folder.path().join("scenario.new");
        std::fs::write(&new, scenario).unwrap();
        std::fs::rename(new, self.folder.path().join("scenario")).unwrap();
    }

    pub(crate) fn is_hanging(&self) -> bool {
        self.folder.path().join("hanging").exists()
    }

    /// Whether it was ever called while it was being called.
    pub(crate) fn was_crowded(&self) -> bool {
        self.folder.path().join("crowded").exists()
    }
}
