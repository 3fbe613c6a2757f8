//! Text: a ladder and a machine -> a policy file with comments, every value of it written by `serde_yaml`.
//!
//! The levels, the reserve and the way up are the defaults, written out so that they can be read and changed. A model's
//! name may be anything, so it never gets into the file but through the writer, or into a comment on one line.

use std::fmt::Write;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::choose::{Candidate, LeftOut, amounts, printable};
use super::scenario::{Scenario, scenarios};
use crate::config::ServerKind;
use crate::policy::parse::parse;
use crate::policy::{Policy, Reserve, Rung};
use crate::simulate::policy_test;
use crate::units::Bytes;

const MIB: u64 = 1 << 20;
/// What a tier needs is written in whole ones of these.
const STEP: u64 = 256 * MIB;

/// A size as a policy has it, down to whole MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size(pub(super) Bytes);

impl Size {
    pub(super) fn whole(self) -> u64 {
        self.0.0 / MIB * MIB
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mib = self.0.0 / MIB;
        let gib = mib > 0 && mib.is_multiple_of(1024);
        serializer.serialize_str(&if gib { format!("{}GiB", mib / 1024) } else { format!("{mib}MiB") })
    }
}

/// All that is written.
pub(super) struct Draft<'a> {
    pub(super) kind: ServerKind,
    /// Its name, version and address.
    pub(super) server: String,
    pub(super) memory: Bytes,
    pub(super) vram: Bytes,
    pub(super) cores: u32,
    pub(super) names: &'a [&'static str],
    pub(super) rungs: &'a [Candidate],
    pub(super) left_out: &'a [LeftOut],
    /// What the file will be called, for the lines that are to be pasted.
    pub(super) file: String,
    /// How llama-server is to be started for it.
    pub(super) start: Option<String>,
}

#[derive(Serialize)]
struct Ladder<'a> {
    ladder: Vec<Step<'a>>,
}

#[derive(Serialize)]
struct Step<'a> {
    name: &'a str,
    model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<u32>,
}

#[derive(Serialize)]
struct Tiers<'a> {
    tiers: Vec<Tier<'a>>,
}

#[derive(Serialize)]
struct Tier<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    needs: Option<Needs>,
    rungs: &'a [&'static str],
}

#[derive(Serialize)]
struct Needs {
    memory: Size,
    #[serde(skip_serializing_if = "Option::is_none")]
    vram: Option<Size>,
}

#[derive(Serialize)]
struct Tests {
    tests: Vec<Scenario>,
}

/// What rungs are called, by how many there are.
pub(super) fn names(count: usize) -> &'static [&'static str] {
    match count {
        0 => &[],
        1 => &["only"],
        2 => &["large", "small"],
        3 => &["large", "medium", "small"],
        _ => &["large", "medium", "small", "tiny"],
    }
}

/// The file. A test that does not come true here is not written; of a ladder that fits, one always does.
pub(super) fn policy(draft: &Draft<'_>) -> String {
    let untested = untested(draft);
    let default = defaults(draft);
    let mut scenarios = scenarios(draft, &default).into_iter().map(|scenario| untested.clone() + &tests(scenario));
    scenarios.find(|text| comes_true(text)).unwrap_or(untested)
}

fn comes_true(text: &str) -> bool {
    let Ok(policy) = parse(text, "policy") else { return false };
    let policy = Arc::new(policy);
    policy.tests.iter().all(|test| policy_test::check(&policy, test).is_empty())
}

/// The policy without its test, by which that is made up.
fn defaults(draft: &Draft<'_>) -> Policy {
    let rung = |(name, rung): (&&str, &Candidate)| Rung {
        name: (*name).to_owned(),
        model: rung.model.clone(),
        context: rung.context,
    };
    let ladder = draft.names.iter().zip(draft.rungs).map(rung).collect();
    Policy::for_ladder(ladder).expect("a ladder was chosen")
}

fn untested(draft: &Draft<'_>) -> String {
    let mut text = head(draft);
    text += "version: 1\n\n";
    text += &ladder(draft);
    text += &tiers(draft);
    text += &format!(
        "# Always left to other programs.\n\
         reserve: {{ memory: {}, vram: {} }}\n\n",
        plain(Reserve::default().memory),
        plain(Reserve::default().vram)
    );
    text + LEVELS
}

fn head(draft: &Draft<'_>) -> String {
    let cores = if draft.cores == 1 { "1 core".to_owned() } else { format!("{} cores", draft.cores) };
    let card = if draft.vram > Bytes::ZERO { format!(", {} of GPU memory", draft.vram) } else { String::new() };
    let file = &draft.file;
    let mut text = format!(
        "# What Tierkeeper runs on a machine with {} of memory{card} and {cores}, made by `tierkeeper init` of what\n\
         # {} has. All of it may be changed.\n\
         #\n\
         #   tierkeeper check {file}          says where a mistake is\n\
         #   tierkeeper test {file}           plays the test at the end, in virtual time\n\
         #   tierkeeper run --policy {file}   goes by it; an edit counts at once\n",
        draft.memory,
        printable(&draft.server),
    );
    if let Some(start) = &draft.start {
        text += &format!(
            "#\n\
             # llama-server gives each model its context by a preset, which was written beside this file. Start it with\n\
             # (a `-c` there would count more than the preset):\n\
             #\n\
             #   {start}\n"
        );
    }
    text
}

fn ladder(draft: &Draft<'_>) -> String {
    let mut text = String::from("# The models, best first. What each may take at most, until more is learned:\n");
    for (name, rung) in draft.names.iter().zip(draft.rungs) {
        let known = if rung.seen { ", as it was seen to take" } else { "" };
        line(&mut text, &format!("#   {name:<8} {}{known}", amounts(&rung.need)));
    }
    if draft.kind == ServerKind::Ollama {
        text += "# None has a `context`, so each comes with its model's own (4096 tokens, where nothing else was set). With one, say\n\
                 # `context: 8192`, also set `ollama: { derive_models: true }` in the settings: /v1 would load it anew without.\n";
    }
    let steps = draft.names.iter().zip(draft.rungs);
    let steps = steps.map(|(name, rung)| Step { name, model: &rung.model, context: rung.context });
    text += &yaml(&Ladder { ladder: steps.collect() });
    if !draft.left_out.is_empty() {
        text += "# Left out:\n";
    }
    for left in draft.left_out {
        line(&mut text, &format!("#   {}: {}", printable(&left.model), left.why));
    }
    text.push('\n');
    text
}

/// The best rung needs a machine on which it can be climbed to, the next one less, and the last tier takes what is left.
fn tiers(draft: &Draft<'_>) -> String {
    let named: &[&str] = match draft.rungs.len() {
        1 => &["any"],
        2 => &["high_end", "low_end"],
        _ => &["high_end", "mid_range", "low_end"],
    };
    let tier = |(at, name): (usize, &&'static str)| Tier {
        name,
        needs: (at + 1 < named.len()).then(|| needs(draft, &draft.rungs[at])),
        rungs: &draft.names[at..draft.names.len().min(at + 2)],
    };
    let tiers = named.iter().enumerate().map(tier).collect();
    let text = "# Which machine may aim for what; the first that matches counts. This one is of the first.\n";
    format!("{text}{}\n", yaml(&Tiers { tiers }))
}

fn needs(draft: &Draft<'_>, rung: &Candidate) -> Needs {
    let default = Policy::for_ladder(vec![Rung { name: String::new(), model: String::new(), context: None }]);
    let default = default.expect("one rung is a ladder");
    let below = default.pressure.soft.use_share.0 - default.upgrade.margin.0;
    let least = |need: Bytes, reserve: Bytes, has: Bytes| {
        let by_share = need.0.saturating_mul(1000) / u64::from(below);
        let margin = 1000 - u64::from(default.upgrade.margin.0);
        let by_reserve = (need + reserve).0.saturating_mul(1000) / margin;
        Size(Bytes(by_share.max(by_reserve).div_ceil(STEP).saturating_mul(STEP).min(Size(has).whole())))
    };
    let vram = rung.need.vram;
    Needs {
        memory: least(rung.need.memory, default.reserve.memory, draft.memory),
        vram: (vram > Bytes::ZERO).then(|| least(vram, default.reserve.vram, draft.vram)),
    }
}

fn tests(scenario: Scenario) -> String {
    format!("\n# What it is to do, as `tierkeeper test` plays it.\n{}", yaml(&Tests { tests: vec![scenario] }))
}

fn plain(size: Bytes) -> String {
    yaml(&Size(size)).trim_end().to_owned()
}

fn yaml<T: Serialize>(value: &T) -> String {
    serde_yaml::to_string(value).expect("it is plain data")
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("a string takes all that is written to it");
}

/// The defaults; a test holds them against what they are.
const LEVELS: &str = "\
# How bad it must get: so much of memory in use, of time stalled for it, or replies slower than so much of their usual speed
# while others use the processors. `drain` is how long running replies may then take to end.
pressure:
  soft:      { use: 80%, stall_some: 10%, speed_below: 50%, drain: 120s }
  hard:      { use: 90%, stall_full: 20%, drain: 15s }
  emergency: { use: 97%, stall_full: 40%, drain: 5s }

# Replies that run on after that: the smaller model goes on with them where it can, others are waited for (or: cut).
at_deadline: [hand_over, wait]

# Back up when the better model has fitted for `stable`, learned within those bounds, with `margin` of memory to spare; if the
# smaller one must go first, only after `idle` without a request.
upgrade: { stable: { start: 5m, learn: true, min: 15s, max: 2h }, margin: 5%, idle: 10s }

# Or `sleep`: no model at all is held then.
when_nothing_fits: keep_smallest
";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::choose::tests::{room, server};
    use super::super::choose::{Known, choose};
    use super::*;
    use crate::cli::check::{Color, check};
    use crate::footprint::Footprint;
    use crate::policy::{AtDeadline, WhenNothingFits};

    fn candidate(model: &str, mib: u64, vram: u64) -> Candidate {
        let need = Footprint { memory: Bytes::mib(mib), vram: Bytes::mib(vram) };
        Candidate { model: model.to_owned(), context: None, parts: 1, need, seen: false }
    }

    fn draft<'a>(memory: Bytes, vram: Bytes, rungs: &'a [Candidate], left_out: &'a [LeftOut]) -> Draft<'a> {
        Draft {
            kind: ServerKind::Ollama,
            server: "Ollama 0.33.1 at http://127.0.0.1:11434".to_owned(),
            memory,
            vram,
            cores: 8,
            names: names(rungs.len()),
            rungs,
            left_out,
            file: "policy.yaml".to_owned(),
            start: None,
        }
    }

    fn read(text: &str) -> Policy {
        parse(text, "policy.yaml").unwrap_or_else(|wrong| panic!("{}\n{text}", wrong.render(false)))
    }

    fn models(policy: &Policy) -> Vec<&str> {
        policy.ladder.iter().map(|rung| rung.model.as_str()).collect()
    }

    #[test]
    fn a_file_for_a_desktop_with_a_card_reads_like_this() {
        let rungs =
            [candidate("qwen3:14b", 1100, 8600), candidate("qwen3:4b", 1000, 3900), candidate("qwen3:0.6b", 800, 1300)];
        let left = [LeftOut { model: "nomic-embed-text".to_owned(), why: "it answers no questions".to_owned() }];
        insta::assert_snapshot!(policy(&draft(Bytes::gib(16), Bytes::gib(12), &rungs, &left)));
    }

    #[test]
    fn what_is_written_out_are_the_defaults() {
        let policy = read(&policy(&draft(Bytes::gib(16), Bytes::ZERO, &[candidate("m", 4000, 0)], &[])));
        assert_eq!((policy.reserve, policy.pressure, policy.upgrade), Default::default());
        assert_eq!((policy.hand_over, policy.at_deadline), (true, AtDeadline::Wait));
        assert_eq!(policy.when_nothing_fits, WhenNothingFits::KeepSmallest);
        assert_eq!(policy.tests.len(), 1);
    }

    #[test]
    fn a_test_that_fails_here_is_not_written() {
        // More than the machine has: the best rung never serves.
        let policy = read(&policy(&draft(Bytes::gib(4), Bytes::ZERO, &[candidate("m", 4000, 0)], &[])));
        assert_eq!(policy.tests, []);
    }

    #[test]
    fn the_tiers_are_such_that_this_machine_is_of_the_first() {
        use crate::classify::tier::{Machine, tier};
        let rungs = [candidate("a", 5600, 0), candidate("b", 2000, 0), candidate("c", 700, 0)];
        let memory = Bytes(Bytes::gib(8).0 - 1000);
        let policy = read(&policy(&draft(memory, Bytes::ZERO, &rungs, &[])));
        let of = |memory| tier(&policy, Machine { memory, cores: 1, vram: Bytes::ZERO });
        let found = |memory| (of(memory).name, of(memory).matched());
        assert_eq!(found(memory), ("high_end".to_owned(), true));
        assert_eq!(found(Bytes::gib(5)), ("mid_range".to_owned(), true));
        assert_eq!(found(Bytes::gib(1)), ("low_end".to_owned(), true));
    }

    /// Names that a writer of YAML gets wrong when it does not look, and any others.
    fn name() -> impl Strategy<Value = String> {
        let odd = [
            "yes",
            "no",
            "null",
            "~",
            "1.10",
            "0x1F",
            "1e3",
            "-x",
            "- a",
            "# a",
            "a # b",
            "a: b",
            "a:b",
            "'",
            "\"",
            "a'b\"c",
            "{a}",
            "[a]",
            "a, b",
            "&a",
            "*a",
            "!t",
            "|",
            ">",
            "%",
            "@",
            "`",
            "?",
            "? a",
            ": ",
            "é",
            "模型",
            "\u{1f600}",
            " a",
            "a ",
            "a\tb",
            "a\nb",
            "a\r\nb",
            "\u{85}",
            "\u{2028}",
            "\u{feff}",
            "\u{7f}",
            "\\",
            "2026-11-27",
            "12:30",
            "<<",
            "=",
            "---",
            "...",
        ];
        prop_oneof![prop::sample::select(odd.to_vec()).prop_map(str::to_owned), ".{1,20}", "[a-z0-9.:/_-]{1,20}"]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn whatever_a_model_is_called_it_comes_back_from_the_file(
            names in prop::collection::btree_set(name(), 1..5), left in name(),
        ) {
            let names: Vec<String> = names.into_iter().filter(|name| !name.trim().is_empty()).collect();
            prop_assume!(!names.is_empty());
            let rungs = names.iter().zip([4000, 2000, 1000, 500]).map(|(name, mib)| candidate(name, mib, 0));
            let rungs: Vec<Candidate> = rungs.collect();
            let left = [LeftOut { model: left, why: "it embeds".to_owned() }];
            let text = untested(&draft(Bytes::gib(16), Bytes::ZERO, &rungs, &left));
            let policy = parse(&text, "p").map_err(|wrong| TestCaseError::fail(format!("{}\n{text}", wrong.render(false))))?;
            prop_assert_eq!(models(&policy), names);
        }

    }

    proptest! {
        // Each plays hours in virtual time.
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn whatever_a_server_has_the_file_is_fine_and_its_test_comes_true(
            sizes in prop::collection::vec(1u64..60_000, 1..9), gib in 2u64..80,
        ) {
            let names: Vec<String> = (0..sizes.len()).map(|number| format!("m{number}")).collect();
            let models: Vec<(&str, u64)> = names.iter().map(String::as_str).zip(sizes).collect();
            let (facts, offers) = server(&models);
            let known = Known { kind: ServerKind::Ollama, facts: &facts, offers: &offers, learned: &[] };
            let chosen = choose(&known, &room(gib));
            prop_assume!(!chosen.rungs.is_empty());
            let text = policy(&draft(Bytes::gib(gib), Bytes::ZERO, &chosen.rungs, &chosen.left_out));
            let policy = parse(&text, "p").map_err(|wrong| TestCaseError::fail(format!("{}\n{text}", wrong.render(false))))?;
            prop_assert_eq!(policy.tests.len(), 1, "{}", text);
            let away = text.contains("and gives it back");
            prop_assert_eq!(away, chosen.rungs.len() > 1, "{}", text);
        }
    }

    #[test]
    fn check_takes_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.yaml");
        let rungs = [candidate("a", 4000, 0), candidate("b", 1000, 0)];
        std::fs::write(&path, policy(&draft(Bytes::gib(16), Bytes::ZERO, &rungs, &[]))).unwrap();
        let (report, fine) = check(&[path], Color::Plain);
        assert!(fine && report.contains("2 rungs, 2 tiers, 1 test"), "{report}");
    }
}
