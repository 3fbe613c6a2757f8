//! Trace: JSON lines -> a machine and what others did to it over time, or what is wrong with a line.
//!
//! Nothing of it is believed before it is looked at: a trace may come from anywhere, and says when it begins and ends by
//! numbers that anybody can write. What a line leaves out stays as it was.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::policy::diagnostic::{Diagnostic, Diagnostics};
use crate::policy::{Amounts, Policy, TestMachine, TimelineEntry};
use crate::units::{Bytes, Permille, Span};

/// A trace is run in a moment and not for ever.
pub const TRACE_MAX: Span = Span::hours(24 * 366);
/// The last sample stands for as long as the one before it did, but for no longer than this.
const LAST_MAX: Span = Span::seconds(1);

const A_SAMPLE: &str = "a sample, such as `{\"at_ms\":0,\"ram\":{\"total\":17179869184,\"foreign\":4294967296}}`";
const A_MACHINE: &str = "a machine, such as `{\"machine\":{\"cores\":8,\"footprint\":{\"large\":8589934592}}}`";

/// What others did to a machine, and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    pub machine: TestMachine,
    /// In order; never empty.
    pub timeline: Vec<TimelineEntry>,
    /// When it is over; it begins with its first sample.
    pub end: Span,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MachineLine {
    machine: MachineGiven,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct MachineGiven {
    memory: Option<Bytes>,
    vram: Option<Bytes>,
    cores: Option<u32>,
    footprint: BTreeMap<String, Taken>,
    load_ms: BTreeMap<String, Span>,
    loaded: Option<String>,
    models_max: Option<u32>,
}

/// What a rung takes.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged, expecting = "a footprint must be a number of bytes, or `{\"memory\":N,\"vram\":N}`")]
enum Taken {
    Memory(Bytes),
    Both(Both),
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Both {
    memory: Bytes,
    vram: Bytes,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SampleLine {
    at_ms: u64,
    ram: Ram,
    gpus: Option<Vec<Gpu>>,
    psi_some: Option<f64>,
    requests: Option<u32>,
    /// In a recording: all of the sample, of which a trace needs no more.
    #[serde(rename = "heard")]
    _heard: Option<IgnoredAny>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ram {
    total: Bytes,
    foreign: Bytes,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Gpu {
    #[serde(rename = "id")]
    _id: IgnoredAny,
    total: Bytes,
    foreign: Bytes,
}

/// Only what tells a first line that is a machine from one that is a sample.
#[derive(Deserialize)]
struct Kind {
    machine: Option<IgnoredAny>,
}

/// Reads a whole trace. `path` is what its owner calls it.
pub fn parse(text: &str, path: &str) -> Result<Trace, Diagnostics> {
    of_lines(text.split_inclusive('\n'), text, path)
}

/// Reads a trace of these lines of a text.
pub(super) fn of_lines<'a>(
    lines: impl Iterator<Item = &'a str>,
    text: &'a str,
    path: &str,
) -> Result<Trace, Diagnostics> {
    let mut reading = Reading { stalls: Vec::new(), timeline: Vec::new(), machine: MachineGiven::default() };
    let mut is_first = true;
    for line in lines {
        let (start, content) = (line.as_ptr() as usize - text.as_ptr() as usize, line.trim());
        if content.is_empty() {
            continue;
        }
        let span = start..start + line.len();
        reading.take(content, is_first).map_err(|told| Diagnostics::new(path, text, vec![told.at(line, &span)]))?;
        is_first = false;
    }
    let end = text.len();
    reading.whole().map_err(|told| Diagnostics::new(path, text, vec![told.at("", &(end..end))]))
}

/// A complaint about a line; `span` is where in the line, from its first character that is no space.
struct Wrong {
    span: Range<usize>,
    title: String,
    label: String,
    expected: &'static str,
    help: Option<String>,
}

impl Wrong {
    fn new(title: impl Into<String>, label: impl Into<String>, expected: &'static str) -> Self {
        Wrong { span: 0..usize::MAX, title: title.into(), label: label.into(), expected, help: None }
    }

    fn help(self, help: impl Into<String>) -> Self {
        Wrong { help: Some(help.into()), ..self }
    }

    fn at(self, line: &str, place: &Range<usize>) -> Diagnostic {
        let indent = line.len() - line.trim_start().len();
        let start = (place.start + indent).saturating_add(self.span.start).min(place.end);
        let end = (place.start + indent).saturating_add(self.span.end).min(place.end);
        let told = Diagnostic::new(start..end, self.title, self.label).expected(self.expected);
        Diagnostic { help: self.help, ..told }
    }
}

struct Reading {
    machine: MachineGiven,
    timeline: Vec<TimelineEntry>,
    /// As they were written, until all of them are known.
    stalls: Vec<Option<f64>>,
}

impl Reading {
    fn take(&mut self, line: &str, is_first: bool) -> Result<(), Wrong> {
        let is_machine = serde_json::from_str::<Kind>(line).is_ok_and(|kind| kind.machine.is_some());
        if is_machine && is_first {
            self.machine = read::<MachineLine>(line, A_MACHINE)?.machine;
            return self.check_machine();
        }
        if is_machine {
            return Err(Wrong::new("a machine after the first line", "not the first", A_SAMPLE)
                .help("move this line to the top of the trace"));
        }
        self.sample(read::<SampleLine>(line, A_SAMPLE)?)
    }

    fn check_machine(&self) -> Result<(), Wrong> {
        let nothing = |title: &str, help: &str| Err(Wrong::new(title, "nothing", A_MACHINE).help(help));
        if self.machine.models_max == Some(0) {
            return nothing("a server that holds no model", "write `\"models_max\":1`, or leave it out");
        }
        if self.machine.memory == Some(Bytes::ZERO) {
            return nothing("a machine without memory", "leave `memory` out: the samples tell it");
        }
        Ok(())
    }

    fn sample(&mut self, line: SampleLine) -> Result<(), Wrong> {
        let at = Span(line.at_ms);
        if line.ram.total == Bytes::ZERO {
            return Err(Wrong::new("a machine without memory", "`ram` has a total of 0", A_SAMPLE)
                .help("write how many bytes of memory there are: `\"total\":17179869184`"));
        }
        if let Some(before) = self.timeline.last().filter(|before| before.at > at) {
            let label = format!("`at_ms` was {} already", before.at.0);
            return Err(Wrong::new("the trace goes backwards", label, A_SAMPLE)
                .help("write the samples in the order of their times"));
        }
        let first = self.timeline.first().map_or(at, |first| first.at);
        if at.0 - first.0 > TRACE_MAX.0 {
            let label = format!("{} ms after the first sample", at.0 - first.0);
            return Err(Wrong::new("a trace that lasts longer than a year", label, A_SAMPLE)
                .help("write `at_ms` in milliseconds, not in microseconds or nanoseconds"));
        }
        if let Some(stall) = line.psi_some.filter(|stall| !(0.0..=100.0).contains(stall)) {
            return Err(Wrong::new(format!("`psi_some` is no share of time: {stall}"), "not a share", A_SAMPLE)
                .help("write `\"psi_some\":0.35` for 35 %, or leave it out"));
        }
        let sum = |of: fn(&Gpu) -> Bytes| line.gpus.as_ref().map(|gpus| gpus.iter().map(of).sum::<Bytes>());
        self.stalls.push(line.psi_some);
        self.timeline.push(TimelineEntry {
            at,
            memory: Some(line.ram.total),
            foreign: Some(line.ram.foreign),
            vram: sum(|gpu| gpu.total),
            vram_foreign: sum(|gpu| gpu.foreign),
            in_flight: line.requests,
            stall_some: None,
            cpu_foreign: None,
            speed: None,
        });
        Ok(())
    }

    fn whole(mut self) -> Result<Trace, Wrong> {
        // The kernel prints a share of time in percent, others write it as a part of one; a whole trace is one or the other.
        let in_percent = self.stalls.iter().flatten().any(|stall| *stall > 1.0);
        let permille = if in_percent { 10.0 } else { 1000.0 };
        for (entry, stall) in self.timeline.iter_mut().zip(&self.stalls) {
            entry.stall_some = stall.map(|stall| Permille((stall * permille) as u32));
        }
        let [Some(first), Some(last)] = [self.timeline.first(), self.timeline.last()] else {
            return Err(Wrong::new("a trace without samples", "it ends here", A_SAMPLE));
        };
        let before = self.timeline.len().checked_sub(2).map(|before| self.timeline[before].at);
        let lasts = before.map_or(LAST_MAX, |before| Span(last.at.0 - before.0).min(LAST_MAX));
        let end = last.at + lasts;
        let given = self.machine;
        let amounts = |taken: Taken| match taken {
            Taken::Memory(memory) => Amounts { memory, vram: Bytes::ZERO },
            Taken::Both(Both { memory, vram }) => Amounts { memory, vram },
        };
        let machine = TestMachine {
            memory: given.memory.or(first.memory).unwrap_or_default(),
            // Nobody says that there are too few.
            cores: given.cores.unwrap_or(u32::MAX),
            vram: given.vram.or(first.vram).unwrap_or_default(),
            footprint: given.footprint.into_iter().map(|(name, taken)| (name, amounts(taken))).collect(),
            load: given.load_ms,
            loaded: given.loaded,
            models_max: given.models_max,
        };
        Ok(Trace { machine, timeline: self.timeline, end })
    }
}

/// What serde says of a line, with the place where it says it.
fn read<T: DeserializeOwned>(line: &str, expected: &'static str) -> Result<T, Wrong> {
    serde_json::from_str(line).map_err(|error| {
        let message = error.to_string();
        let title = message.rsplit_once(" at line ").map_or(message.as_str(), |(title, _)| title);
        let at = error.column().saturating_sub(1);
        // Of a line that is whole but not what it should be, serde tells only where it ends.
        let span = if at + 1 >= line.len() { 0..line.len() } else { at..at + 1 };
        Wrong { span, ..Wrong::new(title, "here", expected) }
    })
}

impl Trace {
    pub fn start(&self) -> Span {
        self.timeline.first().map(|entry| entry.at).unwrap_or_default()
    }

    /// What this trace and these policies do not know of each other, in words.
    pub fn doubts(&self, policies: &[&Policy]) -> Vec<String> {
        let is_rung = |name: &String| policies.iter().any(|policy| policy.ladder.iter().any(|rung| rung.name == *name));
        let machine = &self.machine;
        let named = machine.footprint.keys().chain(machine.load.keys()).chain(&machine.loaded);
        let mut strangers: Vec<&String> = named.filter(|name| !is_rung(name)).collect();
        strangers.sort();
        strangers.dedup();
        let unknown = |policy: &&Policy| {
            let names = policy.ladder.iter().map(|rung| rung.name.clone());
            names.filter(|name| !machine.footprint.contains_key(name)).collect::<Vec<_>>()
        };
        let mut unknown: Vec<String> = policies.iter().flat_map(unknown).collect();
        unknown.sort();
        unknown.dedup();
        let strangers =
            strangers.into_iter().map(|name| format!("the trace names a rung that is on no ladder: `{name}`"));
        let unknown = unknown.into_iter().map(|name| {
            format!("the trace does not say what `{name}` takes, so it is never chosen: add it to `footprint` in the first line")
        });
        strangers.chain(unknown).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SAMPLE: &str = r#"{"at_ms":1000,"ram":{"total":100,"foreign":40}}"#;

    fn wrong(text: &str) -> String {
        parse(text, "t.jsonl").unwrap_err().render(false)
    }

    #[test]
    fn every_value_of_a_trace_arrives_where_it_belongs() {
        let text = r#"
            {"machine":{"memory":200,"cores":8,"footprint":{"a":60,"b":{"memory":5,"vram":7}},"load_ms":{"a":10},"loaded":"b","models_max":1}}

            {"at_ms":1000,"ram":{"total":100,"foreign":40},"gpus":[{"id":"0","total":30,"foreign":1},{"id":1,"total":10,"foreign":2}],"psi_some":0.25,"requests":3}
            {"at_ms":1500,"ram":{"total":100,"foreign":400}}
        "#;
        let trace = parse(text, "t.jsonl").unwrap();
        let amounts = |memory, vram| Amounts { memory: Bytes(memory), vram: Bytes(vram) };
        assert_eq!(
            trace.machine,
            TestMachine {
                memory: Bytes(200),
                cores: 8,
                vram: Bytes(40),
                footprint: BTreeMap::from([("a".to_owned(), amounts(60, 0)), ("b".to_owned(), amounts(5, 7))]),
                load: BTreeMap::from([("a".to_owned(), Span(10))]),
                loaded: Some("b".to_owned()),
                models_max: Some(1),
            }
        );
        let first = TimelineEntry {
            at: Span(1000),
            memory: Some(Bytes(100)),
            vram: Some(Bytes(40)),
            foreign: Some(Bytes(40)),
            vram_foreign: Some(Bytes(3)),
            stall_some: Some(Permille(250)),
            in_flight: Some(3),
            ..TimelineEntry::default()
        };
        let second = TimelineEntry {
            at: Span(1500),
            memory: Some(Bytes(100)),
            foreign: Some(Bytes(400)),
            ..TimelineEntry::default()
        };
        assert_eq!(trace.timeline, [first, second]);
        assert_eq!((trace.start(), trace.end), (Span(1000), Span(2000)), "the last holds as long as the one before");
    }

    #[test]
    fn stalls_are_read_as_the_kernel_prints_them_and_as_shares() {
        let stalls = |values: [f64; 2]| {
            let line = |value: f64| SAMPLE.replace("}}", &format!("}},\"psi_some\":{value}}}"));
            let trace = parse(&values.map(line).join("\n"), "t").unwrap();
            [0, 1].map(|at| trace.timeline[at].stall_some.unwrap().0)
        };
        assert_eq!(stalls([0.5, 1.0]), [500, 1000]);
        assert_eq!(stalls([0.5, 35.0]), [5, 350]);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line_and_what_would_be_right() {
        insta::assert_snapshot!(wrong(&format!("{SAMPLE}\n{{\"at_ms\":2000}}\n")), @r#"
        error: missing field `ram`
         --> t.jsonl:2:1
          |
        2 | {"at_ms":2000}
          | ^^^^^^^^^^^^^^ here
          |
          = expected: a sample, such as `{"at_ms":0,"ram":{"total":17179869184,"foreign":4294967296}}`
        "#);
        insta::assert_snapshot!(wrong(&format!("{SAMPLE}\n{}\n", SAMPLE.replace("1000", "900"))), @r#"
        error: the trace goes backwards
         --> t.jsonl:2:1
          |
        2 | {"at_ms":900,"ram":{"total":100,"foreign":40}}
          | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ `at_ms` was 1000 already
          |
          = expected: a sample, such as `{"at_ms":0,"ram":{"total":17179869184,"foreign":4294967296}}`
          = help: write the samples in the order of their times
        "#);
    }

    #[test]
    fn whatever_cannot_be_is_refused() {
        let machine = |given: &str| format!("{{\"machine\":{given}}}\n{SAMPLE}");
        let later = |at: &str| format!("{SAMPLE}\n{}", SAMPLE.replace("1000", at));
        for (text, title) in [
            (String::new(), "a trace without samples"),
            ("\n \n".to_owned(), "a trace without samples"),
            ("{\"machine\":{}}".to_owned(), "a trace without samples"),
            ("not json".to_owned(), "expected ident"),
            (SAMPLE[..20].to_owned(), "EOF while parsing"),
            (SAMPLE.replace("100,", "0,"), "a machine without memory"),
            (SAMPLE.replace("40", "-40"), "invalid value: integer `-40`, expected u64"),
            (SAMPLE.replace("40", "4.5"), "invalid type: floating point `4.5`, expected u64"),
            (SAMPLE.replace("40", "99999999999999999999"), "invalid type: floating point"),
            (SAMPLE.replace("ram", "RAM"), "unknown field `RAM`"),
            (SAMPLE.replace("}}", "},\"psi_some\":101}"), "`psi_some` is no share of time: 101"),
            (SAMPLE.replace("}}", "},\"psi_some\":-1}"), "`psi_some` is no share of time: -1"),
            (SAMPLE.replace("}}", "},\"requests\":-1}"), "invalid value: integer `-1`, expected u32"),
            (later("99999999999999"), "a trace that lasts longer than a year"),
            (format!("{SAMPLE}\n{}", machine("{}")), "a machine after the first line"),
            (machine("{\"models_max\":0}"), "a server that holds no model"),
            (machine("{\"memory\":0}"), "a machine without memory"),
            (machine("{\"footprint\":{\"a\":\"6GiB\"}}"), "a footprint must be a number of bytes"),
            (machine("{\"load_ms\":{\"a\":1.5}}"), "invalid type: floating point `1.5`, expected u64"),
            (machine("{\"core\":8}"), "unknown field `core`"),
            ("[".repeat(10_000), "invalid type: sequence"),
        ] {
            let told = wrong(&text);
            assert!(told.starts_with(&format!("error: {title}")), "{title}: {told}");
            assert!(told.contains("= expected: "), "{told}");
        }
    }

    #[test]
    fn what_policies_and_a_trace_do_not_know_of_each_other_is_told() {
        let rung = |name: &str| crate::policy::Rung { name: name.to_owned(), model: name.to_owned(), context: None };
        let policy = Policy::for_ladder(vec![rung("a"), rung("b")]).unwrap();
        let text = format!("{{\"machine\":{{\"footprint\":{{\"a\":1,\"c\":1}},\"loaded\":\"c\"}}}}\n{SAMPLE}");
        let doubts = parse(&text, "t").unwrap().doubts(&[&policy]);
        assert_eq!(doubts.len(), 2, "{doubts:?}");
        assert!(doubts[0].ends_with("on no ladder: `c`") && doubts[1].contains("what `b` takes"), "{doubts:?}");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(\\{|\\}|\"|at_ms|ram|total|machine|:|,|[0-9]|\\n|\\[|é){0,60}") {
            drop(parse(&text, "t").map_err(|wrong| wrong.render(false)));
        }
    }
}
