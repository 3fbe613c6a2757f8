//! Hog: amounts -> a process that holds just so much memory, and gives back the rest.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

use super::truth;

/// Holds what it is told to, a line at a time, in memory that it gives back at once when it is to hold less.
const PROGRAM: &str = "
import mmap, sys
print('ready', flush=True)
held = None
for line in sys.stdin:
    if held is not None:
        held.close()
    size = int(line)
    held = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) if size else None
    for at in range(0, size, 4096):
        held[at] = 1
    print('held', flush=True)
";

pub struct Hog {
    child: Child,
    lines: BufReader<ChildStdout>,
    at_start: u64,
}

impl Hog {
    pub fn start() -> Self {
        let mut child = Command::new("python3")
            .args(["-c", PROGRAM])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the process that takes memory is a python3 script");
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut hog = Hog { child, lines, at_start: 0 };
        hog.answer();
        hog
    }

    pub fn hold(&mut self, bytes: u64) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{bytes}").unwrap();
        self.answer();
    }

    /// What it holds beyond itself, as it shows.
    pub fn holds(&self) -> u64 {
        truth::resident(self.child.id()) - self.at_start
    }

    fn answer(&mut self) {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the process that takes memory has ended");
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
