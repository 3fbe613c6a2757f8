//! Policy tests: the `tests:` of a policy -> what of them did not come true.

use std::fmt;
use std::sync::Arc;

use super::outcome::Outcome;
use super::run;
use crate::policy::{Expectation, Policy, PolicyTest};
use crate::units::Span;

/// How long a timeline goes on after its last entry when nothing later is expected.
const TAIL: Span = Span::minutes(1);

/// One thing that was expected and is not so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub test: String,
    pub line: u32,
    pub expected: String,
    pub found: String,
    /// What happened, change by change.
    pub changes: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "test `{}`: expected {}, found {}", self.test, self.expected, self.found)?;
        self.changes.iter().try_for_each(|change| write!(f, "\n    {change}"))
    }
}

/// Runs one test of a policy on virtual time.
pub fn check(policy: &Arc<Policy>, test: &PolicyTest) -> Vec<Failure> {
    let last = test.timeline.iter().map(|entry| entry.at).max().unwrap_or_default() + TAIL;
    let asked = test.expect.iter().filter_map(Expectation::at).max().unwrap_or_default();
    let outcome = run(policy, &test.machine, &test.timeline, last.max(asked));
    let failure = |(expected, found): (String, String)| Failure {
        test: test.name.clone(),
        line: test.line,
        expected,
        found,
        changes: outcome.changes.iter().map(told).collect(),
    };
    test.expect.iter().filter_map(|expectation| expectation.broken_by(&outcome)).map(failure).collect()
}

fn told(change: &super::outcome::Change) -> String {
    let rung = change.rung.as_deref().unwrap_or("asleep");
    format!("{} {rung}: {}", Span(change.at_ms), change.reason)
}

impl Expectation {
    fn at(&self) -> Option<Span> {
        match self {
            Expectation::Rung { at, .. } => Some(*at),
            Expectation::Switches(_) => None,
        }
    }

    /// What was expected and what was found instead, where they differ.
    fn broken_by(&self, outcome: &Outcome) -> Option<(String, String)> {
        let name = |rung: Option<&str>| rung.map_or("asleep".to_owned(), |rung| format!("rung {rung}"));
        match self {
            Expectation::Rung { at, rung } => {
                let found = outcome.rung_at(*at);
                (found != rung.as_deref()).then(|| (format!("{} at {at}", name(rung.as_deref())), name(found)))
            }
            Expectation::Switches(count) => (outcome.switches != *count)
                .then(|| (format!("{count} switches"), format!("{} switches", outcome.switches))),
        }
    }
}
