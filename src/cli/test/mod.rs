//! Test: policy files -> their own tests, run on virtual time; where one did not come true, what happened around it.

mod timeline;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;

use super::check::Color;
use super::paint::Paint;
use super::{BAD_CONFIGURATION, NO, color, exit};
use crate::policy::{Policy, PolicyTest};
use crate::run::clock::Clock;
use crate::run::policy_file;
use crate::simulate::policy_test::{self, Played};
use crate::units::{Moment, Span};

#[derive(Debug, Args)]
pub(super) struct TestArgs {
    /// The policies whose tests are run.
    #[arg(required = true, value_name = "FILE")]
    policies: Vec<PathBuf>,
    /// Run only the tests whose names contain this.
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
}

pub(super) fn test(args: &TestArgs) -> ExitCode {
    let clock = Clock::start();
    let now = || clock.now();
    let mut runner = Runner::new(color(), args.filter.as_deref(), &now);
    let mut broken = false;
    for path in &args.policies {
        match policy_file::read(path) {
            Ok(policy) => print!("{}", runner.file(path, &Arc::new(policy))),
            Err(error) => {
                eprintln!("{error}");
                broken = true;
            }
        }
    }
    println!("{}", runner.summary());
    exit(if broken { BAD_CONFIGURATION } else { runner.code() })
}

/// Runs tests and counts them.
struct Runner<'a> {
    color: Color,
    filter: Option<&'a str>,
    now: &'a dyn Fn() -> Moment,
    began: Moment,
    passed: u32,
    failed: u32,
    left_out: u32,
    /// How long it was in the tests.
    played: Span,
}

impl<'a> Runner<'a> {
    fn new(color: Color, filter: Option<&'a str>, now: &'a dyn Fn() -> Moment) -> Self {
        Runner { color, filter, now, began: now(), passed: 0, failed: 0, left_out: 0, played: Span::ZERO }
    }

    /// Runs the tests of one file, and tells how they went.
    fn file(&mut self, path: &Path, policy: &Arc<Policy>) -> String {
        let mut text = format!("{}\n", self.color.paint(Paint::Strong, &path.display().to_string()));
        let wanted = |test: &&PolicyTest| self.filter.is_none_or(|part| test.name.contains(part));
        let tests: Vec<&PolicyTest> = policy.tests.iter().filter(wanted).collect();
        self.left_out += (policy.tests.len() - tests.len()) as u32;
        if policy.tests.is_empty() {
            line(&mut text, "  no `tests:` in it");
        }
        for test in tests {
            let from = (self.now)();
            let played = policy_test::play(policy, test);
            let took = (self.now)().since(from);
            self.one(&mut text, path, test, &played, took);
        }
        line(&mut text, "");
        text
    }

    fn one(&mut self, text: &mut String, path: &Path, test: &PolicyTest, played: &Played, took: Span) {
        self.played = self.played + played.span;
        let times = self.color.paint(Paint::Faint, &format!("({} in {})", played.span, real(took)));
        if played.failures.is_empty() {
            self.passed += 1;
            return line(text, &format!("  {}      {}  {times}", self.color.paint(Paint::Good, "ok"), test.name));
        }
        self.failed += 1;
        line(text, &format!("  {}  {}  {times}", self.color.paint(Paint::Bad, "FAILED"), test.name));
        line(text, &format!("          {}:{}", path.display(), test.line));
        text.push_str(&timeline::around(test, played, self.color));
    }

    fn summary(&self) -> String {
        let counts = format!("{} passed, {} failed", self.passed, self.failed);
        let paint = if self.code() == 0 { Paint::Good } else { Paint::Bad };
        let left_out = match self.left_out {
            0 => String::new(),
            count => format!(", {count} left out"),
        };
        let took = (self.now)().since(self.began);
        let none = match self.filter {
            Some(filter) if self.passed + self.failed == 0 => format!("\nno test has `{filter}` in its name"),
            Some(_) | None => String::new(),
        };
        format!("{}{left_out}; {} in {}{none}", self.color.paint(paint, &counts), self.played, real(took))
    }

    /// A filter that nothing goes through is a mistake, and must not look like success.
    fn code(&self) -> u8 {
        let nothing = self.filter.is_some() && self.passed + self.failed == 0;
        if self.failed > 0 || nothing { NO } else { 0 }
    }
}

/// The clock counts whole milliseconds, and most tests need none.
fn real(took: Span) -> String {
    if took == Span::ZERO { "under 1 ms".to_owned() } else { took.to_string() }
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("a string takes all that is written to it");
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::policy::parse::parse;

    const POLICY: &str = "version: 1
ladder:
  - { name: large, model: l }
  - { name: small, model: s }
tests:
  - name: a hog takes the memory and gives it back
    machine: &desk { memory: 24GiB, cores: 8, footprint: { large: 12GiB, small: 2GiB } }
    timeline: [ { at: 0s, foreign: 2GiB }, { at: 2m, foreign: 12GiB, in_flight: 1 }, { at: 10m, foreign: 2GiB } ]
    expect: [ { at: 1m, rung: large }, { at: 3m, rung: small }, { at: 16m, rung: large }, { switches: 3 } ]
  - name: the same with wrong hopes
    machine: *desk
    timeline: [ { at: 0s, foreign: 2GiB }, { at: 2m, foreign: 12GiB, in_flight: 1 }, { at: 10m, foreign: 2GiB } ]
    expect: [ { at: 1m, rung: small }, { at: 3m, rung: small }, { at: 12m, rung: large }, { switches: 5 } ]
";

    /// What is printed, with a clock that is three milliseconds on whenever it is looked at.
    fn run(text: &str, filter: Option<&str>, color: Color) -> (String, u8) {
        let policy = Arc::new(parse(text, "p.yaml").unwrap_or_else(|wrong| panic!("{wrong}")));
        let ticks = Cell::new(0);
        let now = || Moment(ticks.replace(ticks.get() + 3));
        let mut runner = Runner::new(color, filter, &now);
        let report = runner.file(Path::new("p.yaml"), &policy);
        (report + &runner.summary(), runner.code())
    }

    #[test]
    fn a_wrong_expectation_shows_the_timeline_around_it() {
        let (report, code) = run(POLICY, None, Color::Plain);
        assert_eq!(code, 1);
        insta::assert_snapshot!(report);
    }

    #[test]
    fn only_the_tests_that_are_asked_for_are_run_and_none_is_no_success() {
        let (report, code) = run(POLICY, Some("gives it back"), Color::Plain);
        assert_eq!(code, 0);
        insta::assert_snapshot!(report, @r"
        p.yaml
          ok      a hog takes the memory and gives it back  (16 m in 3 ms)

        1 passed, 0 failed, 1 left out; 16 m in 9 ms
        ");
        let (report, code) = run(POLICY, Some("no such"), Color::Plain);
        assert_eq!(code, 1);
        insta::assert_snapshot!(report, @r"
        p.yaml

        0 passed, 0 failed, 2 left out; 0 ms in 3 ms
        no test has `no such` in its name
        ");
    }

    #[test]
    fn a_file_without_tests_says_so() {
        let without = POLICY.split("tests:").next().unwrap();
        let (report, code) = run(without, None, Color::Plain);
        assert_eq!(code, 0);
        insta::assert_snapshot!(report, @r"
        p.yaml
          no `tests:` in it

        0 passed, 0 failed; 0 ms in 3 ms
        ");
    }

    #[test]
    fn colours_change_no_words() {
        let (plain, _) = run(POLICY, None, Color::Plain);
        let (styled, _) = run(POLICY, None, Color::Styled);
        let parts = styled.split("\u{1b}[");
        let bare = parts.enumerate().map(|(at, part)| if at == 0 { part } else { part.split_once('m').unwrap().1 });
        assert_ne!(plain, styled);
        assert_eq!(bare.collect::<String>(), plain);
    }
}
