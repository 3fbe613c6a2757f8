//! Runs that are recorded and run once more: random ones, tampered ones, and ones that end too soon.

use std::sync::Arc;

use proptest::prelude::*;

use super::lines;
use super::read::{Replay, is_recording, read};
use crate::decide::command::Command;
use crate::decide::controller::Controller;
use crate::decide::input::Input;
use crate::policy::{Policy, Rung, TimelineEntry};
use crate::simulate::tests::machine;
use crate::simulate::witness::{Nobody, Witness};
use crate::simulate::{run_before, run_trace};
use crate::units::{Bytes, Moment, Permille, Span};

/// Writes a recording that begins at the first look after `from`.
#[derive(Debug, Default)]
struct Scribe {
    from: Moment,
    text: String,
    heard: Option<lines::Heard>,
}

impl Scribe {
    fn writes(&self) -> bool {
        !self.text.is_empty()
    }
}

impl Witness for Scribe {
    fn hears(&mut self, _now: Moment, input: &Input) {
        self.heard = self.writes().then(|| lines::Heard::of(input));
    }

    fn heard(&mut self, now: Moment, controller: &Controller) {
        if let Some(heard) = self.heard.take() {
            self.text.push_str(&heard.line(now, controller));
        }
    }

    fn woken(&mut self, now: Moment) {
        if self.writes() {
            self.text.push_str(&lines::woken(now));
        }
    }

    fn commanded(&mut self, now: Moment, command: &Command) {
        if self.writes() {
            self.text.push_str(&lines::commanded(now, command));
        }
    }

    fn settled(&mut self, now: Moment, controller: &Controller, _world: &crate::simulate::world::World) {
        if !self.writes() && now >= self.from {
            self.text = lines::first(now, 0, "0.1.0", controller);
        }
    }
}

fn policy(stable: Span) -> Arc<Policy> {
    let rung = |name: &str| Rung { name: name.to_owned(), model: format!("{name}:1b"), context: None };
    let mut policy = Policy::for_ladder(["large", "medium", "small"].map(rung).into()).unwrap();
    policy.upgrade.stable = stable;
    Arc::new(policy)
}

fn recorded(timeline: &[TimelineEntry], from: Span, end: Span) -> String {
    let mut scribe = Scribe { from: Moment::START + from, ..Scribe::default() };
    run_before(&policy(Span::seconds(20)), &machine(None), timeline, end, &mut scribe);
    scribe.text
}

fn foreign(at: Span, gib: u64) -> TimelineEntry {
    TimelineEntry { at, foreign: Some(Bytes::gib(gib)), ..TimelineEntry::default() }
}

/// Down and up again.
fn a_day() -> [TimelineEntry; 3] {
    [foreign(Span::ZERO, 2), foreign(Span::minutes(2), 12), foreign(Span::minutes(4), 2)]
}

fn replayed(text: &str) -> Replay {
    read(text, "r.jsonl").unwrap_or_else(|wrong| panic!("{}", wrong.render(false))).replay
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn whatever_was_recorded_is_decided_again_to_the_byte(
        steps in proptest::collection::vec((1_u64..200_000, 0_u64..23, 0_u32..4, 0_u32..400), 1..12),
        from in 0_u64..300_000,
    ) {
        let mut at = Span::ZERO;
        let mut timeline = vec![foreign(Span::ZERO, 3)];
        for (later, gib, in_flight, stall) in steps {
            at = at + Span(later);
            let stall_some = Some(Permille(stall));
            let (cpu_foreign, speed) = (Some(Permille(stall * 2)), Some(Permille(1000 - stall * 2)));
            let entry = TimelineEntry { in_flight: Some(in_flight), stall_some, cpu_foreign, speed, ..foreign(at, gib) };
            timeline.push(entry);
        }
        let text = recorded(&timeline, Span(from.min(at.0)), at + Span::minutes(1));
        let replay = replayed(&text);
        prop_assert_eq!(replay.difference, None);
        prop_assert_eq!(replay.commands as usize, text.matches("\"commanded\"").count());
        prop_assert!(replay.inputs > 0);
    }
}

#[test]
fn an_input_that_was_changed_is_noticed_where_it_first_matters() {
    let text = recorded(&a_day(), Span::ZERO, Span::minutes(6));
    assert_eq!(replayed(&text).difference, None);
    // The hog is not seen in one of the samples: the second look that it asked for at once was for nothing.
    let line = text.lines().position(|line| line.contains("\"foreign\":12884901888")).unwrap();
    let used = Bytes::gib(24).0.to_string();
    let changed = |(place, text): (usize, &str)| match place == line {
        true => text.replace(&format!("\"used\":{used}"), "\"used\":1") + "\n",
        false => text.to_owned() + "\n",
    };
    let tampered: String = text.lines().enumerate().map(changed).collect();
    assert_ne!(tampered, text);
    let difference = replayed(&tampered).difference.expect("it decides otherwise");
    assert!(difference.line > line, "{difference:?} after {line}");
}

#[test]
fn how_quick_replies_were_is_recorded_and_decided_by_again() {
    let quick = TimelineEntry {
        cpu_foreign: Some(Permille(50)),
        speed: Some(Permille(1000)),
        in_flight: Some(1),
        ..foreign(Span::ZERO, 1)
    };
    let (cpu_foreign, speed) = (Some(Permille(700)), Some(Permille(300)));
    let slow = TimelineEntry { at: Span::minutes(6), cpu_foreign, speed, ..TimelineEntry::default() };
    let text = recorded(&[quick, slow], Span::ZERO, Span::minutes(8));
    assert!(text.contains("\"replied\"") && text.contains("\"why\":\"slow\""));
    assert_eq!(replayed(&text).difference, None);
}

#[test]
fn a_command_that_was_changed_or_is_missing_is_noticed() {
    let text = recorded(&a_day(), Span::ZERO, Span::minutes(6));
    let load = text.lines().find(|line| line.contains("\"commanded\":{\"load\"")).unwrap();
    let changed = text.replacen(load, &load.replacen("medium", "median", 1), 1);
    let difference = replayed(&changed).difference.unwrap();
    let [recorded, decided] = [difference.recorded, difference.decided].map(Option::unwrap);
    assert!(recorded.contains("median") && !decided.contains("median"), "{recorded} {decided}");
    let without = text.replacen(&format!("{load}\n"), "", 1);
    assert!(replayed(&without).difference.is_some());
    // Nothing of what was decided early is in it.
    let silent: String =
        text.lines().filter(|line| !line.contains("\"commanded\"")).map(|line| line.to_owned() + "\n").collect();
    let difference = replayed(&silent).difference.unwrap();
    assert_eq!(difference.recorded, None);
}

#[test]
fn a_recording_may_end_anywhere_and_even_in_the_middle_of_a_line() {
    let text = recorded(&a_day(), Span::ZERO, Span::minutes(3));
    let whole = text.trim_end().rfind('\n').unwrap();
    for end in [text.len(), whole + 1, whole + 20, text.len() - 1, text.len() / 2] {
        let recording = read(&text[..end], "r.jsonl").unwrap();
        assert_eq!(recording.replay.difference, None, "{end}");
        let cut = &text[..end];
        assert_eq!(recording.cut_short, !cut.ends_with('\n') && !cut.ends_with('}'), "{end}");
    }
    // A line that cannot be read and is not the last is no accident.
    let broken = text.replacen("\"woken\":true}", "\"woken\":true", 1);
    let wrong = read(&broken, "r.jsonl").unwrap_err().render(false);
    assert!(wrong.contains("r.jsonl:") && wrong.contains("woken"), "{wrong}");
}

#[test]
fn another_policy_is_run_over_what_others_were_seen_to_hold() {
    let text = recorded(&a_day(), Span::ZERO, Span::minutes(6));
    assert!(is_recording(&text) && !is_recording("{\"at_ms\":0,\"ram\":{\"total\":1,\"foreign\":0}}\n"));
    let recording = read(&text, "r.jsonl").unwrap();
    assert!(recording.is_by(&policy(Span::seconds(20))) && !recording.is_by(&policy(Span::minutes(5))));
    let again = policy(Span::seconds(20));
    let outcome = run_trace(&again, &recording.trace_for(&again), &mut Nobody);
    let rungs = |outcome: &crate::simulate::outcome::Outcome| {
        outcome.changes.iter().map(|change| change.rung.clone().unwrap_or_default()).collect::<Vec<_>>()
    };
    assert_eq!(rungs(&outcome), ["large", "medium", "large"]);
    // The stable time is longer than what is left of the recording.
    let other = policy(Span::minutes(5));
    let outcome = run_trace(&other, &recording.trace_for(&other), &mut Nobody);
    assert_eq!(rungs(&outcome), ["large", "medium"]);
}

#[test]
fn a_recording_of_another_form_is_refused() {
    let text = recorded(&a_day(), Span::ZERO, Span::minutes(1));
    let newer = text.replacen("\"version\":1", "\"version\":2", 1);
    let wrong = read(&newer, "r.jsonl").unwrap_err().render(false);
    assert!(wrong.contains("a recording of version 2, and this program knows 1"), "{wrong}");
}
