//! Parse: the text of a policy file -> a `Policy`, or everything that is wrong with it.
//!
//! First shape and units (`file`, through `yaml`), then the rules that look at more than one value. When the shape left
//! holes, the rules are not asked: what they would find follows from the holes.

use std::collections::BTreeSet;
use std::ops::Range;

use super::diagnostic::{Diagnostic, Diagnostics};
use super::file::{HINTS, PolicyFile, ReserveFile, RungFile, TierFile};
use super::yaml::{self, Placed, nearest};
use super::{AtDeadline, Needs, Policy, Reserve, Rung, Tier, WhenNothingFits, levels, scripts};
use crate::units::Bytes;

/// The one version there is.
const VERSION: u32 = 1;

/// In a test, the name for "no rung serves": no rung may have it.
pub(super) const ASLEEP: &str = "asleep";

/// The policy that a text holds; `path` is the name that the messages carry.
pub fn parse(text: &str, path: &str) -> Result<Policy, Diagnostics> {
    let reading = yaml::read_all::<PolicyFile>(text, HINTS);
    let mut rules = Rules { text, found: reading.found };
    let policy = match reading.value {
        Some(file) if reading.whole => rules.policy(file),
        Some(_) | None => None,
    };
    match policy {
        Some(policy) if rules.found.is_empty() => Ok(policy),
        Some(_) | None => Err(Diagnostics::new(path, text, rules.found)),
    }
}

/// What the rules have found so far.
pub(super) struct Rules<'t> {
    pub text: &'t str,
    pub found: Vec<Diagnostic>,
}

impl Rules<'_> {
    pub(super) fn tell(&mut self, diagnostic: Diagnostic) {
        self.found.push(diagnostic);
    }

    /// The line on which a byte stands, from 1.
    pub(super) fn line(&self, at: usize) -> u32 {
        let before = self.text.as_bytes().iter().take(at);
        u32::try_from(before.filter(|byte| **byte == b'\n').count() + 1).unwrap_or(u32::MAX)
    }

    fn policy(&mut self, file: PolicyFile) -> Option<Policy> {
        self.version(file.version.as_ref());
        let ladder = self.ladder(file.ladder);
        let tiers = self.tiers(&file.tiers, &ladder);
        let pressure = levels::pressure(self, &file.pressure);
        let upgrade = levels::upgrade(self, &file.upgrade, &pressure);
        let reserve = self.reserve(&file.reserve, &tiers, &file.tiers);
        let (hand_over, at_deadline) = self.at_deadline(file.at_deadline.as_ref());
        let when_nothing_fits = self.when_nothing_fits(file.when_nothing_fits.as_ref());
        let tests = file.tests.into_iter().filter_map(|test| scripts::test(self, test, &ladder, reserve)).collect();
        let default = Policy::for_ladder(ladder)?;
        let tiers = if tiers.is_empty() { default.tiers } else { tiers };
        let ladder = default.ladder;
        Some(Policy { ladder, tiers, reserve, pressure, hand_over, at_deadline, upgrade, when_nothing_fits, tests })
    }

    fn version(&mut self, version: Option<&Placed<u32>>) {
        let told = match version {
            Some(version) if version.value == VERSION => return,
            Some(other) => {
                Diagnostic::new(other.span.clone(), format!("unknown version: {}", other.value), "not known here")
                    .expected("version 1, the only one there is")
                    .help("write `version: 1`")
            }
            // It stands there, then, and its shape is told already.
            None if yaml::find(self.text, "version").is_some() => return,
            None => Diagnostic::new(self.first_line(), "a key is missing: `version`", "the file begins without it")
                .expected("the version of the format, before anything else")
                .help("add the line `version: 1`"),
        };
        self.tell(told);
    }

    /// The first line that says anything.
    fn first_line(&self) -> Range<usize> {
        let mut start = 0;
        for line in self.text.split_inclusive('\n') {
            if !line.trim().is_empty() && !line.trim_start().starts_with('#') {
                return start..start + line.trim_end().len();
            }
            start += line.len();
        }
        0..0
    }

    fn ladder(&mut self, ladder: Option<Placed<Vec<Placed<RungFile>>>>) -> Vec<Rung> {
        let example = "add `ladder: [{ name: small, model: \"qwen3:0.6b\" }]`";
        let Some(ladder) = ladder else {
            if yaml::find(self.text, "ladder").is_some_and(|span| !span.is_empty()) {
                return Vec::new();
            }
            let told = Diagnostic::new(self.first_line(), "a key is missing: `ladder`", "the file has none");
            self.tell(told.expected("the rungs, best first").help(example));
            return Vec::new();
        };
        if ladder.value.is_empty() {
            let told = Diagnostic::new(ladder.span, "the ladder is empty", "no rung");
            self.tell(told.expected("at least one rung, best first").help(example));
        }
        let mut rungs: Vec<Rung> = Vec::new();
        for Placed { value: rung, .. } in ladder.value {
            self.rung_name(&rung, &rungs);
            if rung.model.value.trim().is_empty() {
                let told = Diagnostic::new(rung.model.span, "`model` is empty", "no name");
                self.tell(told.expected("the server's name for it").help("write `model: \"qwen3:0.6b\"`"));
            }
            if let Some(context) = rung.context.as_ref().filter(|context| context.value == 0) {
                let told = Diagnostic::new(context.span.clone(), "a context of no tokens", "too small");
                self.tell(told.expected("a number of tokens").help("write `context: 4096`"));
            }
            let context = rung.context.map(|context| context.value);
            rungs.push(Rung { name: rung.name.value, model: rung.model.value, context });
        }
        rungs
    }

    fn rung_name(&mut self, rung: &RungFile, above: &[Rung]) {
        let name = rung.name.value.as_str();
        let said = |title: &str, label| Diagnostic::new(rung.name.span.clone(), title, label);
        if name == ASLEEP {
            let told = said("a rung cannot be called `asleep`", "has a meaning of its own");
            self.tell(
                told.expected("another name: in tests `asleep` is when no rung serves").help("write `name: small`"),
            );
        } else if name.trim().is_empty() {
            self.tell(said("`name` is empty", "no name").help("write `name: small`"));
        } else if above.iter().any(|other| other.name == name) {
            let told = said(&format!("two rungs have one name: `{name}`"), "the second one");
            let fresh = unused(name, |free| !above.iter().any(|other| other.name == free));
            self.tell(told.expected("a name of its own for each rung").help(format!("write `name: {fresh}`")));
        }
    }

    fn tiers(&mut self, files: &[Placed<TierFile>], ladder: &[Rung]) -> Vec<Tier> {
        let mut tiers: Vec<Tier> = Vec::new();
        for Placed { value: file, .. } in files {
            let name = file.name.value.as_str();
            if tiers.iter().any(|other| other.name == name) {
                let told = Diagnostic::new(
                    file.name.span.clone(),
                    format!("two tiers have one name: `{name}`"),
                    "the second one",
                );
                let fresh = unused(name, |free| !files.iter().any(|other| other.value.name.value == free));
                self.tell(told.expected("a name of its own for each tier").help(format!("write `name: {fresh}`")));
            }
            let needs = Needs {
                memory: file.needs.memory.as_ref().map(|size| size.amount),
                cores: file.needs.cores,
                vram: file.needs.vram.as_ref().map(|size| size.amount),
            };
            let best = self.tier_rungs(&file.rungs, ladder);
            tiers.push(Tier { name: name.to_owned(), needs, best });
        }
        tiers
    }

    /// The index of the best rung that a tier names.
    fn tier_rungs(&mut self, rungs: &Placed<Vec<Placed<String>>>, ladder: &[Rung]) -> usize {
        if let (true, Some(last)) = (rungs.value.is_empty(), ladder.last()) {
            let told = Diagnostic::new(rungs.span.clone(), "a tier without rungs", "none");
            let told = told.expected("the best rungs that such a machine may aim for");
            self.tell(told.help(format!("write `rungs: [{}]`", last.name)));
        }
        let mut indexes = Vec::new();
        for name in &rungs.value {
            match ladder.iter().position(|rung| rung.name == name.value) {
                Some(index) => indexes.push(index),
                None => self.unknown_rung(name, ladder),
            }
        }
        // A name that stands twice is out of order, too.
        if indexes.len() == rungs.value.len() && !indexes.is_sorted_by(|a, b| a < b) {
            let sorted: BTreeSet<usize> = indexes.iter().copied().collect();
            let names: Vec<&str> = sorted.iter().map(|index| ladder[*index].name.as_str()).collect();
            let told = Diagnostic::new(
                rungs.span.clone(),
                "the rungs of a tier are not in the ladder's order",
                "out of order",
            );
            let told = told.expected("best first, each once, as in `ladder`");
            self.tell(told.help(format!("write `rungs: [{}]`", names.join(", "))));
        }
        indexes.into_iter().min().unwrap_or(0)
    }

    pub(super) fn unknown_rung(&mut self, name: &Placed<String>, ladder: &[Rung]) {
        // An empty ladder is told already.
        if ladder.is_empty() {
            return;
        }
        let known: Vec<&str> = ladder.iter().map(|rung| rung.name.as_str()).collect();
        let told =
            Diagnostic::new(name.span.clone(), format!("no rung has this name: `{}`", name.value), "not in `ladder`");
        let told = told.expected(format!("one of {}", super::reader::listed(&known)));
        let fix = nearest(&name.value, known.iter().copied()).or(known.last().copied()).unwrap_or_default();
        self.tell(told.help(format!("write `{fix}`")));
    }

    /// A machine of a tier must have something left once the reserve is taken.
    fn reserve(&mut self, file: &ReserveFile, tiers: &[Tier], tier_files: &[Placed<TierFile>]) -> Reserve {
        let default = Reserve::default();
        let memory = file.memory.as_ref().map_or(default.memory, |size| size.value.amount);
        let vram = file.vram.as_ref().map_or(default.vram, |size| size.value.amount);
        for (tier, tier_file) in tiers.iter().zip(tier_files) {
            let pools = [
                ("memory", memory, tier.needs.memory, &file.memory, default.memory),
                ("vram", vram, tier.needs.vram, &file.vram, default.vram),
            ];
            for (pool, kept, needed, written, default) in pools {
                let Some(needed) = needed.filter(|needed| *needed <= kept) else { continue };
                let span = written.as_ref().map_or(&tier_file.value.name.span, |size| &size.span).clone();
                let title = format!("the reserve leaves nothing of what tier `{}` asks for", tier.name);
                let told = Diagnostic::new(span, title, format!("{kept} of {needed} {pool}"));
                let told = told.expected(format!("less than the `{pool}` of every tier"));
                let fix = if default < needed { default } else { Bytes(needed.0 / 8) };
                self.tell(told.help(format!("write `reserve: {{ {pool}: {} }}`", fix.to_string().replace(' ', ""))));
            }
        }
        Reserve { memory, vram }
    }

    /// Whether replies are to be handed over first, and what becomes of those that are left.
    fn at_deadline(&mut self, list: Option<&Placed<Vec<Placed<String>>>>) -> (bool, AtDeadline) {
        let Some(list) = list else { return (true, AtDeadline::Wait) };
        let (first, rest) = match list.value.split_first() {
            Some((first, rest)) if first.value == "hand_over" => (true, rest),
            Some(_) | None => (false, &list.value[..]),
        };
        let mut found = Vec::new();
        for word in rest {
            match word.value.as_str() {
                "wait" => found.push(AtDeadline::Wait),
                "cut" => found.push(AtDeadline::Cut),
                "hand_over" => {
                    let told = Diagnostic::new(word.span.clone(), "`hand_over` is never tried", "not the first");
                    let told =
                        told.expected("`hand_over`, if at all, before `wait` or `cut`, which are always possible");
                    self.tell(told.help("write `at_deadline: [hand_over, wait]`"));
                    return (true, AtDeadline::Wait);
                }
                other => {
                    let told = Diagnostic::new(word.span.clone(), format!("unknown: `{other}`"), "not known");
                    let fix = nearest(other, ["hand_over", "wait", "cut"]).unwrap_or("wait");
                    let fix = if fix == "hand_over" { "hand_over, wait" } else { fix };
                    let told = told.expected("`hand_over`, `wait` or `cut`");
                    self.tell(told.help(format!("write `at_deadline: [{fix}]`")));
                    return (first, AtDeadline::Wait);
                }
            }
        }
        if found.len() != 1 {
            let label = if found.is_empty() { "neither `wait` nor `cut`" } else { "more than one" };
            let told = Diagnostic::new(list.span.clone(), "`at_deadline` does not end with one thing to do", label);
            let told = told.expected("`hand_over`, if it is to be tried, and then exactly one of `wait` and `cut`");
            self.tell(told.help("write `at_deadline: [hand_over, wait]`"));
        }
        (first, found.first().copied().unwrap_or(AtDeadline::Wait))
    }

    fn when_nothing_fits(&mut self, word: Option<&Placed<String>>) -> WhenNothingFits {
        match word.map(|word| word.value.as_str()) {
            None | Some("keep_smallest") => WhenNothingFits::KeepSmallest,
            Some("sleep") => WhenNothingFits::Sleep,
            Some(other) => {
                let span = word.map_or(0..0, |word| word.span.clone());
                let told = Diagnostic::new(span, format!("unknown: `{other}`"), "not known");
                let fix = nearest(other, ["keep_smallest", "sleep"]).unwrap_or("keep_smallest");
                let told = told.expected("`keep_smallest` or `sleep`");
                self.tell(told.help(format!("write `when_nothing_fits: {fix}`")));
                WhenNothingFits::KeepSmallest
            }
        }
    }
}

/// The name with the first number after it that makes it free.
fn unused(name: &str, free: impl Fn(&str) -> bool) -> String {
    let mut numbered = (2..).map(|number| format!("{name}_{number}"));
    numbered.find(|one| free(one)).expect("a file has fewer names than there are numbers")
}
