//! Readme: what the pages say of the program -> held against the program, so that they stay true.
#![cfg(feature = "shell")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tierkeeper::cli::check::{Color, check};
use tierkeeper::policy::parse::parse;
use tierkeeper::simulate::policy_test;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn page(name: &str) -> String {
    fs::read_to_string(root().join(name)).expect("a page of the repository")
}

/// The blocks of a page that say that they are in this language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let opening = format!("```{language}\n");
    let inside = |rest: &str| rest.split("\n```").next().map(|block| format!("{block}\n"));
    page.split(opening.as_str()).skip(1).filter_map(inside).collect()
}

/// What stands in backticks on a line, in order.
fn quoted(line: &str) -> Vec<&str> {
    line.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_yaml_block_is_a_file_that_check_takes() {
    let folder = tempfile::tempdir().unwrap();
    // The settings name it, and it is looked into.
    fs::write(folder.path().join("discord-url.txt"), "https://discord.com/api/webhooks/1/x\n").unwrap();
    let found = blocks(&page("README.md"), "yaml");
    assert_eq!(found.len(), 2, "a policy and settings");
    for (number, text) in found.iter().enumerate() {
        let path = folder.path().join(format!("block-{number}.yaml"));
        fs::write(&path, text).unwrap();
        let (report, fine) = check(&[path], Color::Plain);
        assert!(fine, "{report}");
    }
}

#[test]
fn the_policy_is_twenty_lines_and_passes_its_own_test() {
    let found = blocks(&page("README.md"), "yaml");
    let text = found.iter().find(|text| text.contains("ladder:")).expect("a policy is shown");
    assert!(text.lines().count() <= 20, "{} lines", text.lines().count());
    let policy = Arc::new(parse(text, "README.md").unwrap_or_else(|wrong| panic!("{}", wrong.render(false))));
    assert!(!policy.tests.is_empty());
    for test in &policy.tests {
        let failures = policy_test::check(&policy, test);
        assert!(failures.is_empty(), "{}: {failures:?}", test.name);
    }
}

#[test]
fn the_commands_are_those_that_the_program_has() {
    let output = Command::new(env!("CARGO_BIN_EXE_tierkeeper")).arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // What goes on from the line before is set in further.
    let mut there: Vec<&str> = commands
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|command| *command != "help")
        .collect();
    let text = page("README.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `tierkeeper "));
    let mut shown: Vec<&str> = rows.filter_map(|row| row.split(['`', ' ']).next()).collect();
    there.sort_unstable();
    shown.sort_unstable();
    assert_eq!(shown, there);
}

#[test]
fn every_link_leads_to_a_file() {
    for (name, folder) in [("README.md", ""), ("CHANGELOG.md", ""), ("docs/ARCHITECTURE.md", "docs")] {
        let text = page(name);
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.starts_with("http")) {
            assert!(root().join(folder).join(target).exists(), "{name}: `{target}` is not there");
        }
    }
}

#[test]
fn every_path_that_the_pages_name_is_there() {
    const FOLDERS: [&str; 7] = ["src/", "docs/", "tests/", "config/", "compose/", "policies/", ".ci/"];
    for name in ["README.md", "docs/ARCHITECTURE.md"] {
        let text = page(name);
        let quoted = text.lines().flat_map(quoted);
        let blocks = blocks(&text, "sh");
        let in_blocks = blocks.iter().flat_map(|block| block.split_whitespace());
        for word in quoted.chain(in_blocks) {
            if FOLDERS.iter().any(|folder| word.starts_with(folder)) {
                assert!(root().join(word).exists(), "{name}: `{word}` is not there");
            }
        }
    }
}

#[test]
fn the_rooms_are_those_of_the_source() {
    let text = page("docs/ARCHITECTURE.md");
    let section = text.split("## The rooms").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("the section");
    let shown: Vec<&str> = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let lib = fs::read_to_string(Path::new(&root()).join("src/lib.rs")).unwrap();
    let there: Vec<&str> = lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert_eq!(shown, there);
}
