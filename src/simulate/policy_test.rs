//! Policy tests: the `tests:` of a policy -> what of them did not come true, and what happened instead.

use std::fmt;
use std::sync::Arc;

use super::outcome::Outcome;
use super::run_before;
use super::story::Story;
use crate::policy::{Expectation, Policy, PolicyTest};
use crate::units::Span;

/// How long a timeline goes on after its last entry when nothing later is expected.
const TAIL: Span = Span::minutes(1);

/// A test that was run on virtual time.
#[derive(Clone, Debug)]
pub struct Played {
    /// How long it was in there.
    pub span: Span,
    pub failures: Vec<Failure>,
    pub outcome: Outcome,
    pub story: Story,
}

/// One thing that was expected and is not so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// When; `None` is over the whole of it.
    pub at: Option<Span>,
    pub expected: String,
    pub found: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(at) = self.at {
            write!(f, "at {at}: ")?;
        }
        write!(f, "expected {}, found {}", self.expected, self.found)
    }
}

/// Runs one test of a policy on virtual time, and says what did not come true.
pub fn check(policy: &Arc<Policy>, test: &PolicyTest) -> Vec<Failure> {
    play(policy, test).failures
}

/// Runs one test of a policy on virtual time.
pub fn play(policy: &Arc<Policy>, test: &PolicyTest) -> Played {
    let last = test.timeline.iter().map(|entry| entry.at).max().unwrap_or_default() + TAIL;
    let asked = test.expect.iter().filter_map(Expectation::at).max().unwrap_or_default();
    let (span, mut story) = (last.max(asked), Story::default());
    let outcome = run_before(policy, &test.machine, &test.timeline, span, &mut story);
    let failures = test.expect.iter().filter_map(|expectation| expectation.broken_by(&outcome)).collect();
    Played { span, failures, outcome, story }
}

impl Expectation {
    fn at(&self) -> Option<Span> {
        match self {
            Expectation::Rung { at, .. } => Some(*at),
            Expectation::Switches(_) => None,
        }
    }

    fn broken_by(&self, outcome: &Outcome) -> Option<Failure> {
        let name = |rung: Option<&str>| rung.map_or("asleep".to_owned(), |rung| format!("rung {rung}"));
        let failure = |expected, found| Failure { at: self.at(), expected, found };
        match self {
            Expectation::Rung { at, rung } => {
                let found = outcome.rung_at(*at);
                (found != rung.as_deref()).then(|| failure(name(rung.as_deref()), name(found)))
            }
            Expectation::Switches(count) => (outcome.switches != *count)
                .then(|| failure(format!("{count} switches"), format!("{} switches", outcome.switches))),
        }
    }
}
