//! Lines: what the Controller hears and says -> the lines of a recording, each with its end.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::classify::PoolAssessment;
use crate::decide::command::Command;
use crate::decide::controller::Controller;
use crate::decide::input::Input;
use crate::sample::{Sample, Stall};
use crate::units::{Bytes, Moment};

/// The form of these lines; another one has another number.
pub(super) const VERSION: u32 = 1;

/// What a recording begins with.
#[derive(Serialize)]
struct First<'a> {
    recording: Head<'a>,
}

#[derive(Serialize)]
struct Head<'a> {
    version: u32,
    /// The version of the program that was recorded.
    program: &'a str,
    at_ms: Moment,
    /// The time of day, for people.
    unix_ms: u64,
    controller: &'a Controller,
}

#[derive(Serialize)]
struct Line<'a> {
    at_ms: Moment,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    seen: Option<Seen>,
    #[serde(skip_serializing_if = "Option::is_none")]
    heard: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    woken: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    commanded: Option<&'a Command>,
}

/// What a trace tells of a sample.
#[derive(Serialize)]
struct Seen {
    ram: Share,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    gpus: Vec<Card>,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi_some: Option<f64>,
    requests: u32,
}

#[derive(Serialize)]
struct Share {
    total: Bytes,
    foreign: Bytes,
}

#[derive(Serialize)]
struct Card {
    id: &'static str,
    #[serde(flatten)]
    share: Share,
}

/// The first line: the Controller before it hears the next thing.
pub fn first(now: Moment, unix_ms: u64, program: &str, controller: &Controller) -> String {
    ended(&First { recording: Head { version: VERSION, program, at_ms: now, unix_ms, controller } })
}

/// The Controller was told what time it is.
pub fn woken(now: Moment) -> String {
    ended(&Line { at_ms: now, seen: None, heard: None, woken: Some(true), commanded: None })
}

pub fn commanded(now: Moment, command: &Command) -> String {
    ended(&Line { at_ms: now, seen: None, heard: None, woken: None, commanded: Some(command) })
}

/// Something that the Controller is about to hear; what it makes of it belongs into the same line.
#[derive(Debug)]
pub struct Heard {
    written: Box<RawValue>,
    /// Of a sample: how many want a reply, and how long programs waited for memory.
    sampled: Option<(u32, Option<Stall>)>,
}

impl Heard {
    pub fn of(input: &Input) -> Self {
        let written = serde_json::value::to_raw_value(input).expect("an input is plain data");
        let asked = |sample: &Sample| (sample.traffic.in_flight + sample.traffic.held, sample.stall);
        let sampled = if let Input::Sampled(sample) = input { Some(asked(sample)) } else { None };
        Heard { written, sampled }
    }

    /// The line, when the Controller has heard it.
    pub fn line(&self, now: Moment, controller: &Controller) -> String {
        let seen = self.sampled.and_then(|sampled| seen(sampled, controller));
        ended(&Line { at_ms: now, seen, heard: Some(&self.written), woken: None, commanded: None })
    }
}

/// `None` while memory cannot be read: a trace has no sample then.
fn seen((requests, stall): (u32, Option<Stall>), controller: &Controller) -> Option<Seen> {
    let latest = controller.status().assessment;
    let share = |pool: &PoolAssessment| Share { total: pool.capacity, foreign: pool.foreign };
    Some(Seen {
        ram: latest.ram.as_ref().map(share)?,
        // All cards are one pool, and so they are one here.
        gpus: latest.vram.as_ref().map(|pool| Card { id: "all", share: share(pool) }).into_iter().collect(),
        psi_some: stall.map(|stall| f64::from(stall.some.0) / 1000.0),
        requests,
    })
}

fn ended(line: &impl Serialize) -> String {
    let mut text = serde_json::to_string(line).expect("a line of a recording is plain data");
    text.push('\n');
    text
}
