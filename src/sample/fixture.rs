//! Fixture: the name of a tree under tests/fixtures/proc -> its path, or a copy of it that a test may change.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/proc").join(name)
}

/// A copy of a fixture; it lives as long as this value.
pub(crate) struct Copied(TempDir);

impl Copied {
    pub fn of(name: &str) -> Self {
        let copy = Copied(TempDir::new().unwrap());
        copy_tree(&fixture(name), copy.root());
        copy
    }

    pub fn root(&self) -> &Path {
        self.0.path()
    }

    /// Replaces one text by another in a file, where it must stand.
    pub fn edit(&self, path: &str, from: &str, to: &str) {
        let path = self.root().join(path);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "`{from}` is not in {}", path.display());
        fs::write(&path, text.replace(from, to)).unwrap();
    }

    pub fn remove(&self, path: &str) {
        let path = self.root().join(path);
        if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
    }

    /// Makes a process of another that is there: its stat, with another pid, name and parent.
    pub fn fork(&self, from: u32, pid: u32, parent: u32) {
        let directory = self.root().join("proc").join(pid.to_string());
        copy_tree(&self.root().join("proc").join(from.to_string()), &directory);
        let stat = fs::read_to_string(directory.join("stat")).unwrap();
        let (head, tail) = stat.rsplit_once(") ").unwrap();
        let name = head.split_once('(').unwrap().1;
        let mut fields: Vec<&str> = tail.split(' ').collect();
        let parent = parent.to_string();
        fields[1] = &parent;
        fs::write(directory.join("stat"), format!("{pid} ({name}) {}", fields.join(" "))).unwrap();
    }
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            copy_tree(&entry.path(), &target);
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(entry.path()).unwrap(), target).unwrap();
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
