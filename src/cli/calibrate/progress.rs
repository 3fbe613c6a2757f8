//! Progress: how far it has come -> one line that is drawn anew in a terminal, or a line for each step elsewhere.

use std::io::{IsTerminal, Write};

const WIDTH: usize = 20;

pub(super) struct Progress {
    total: usize,
    terminal: bool,
    drawn: bool,
}

impl Progress {
    pub(super) fn new(total: usize) -> Self {
        Progress { total, terminal: std::io::stderr().is_terminal(), drawn: false }
    }

    /// So many rungs are done, and this is being done with the next.
    pub(super) fn say(&mut self, done: usize, rung: &str, what: &str) {
        let mut err = std::io::stderr();
        // Nobody can be told where the line cannot be written.
        drop(if self.terminal {
            write!(err, "\r\x1b[K{}", bar(done, self.total, rung, what))
        } else {
            writeln!(err, "{rung}: {what}")
        });
        drop(err.flush());
        self.drawn = self.terminal;
    }

    /// Wipes the line.
    pub(super) fn end(&mut self) {
        if std::mem::take(&mut self.drawn) {
            drop(write!(std::io::stderr(), "\r\x1b[K"));
        }
    }
}

fn bar(done: usize, total: usize, rung: &str, what: &str) -> String {
    let full = (done * WIDTH).checked_div(total).unwrap_or(WIDTH).min(WIDTH);
    format!("[{}{}] {done}/{total}  {rung}: {what}", "#".repeat(full), "-".repeat(WIDTH - full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_fills_with_the_rungs_that_are_done() {
        assert_eq!(bar(1, 4, "small", "loading"), "[#####---------------] 1/4  small: loading");
        assert_eq!(bar(0, 0, "-", "-"), "[####################] 0/0  -: -");
    }
}
