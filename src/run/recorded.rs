//! Recorded: the Controller, and whoever writes down what it hears and says -> the same Controller, and a line of each.
//!
//! While nobody records, nothing is written. The Controller is copied for the first line, and written down by a thread
//! that may take its time.

use bytes::Bytes;
use tokio::sync::oneshot;

use super::clock::unix_ms;
use super::decisions::Decisions;
use crate::admin::asks::Ask;
use crate::admin::explain::Present;
use crate::admin::record::{Ended, Lines, Tap, tap};
use crate::decide::command::Command;
use crate::decide::controller::{Controller, Status};
use crate::decide::explain::Decision;
use crate::decide::fit::Lack;
use crate::decide::input::Input;
use crate::simulate::recording::lines::{self, Heard};
use crate::units::Moment;

#[derive(Debug)]
pub struct Recorded {
    controller: Controller,
    taps: Vec<Tap>,
}

impl Recorded {
    pub fn new(controller: Controller) -> Self {
        Recorded { controller, taps: Vec::new() }
    }

    pub fn handle_input(&mut self, now: Moment, input: Input) {
        let heard = (!self.taps.is_empty()).then(|| Heard::of(&input));
        self.controller.handle_input(now, input);
        if let Some(heard) = heard {
            self.write(heard.line(now, &self.controller));
        }
    }

    pub fn handle_timeout(&mut self, now: Moment) {
        if !self.taps.is_empty() {
            self.write(lines::woken(now));
        }
        self.controller.handle_timeout(now);
    }

    pub fn poll_command(&mut self, now: Moment) -> Option<Command> {
        let command = self.controller.poll_command();
        if let Some(command) = command.as_ref().filter(|_| !self.taps.is_empty()) {
            self.write(lines::commanded(now, command));
        }
        command
    }

    pub fn poll_timeout(&self) -> Option<Moment> {
        self.controller.poll_timeout()
    }

    pub fn status(&self) -> Status {
        self.controller.status()
    }

    pub fn lacking(&self, now: Moment) -> Vec<Lack> {
        self.controller.lacking(now)
    }

    /// What was set about last.
    pub fn decision(&self) -> Option<&Decision> {
        self.controller.decision()
    }

    /// Whoever asked may have gone meanwhile, and then nobody hears of it.
    pub fn answer(&mut self, now: Moment, ask: Ask, decisions: &Decisions) {
        match ask {
            Ask::Record(begun) => self.record(now, begun),
            Ask::Explain(answer) => {
                let present = Present { now: self.controller.explain(now), last: decisions.last(now) };
                answer.send(Box::new(present)).ok();
            }
            Ask::Decision(id, answer) => {
                answer.send(decisions.get(id)).ok();
            }
        }
    }

    /// From here on somebody records. Call it while no command waits: the first line shows the Controller without them.
    fn record(&mut self, now: Moment, begun: oneshot::Sender<Lines>) {
        let (tap, reader) = tap();
        self.taps.push(tap);
        let controller = self.controller.clone();
        let unix_ms = unix_ms();
        tokio::task::spawn_blocking(move || {
            let first = lines::first(now, unix_ms, env!("CARGO_PKG_VERSION"), &controller);
            // Whoever asked may have gone meanwhile.
            begun.send(reader.after(Bytes::from(first))).ok();
        });
        tracing::info!(message = "A recording has begun.");
    }

    fn write(&mut self, line: String) {
        let line = Bytes::from(line);
        self.taps.retain(|tap| match tap.put(line.clone()) {
            Ok(()) => true,
            Err(Ended::Gone) => {
                tracing::info!(message = "A recording has ended.");
                false
            }
            Err(Ended::LeftBehind) => {
                tracing::warn!(message = "A recording was ended: its reader did not keep up.");
                false
            }
        });
    }
}
