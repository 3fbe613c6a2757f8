//! Files: every policy file under tests/files and policies/ -> parsed, or refused with the whole message that an
//! operator would read. The messages stand beside the files as `.expected`; `UPDATE_EXPECTED=1` writes them anew.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tierkeeper::policy::parse::parse;
use tierkeeper::policy::{
    Amounts, AtDeadline, Expectation, Needs, Policy, Pressure, Reserve, Rung, Threshold, TimelineEntry, WhenNothingFits,
};
use tierkeeper::units::{Bytes, Permille, Span};

fn yaml_files(folder: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = fs::read_dir(&root).unwrap_or_else(|error| panic!("{}: {error}", root.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("a listed entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    assert!(!files.is_empty(), "no files in {folder}");
    files
}

fn name(path: &Path) -> String {
    path.file_name().expect("a file has a name").to_string_lossy().into_owned()
}

#[test]
fn every_valid_file_and_every_shipped_policy_is_read() {
    for path in yaml_files("tests/files/valid").into_iter().chain(yaml_files("policies")) {
        let text = fs::read_to_string(&path).unwrap();
        if let Err(diagnostics) = parse(&text, &name(&path)) {
            panic!("{}", diagnostics.render(false));
        }
    }
}

#[test]
fn every_invalid_file_is_refused_with_the_message_that_stands_beside_it() {
    let update = std::env::var_os("UPDATE_EXPECTED").is_some();
    let mut wrong = Vec::new();
    for path in yaml_files("tests/files/invalid") {
        let text = fs::read_to_string(&path).unwrap();
        let Err(diagnostics) = parse(&text, &name(&path)) else { panic!("{} is read as valid", path.display()) };
        let rendered = format!("{}\n", diagnostics.render(false));
        let beside = path.with_extension("expected");
        if update {
            fs::write(&beside, &rendered).unwrap();
        }
        let expected = fs::read_to_string(&beside).unwrap_or_default();
        if rendered != expected {
            wrong.push(format!("{}\n--- is\n{rendered}\n--- was expected\n{expected}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn read(path: &str) -> Policy {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("a file of the repository");
    parse(&text, path).unwrap_or_else(|wrong| panic!("{wrong}"))
}

#[test]
fn every_value_of_a_policy_arrives_where_it_belongs() {
    let policy = read("policies/desktop-16g-gpu-12g.yaml");
    let rungs: Vec<_> = policy.ladder.iter().map(|rung| (&*rung.name, &*rung.model, rung.context)).collect();
    let written =
        [("large", "qwen3:14b", Some(16384)), ("medium", "qwen3:4b", Some(8192)), ("small", "qwen3:0.6b", Some(4096))];
    assert_eq!(rungs, written);
    let tiers: Vec<_> = policy.tiers.iter().map(|tier| (&*tier.name, tier.needs, tier.best)).collect();
    let needs = |memory, cores, vram: Option<u64>| Needs {
        memory: Some(Bytes::gib(memory)),
        cores: Some(cores),
        vram: vram.map(Bytes::gib),
    };
    let high = ("high_end", needs(8, 6, Some(8)), 0);
    assert_eq!(tiers, [high, ("mid_range", needs(4, 4, None), 1), ("low_end", needs(2, 2, None), 2)]);
    // This file writes out what the defaults are.
    assert_eq!((policy.reserve, policy.pressure, policy.upgrade), Default::default());
    assert_eq!((policy.hand_over, policy.at_deadline), (true, AtDeadline::Wait));
    assert_eq!(policy.when_nothing_fits, WhenNothingFits::KeepSmallest);
    let [test] = &policy.tests[..] else { panic!("{:?}", policy.tests) };
    assert_eq!((&*test.name, test.line), ("a game takes the VRAM, and gives it back", 30));
    let machine = &test.machine;
    assert_eq!((machine.memory, machine.cores, machine.vram), (Bytes::gib(16), 8, Bytes::gib(12)));
    assert_eq!(machine.footprint["medium"], Amounts { memory: Bytes::gib(1), vram: Bytes::gib(4) });
    let calm =
        TimelineEntry { foreign: Some(Bytes::gib(3)), vram_foreign: Some(Bytes::mib(500)), ..TimelineEntry::default() };
    assert_eq!(test.timeline[0], calm);
    assert_eq!(test.timeline[2].at, Span::minutes(10));
    assert_eq!(test.expect[1], Expectation::Rung { at: Span::seconds(80), rung: Some("small".to_owned()) });
    assert_eq!(test.expect[4], Expectation::Switches(3));
}

#[test]
fn what_is_not_written_has_its_levels_default() {
    let policy = read("tests/files/valid/partial-pressure.yaml");
    let default = Pressure::default();
    let soft = Threshold { use_share: Permille::percent(70), ..default.soft };
    let hard = Threshold { stall_some: Some(Permille::percent(50)), ..default.hard };
    assert_eq!(policy.pressure, Pressure { soft, hard, emergency: default.emergency });
    assert_eq!((policy.hand_over, policy.at_deadline), (false, AtDeadline::Cut));
    assert_eq!(policy.when_nothing_fits, WhenNothingFits::Sleep);
    assert_eq!(policy.reserve, Reserve::default());
    let names: Vec<&str> = policy.ladder.iter().map(|rung| &*rung.name).collect();
    assert_eq!(names, ["1.10", "no"]);

    let smallest = read("tests/files/valid/smallest.yaml");
    let rung = Rung { name: "small".to_owned(), model: "qwen3:0.6b".to_owned(), context: None };
    assert_eq!(Some(smallest), Policy::for_ladder(vec![rung]));
}

#[test]
fn a_machine_can_be_said_once_and_named_again() {
    let policy = read("tests/files/valid/anchors.yaml");
    let machine = &policy.tests[1].machine;
    assert_eq!(machine, &policy.tests[0].machine);
    assert_eq!(machine.footprint["large"], Amounts { memory: Bytes::gib(8), vram: Bytes::ZERO });
    assert_eq!((machine.loaded.as_deref(), machine.models_max), (Some("small"), Some(1)));
    let entry = policy.tests[0].timeline[0];
    assert_eq!((entry.stall_some, entry.in_flight), (Some(Permille(15)), Some(2)));
    assert_eq!((entry.cpu_foreign, entry.speed), (Some(Permille(600)), Some(Permille(400))));
    assert_eq!(policy.tests[1].expect[0], Expectation::Rung { at: Span::seconds(30), rung: None });
}

/// What a file is mutated with, `·` being a blank: words that mean something here, and characters that mean something to YAML.
const SPLINTERS: &str =
    "{ } [ ] : ,· -· \n \n·· \t \" ' # &a· *a <<:· ?· |\n !t· é \u{feff} 99999999999999999999 -1 1e999 ~ 80 GiB ---\n";

fn corpus() -> Vec<String> {
    let folders = ["tests/files/valid", "tests/files/invalid", "policies"];
    let files = folders.into_iter().flat_map(yaml_files);
    files.map(|path| fs::read_to_string(path).expect("a listed file")).collect()
}

fn mutated(text: &str, edits: &[(usize, usize, usize)]) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    let splinters: Vec<String> = SPLINTERS.split(' ').map(|one| one.replace('·', " ")).collect();
    for (at, removed, splinter) in edits {
        let at = at % (characters.len() + 1);
        let end = (at + removed).min(characters.len());
        characters.splice(at..end, splinters[splinter % splinters.len()].chars());
    }
    characters.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_text_makes_the_parser_panic_or_fail_without_a_word(
        file in any::<prop::sample::Index>(),
        edits in prop::collection::vec((0usize..4000, 0usize..12, 0usize..28), 1..6),
    ) {
        let corpus = corpus();
        let text = mutated(&corpus[file.index(corpus.len())], &edits);
        if let Err(diagnostics) = parse(&text, "mutated.yaml") {
            prop_assert!(!diagnostics.list.is_empty());
            prop_assert!(!diagnostics.render(true).is_empty());
        }
    }

    #[test]
    fn noise_does_not_either(text in "\\PC{0,200}") {
        if let Err(diagnostics) = parse(&text, "noise.yaml") {
            prop_assert!(!diagnostics.render(false).is_empty());
        }
    }
}
