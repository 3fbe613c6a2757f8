//! Hog: amounts -> a process that holds just so much memory, and gives back the rest.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread;

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
    lines: Receiver<String>,
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
        let read = BufReader::new(child.stdout.take().unwrap()).lines();
        let (tell, lines) = mpsc::channel();
        // It ends with the process.
        thread::spawn(move || read.map_while(Result::ok).try_for_each(|line| tell.send(line)));
        let mut hog = Hog { child, lines, at_start: 0 };
        hog.answer();
        hog.at_start = truth::resident(hog.child.id());
        hog
    }

    /// Tells it to hold so much, and waits until it does.
    pub fn hold(&mut self, bytes: u64) {
        self.is_to_hold(bytes);
        self.answer();
    }

    /// Tells it to hold so much, which takes it a while.
    pub fn is_to_hold(&mut self, bytes: u64) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{bytes}").unwrap();
    }

    /// Whether it has done what it was told last; to be asked until it has.
    pub fn has_done(&mut self) -> bool {
        match self.lines.try_recv() {
            Ok(_) => true,
            Err(TryRecvError::Empty) => false,
            Err(TryRecvError::Disconnected) => panic!("the process that takes memory has ended"),
        }
    }

    /// What it holds beyond itself, as it shows.
    pub fn holds(&self) -> u64 {
        truth::resident(self.child.id()) - self.at_start
    }

    fn answer(&mut self) {
        self.lines.recv().expect("the process that takes memory has ended");
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
