//! Scripts: the `tests:` of a policy file -> `PolicyTest`s that can be run as they stand.

use std::collections::BTreeMap;

use super::diagnostic::Diagnostic;
use super::file::{ExpectFile, FootprintFile, MachineFile, TestFile, TimelineFile};
use super::parse::{ASLEEP, Rules};
use super::yaml::{Placed, Quantity};
use super::{Amounts, Expectation, PolicyTest, Reserve, Rung, TestMachine, TimelineEntry};
use crate::units::{Bytes, Permille, Span};

/// How far after its last event a test may still look: it runs in a moment, but not for ever.
const LOOK_MAX: Span = Span::hours(7 * 24);

pub(super) fn test(
    rules: &mut Rules<'_>,
    file: Placed<TestFile>,
    ladder: &[Rung],
    reserve: Reserve,
) -> Option<PolicyTest> {
    let line = rules.line(file.span.start);
    let test = file.value;
    let machine = machine(rules, &test.machine, ladder, reserve);
    let timeline = timeline(rules, &test.timeline, &machine);
    let (first, last) = match (timeline.first(), timeline.last()) {
        (Some(first), Some(last)) => (first.at, last.at),
        (None, _) | (_, None) => {
            let told = Diagnostic::new(test.timeline.span, "a test without a timeline", "nothing happens");
            let told = told.expected("at least what holds from the start on");
            rules.tell(told.help("write `timeline: [{ at: 0s, foreign: 2GiB }]`"));
            return None;
        }
    };
    if test.expect.value.is_empty() {
        let told = Diagnostic::new(test.expect.span, "a test that expects nothing", "cannot fail");
        let told = told.expected("what must come of it");
        rules.tell(told.help(example_of_expect(ladder)));
        return None;
    }
    let expect = test.expect.value.iter().filter_map(|one| expectation(rules, one, ladder, (first, last))).collect();
    Some(PolicyTest { name: test.name, machine, timeline, expect, line })
}

fn example_of_expect(ladder: &[Rung]) -> String {
    let name = ladder.first().map_or(ASLEEP, |rung| rung.name.as_str());
    format!("write `expect: [{{ at: 1m, rung: {name} }}]`")
}

fn machine(rules: &mut Rules<'_>, placed: &Placed<MachineFile>, ladder: &[Rung], reserve: Reserve) -> TestMachine {
    let file = &placed.value;
    let memory = file.memory.value.amount;
    if memory <= reserve.memory {
        let title = "the machine of the test has nothing beyond the reserve";
        let told = Diagnostic::new(file.memory.span.clone(), title, format!("the reserve is {}", reserve.memory));
        let fix = Bytes(reserve.memory.0.saturating_mul(8).max(8 << 30)).to_string().replace(' ', "");
        rules.tell(told.expected("more memory than the reserve").help(format!("write `memory: {fix}`")));
    }
    if file.cores.value == 0 {
        let told = Diagnostic::new(file.cores.span.clone(), "a machine without cores", "none");
        rules.tell(told.expected("at least one").help("write `cores: 8`"));
    }
    if let Some(none) = file.models_max.as_ref().filter(|max| max.value == 0) {
        let told = Diagnostic::new(none.span.clone(), "a server that holds no model", "none");
        rules.tell(told.expected("at least one").help("write `models_max: 1`"));
    }
    footprints(rules, placed, ladder);
    if let Some(loaded) = file.loaded.as_ref().filter(|loaded| !known(&loaded.value, ladder)) {
        rules.unknown_rung(loaded, ladder);
    }
    let amounts = |print: &FootprintFile| Amounts { memory: print.memory, vram: print.vram };
    TestMachine {
        memory,
        cores: file.cores.value,
        vram: file.vram.as_ref().map_or(Bytes::ZERO, |size| size.amount),
        footprint: file
            .footprint
            .iter()
            .flat_map(|footprint| &footprint.value)
            .map(|(name, print)| (name.clone(), amounts(&print.value)))
            .collect(),
        load: file.load.iter().map(|(name, span)| (name.clone(), span.value.amount)).collect(),
        loaded: file.loaded.as_ref().map(|loaded| loaded.value.clone()),
        models_max: file.models_max.as_ref().map(|max| max.value),
    }
}

fn known(name: &str, ladder: &[Rung]) -> bool {
    ladder.iter().any(|rung| rung.name == name)
}

fn footprints(rules: &mut Rules<'_>, placed: &Placed<MachineFile>, ladder: &[Rung]) {
    let file = &placed.value;
    let none = BTreeMap::new();
    let footprint = file.footprint.as_ref().map_or(&none, |footprint| &footprint.value);
    names_known(rules, footprint, ladder);
    names_known(rules, &file.load, ladder);
    let missing: Vec<&str> =
        ladder.iter().map(|rung| rung.name.as_str()).filter(|name| !footprint.contains_key(*name)).collect();
    if let Some(first) = missing.first() {
        let span = file.footprint.as_ref().map_or(&placed.span, |footprint| &footprint.span).clone();
        let title = format!("the test does not say what a rung takes: `{}`", missing.join("`, `"));
        let told = Diagnostic::new(span, title, "no footprint for it");
        let told = told.expected("a `footprint` for every rung of the ladder");
        let fix = match footprint.is_empty() {
            true => format!("add `footprint: {{ {first}: 2GiB }}` with every rung"),
            false => format!("add `{first}: 2GiB` to `footprint`"),
        };
        rules.tell(told.help(fix));
    }
}

fn names_known<T>(rules: &mut Rules<'_>, named: &BTreeMap<String, Placed<T>>, ladder: &[Rung]) {
    for (name, value) in named.iter().filter(|(name, _)| !known(name, ladder)) {
        let key = Placed { value: name.clone(), span: value.key.clone(), key: value.key.clone() };
        rules.unknown_rung(&key, ladder);
    }
}

fn timeline(
    rules: &mut Rules<'_>,
    list: &Placed<Vec<Placed<TimelineFile>>>,
    machine: &TestMachine,
) -> Vec<TimelineEntry> {
    let mut entries: Vec<TimelineEntry> = Vec::new();
    for Placed { value: file, .. } in &list.value {
        let at = file.at.value.amount;
        if let Some(before) = entries.last().filter(|before| before.at >= at) {
            let told = Diagnostic::new(
                file.at.span.clone(),
                "the timeline goes backwards",
                format!("not after {}", before.at),
            );
            let fix = (before.at + Span::minutes(1)).to_string().replace(' ', "");
            rules.tell(told.expected("each time after the one before it").help(format!("write `at: {fix}`")));
        }
        within(rules, "foreign", file.foreign.as_ref(), machine.memory, "memory");
        within(rules, "vram_foreign", file.vram_foreign.as_ref(), machine.vram, "vram");
        let shares = [
            ("stall_some", "time", &file.stall_some, "20%"),
            ("cpu_foreign", "all processors", &file.cpu_foreign, "60%"),
            ("speed", "the usual speed", &file.speed, "40%"),
        ];
        for (key, whole, share, fix) in shares {
            share_of(rules, (key, whole), share.as_ref(), fix);
        }
        let share = |share: &Option<Placed<Quantity<Permille>>>| share.as_ref().map(|share| share.value.amount);
        let amount = |size: &Option<Placed<Quantity<Bytes>>>| size.as_ref().map(|size| size.value.amount);
        entries.push(TimelineEntry {
            at,
            foreign: amount(&file.foreign),
            vram_foreign: amount(&file.vram_foreign),
            stall_some: share(&file.stall_some),
            cpu_foreign: share(&file.cpu_foreign),
            speed: share(&file.speed),
            in_flight: file.in_flight,
            ..TimelineEntry::default()
        });
    }
    entries
}

/// No share is more than the whole.
fn share_of(rules: &mut Rules<'_>, (key, whole): (&str, &str), share: Option<&Placed<Quantity<Permille>>>, fix: &str) {
    let Some(share) = share.filter(|share| share.value.amount > Permille::percent(100)) else { return };
    let title = format!("`{key}` is a share of {whole}: {}", share.value.written);
    let told = Diagnostic::new(share.span.clone(), title, "more than all of it");
    rules.tell(told.expected("at most 100%").help(format!("write `{key}: {fix}`")));
}

/// Others cannot use more than there is.
fn within(rules: &mut Rules<'_>, key: &str, size: Option<&Placed<Quantity<Bytes>>>, whole: Bytes, pool: &str) {
    let Some(size) = size.filter(|size| size.value.amount > whole) else { return };
    let title = format!("`{key}` is more than the machine of the test has");
    let told = Diagnostic::new(size.span.clone(), title, format!("its `{pool}` is {whole}"));
    let fix = Bytes(whole.0 / 2).to_string().replace(' ', "");
    rules.tell(told.expected(format!("at most {whole}")).help(format!("write `{key}: {fix}`")));
}

fn expectation(
    rules: &mut Rules<'_>,
    placed: &Placed<ExpectFile>,
    ladder: &[Rung],
    (first, last): (Span, Span),
) -> Option<Expectation> {
    let file = &placed.value;
    match (&file.at, &file.rung, &file.switches) {
        (None, None, Some(count)) => Some(Expectation::Switches(count.value)),
        (Some(at), Some(rung), None) => {
            if at.value.amount < first {
                let told = Diagnostic::new(
                    at.span.clone(),
                    "this time is before the timeline begins",
                    format!("begins at {first}"),
                );
                let fix = (first + Span::minutes(1)).to_string().replace(' ', "");
                rules.tell(told.expected("a time within the test").help(format!("write `at: {fix}`")));
            } else if at.value.amount > last + LOOK_MAX {
                let told = Diagnostic::new(
                    at.span.clone(),
                    "this time is too long after the timeline",
                    format!("ends at {last}"),
                );
                let fix = (last + Span::minutes(10)).to_string().replace(' ', "");
                rules.tell(told.expected("at most 7 days after its last entry").help(format!("write `at: {fix}`")));
            }
            let asleep = rung.value == ASLEEP;
            if !asleep && !known(&rung.value, ladder) {
                rules.unknown_rung(rung, ladder);
            }
            let rung = (!asleep).then(|| rung.value.clone());
            Some(Expectation::Rung { at: at.value.amount, rung })
        }
        (_, _, _) => {
            let told =
                Diagnostic::new(placed.span.clone(), "an expectation says one thing", "not one of the two forms");
            let told = told.expected("`{ at: 80s, rung: small }` or `{ switches: 3 }`");
            rules.tell(told.help(example_of_expect(ladder).replace("expect: [", "").replace("]`", "`")));
            None
        }
    }
}
