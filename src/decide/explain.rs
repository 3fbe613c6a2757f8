//! Explain: the Controller as it stands -> what was measured, what is asked of the ladder, and what is found of each rung.
//!
//! It asks the very functions that decide, so that no explanation can differ from a decision. What a decision was made on
//! is kept with it: later the machine is another.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::controller::Controller;
use super::fit::amount;
use super::judge::RECENT;
use super::modifier::Modifier;
use super::peaks::HORIZON;
use super::phase::{Kind, Phase};
use super::reason::Reason;
use super::verdict::{Question, Verdict};
use crate::classify::{Level, Pool, PoolAssessment};
use crate::footprint::Footprint;
use crate::policy::Rung;
use crate::units::{Bytes, Moment, Span};

/// Why it is as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    pub at_ms: Moment,
    pub phase: Phase,
    pub modifiers: Vec<Modifier>,
    /// The rung that serves; `None` when none does.
    pub serving: Option<String>,
    pub severity: Level,
    /// What makes it so bad, from soft on.
    pub trouble: Option<Reason>,
    /// Those that could be read.
    pub pools: Vec<PoolAssessment>,
    pub asked: Asked,
    /// Best first; empty when nothing is asked of the ladder.
    pub rungs: Vec<Weighed>,
}

/// What is asked of the ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Asked {
    /// Nothing serves: which rung can be had?
    First,
    /// Which smaller rung can be had?
    Down,
    /// Which better rung can be had?
    Up,
    /// Nothing: a rung that should not be loaded is got rid of, the server does not answer, or somebody has said what is to
    /// serve.
    Nothing,
}

/// One rung, and what was found of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weighed {
    pub rung: String,
    pub model: String,
    /// What it takes at most; `None` when that is not known.
    pub footprint: Option<Footprint>,
    #[serde(flatten)]
    pub verdict: Verdict,
    /// What was compared, pool by pool.
    pub predicted: Vec<Predicted>,
    /// The verdict in words.
    pub text: String,
    /// What would have to be otherwise for it to be had, in words.
    pub would_change: Option<String>,
}

/// In this pool others hold so much, at worst over the window that counts, and with the rung it would come to `sum`, where
/// it may go up to `limit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Predicted {
    pub pool: Pool,
    pub foreign: Bytes,
    pub sum: Bytes,
    pub limit: Bytes,
}

/// Something that was set about, and on what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Counts from 1 in each run.
    pub number: u64,
    pub kind: Decided,
    pub reason: Reason,
    pub from: Option<String>,
    pub to: Option<String>,
    pub evidence: Explanation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decided {
    /// Nothing served, and something is loaded.
    First,
    Down,
    Up,
    /// A rung that should not be loaded is got rid of.
    Clear,
    /// The serving rung is no longer in the policy.
    Replace,
    /// To what somebody asks for: another rung, or none.
    Asked,
    /// What the server was found to hold serves.
    Keep,
    /// Nothing fits, so nothing is loaded.
    Sleep,
}

impl From<Kind> for Decided {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::First => Decided::First,
            Kind::Down => Decided::Down,
            Kind::Up => Decided::Up,
            Kind::Clear => Decided::Clear,
            Kind::Replace => Decided::Replace,
            Kind::Asked => Decided::Asked,
        }
    }
}

impl Controller {
    /// Why it is as it is now, and why nothing else is done.
    pub fn explain(&self, now: Moment) -> Explanation {
        self.explanation(now, self.question_now())
    }

    /// What was set about last.
    pub fn decision(&self) -> Option<&Decision> {
        self.decision.as_deref()
    }

    /// Keeps what is about to be set about, with what is known now. Call it before anything is changed.
    pub(super) fn note_decision(&mut self, now: Moment, kind: Decided, reason: &Reason, to: Option<&Rung>) {
        let number = self.decision.as_ref().map_or(1, |last| last.number + 1);
        let evidence = self.explanation(now, self.question_of(kind));
        let from = self.serving.as_ref().map(|rung| rung.name.clone());
        let (to, reason) = (to.map(|rung| rung.name.clone()), reason.clone());
        self.decision = Some(Arc::new(Decision { number, kind, reason, from, to, evidence }));
    }

    /// What would be asked of the ladder next.
    fn question_now(&self) -> Option<Question> {
        match self.phase {
            Phase::Starting => None,
            Phase::Reconciling => Some(self.question_first()),
            Phase::Asleep if self.words.sleeps() => None,
            Phase::Asleep => Some(Question::First { window: self.asleep_hold }),
            Phase::Steady if self.severity.level >= Level::Soft => self.question_of(Decided::Down),
            Phase::Steady if self.is_held() => None,
            Phase::Steady => self.question_of(Decided::Up),
            Phase::Draining
            | Phase::HandingOver
            | Phase::Unloading
            | Phase::Verifying
            | Phase::Loading
            | Phase::Checking => self.switch.as_ref().and_then(|switch| self.question_of(switch.kind.into())),
        }
    }

    /// What is asked of the ladder to come to such a decision.
    fn question_of(&self, kind: Decided) -> Option<Question> {
        let serving = self.serving.as_ref().and_then(|rung| self.index_of(rung));
        match kind {
            Decided::First | Decided::Sleep if self.blind => Some(Question::Unread),
            Decided::First if self.phase == Phase::Asleep => Some(Question::First { window: self.asleep_hold }),
            Decided::First | Decided::Keep | Decided::Sleep => Some(self.question_first()),
            Decided::Down => {
                let from = serving.map_or(self.floor, |serving| serving + 1);
                Some(Question::Down { from, window: RECENT })
            }
            Decided::Up => Some(serving.map_or(self.question_first(), |serving| Question::Up { serving })),
            Decided::Replace => Some(Question::Down { from: 0, window: RECENT }),
            Decided::Clear | Decided::Asked => None,
        }
    }

    fn question_first(&self) -> Question {
        match self.floor {
            0 => Question::First { window: HORIZON },
            from => Question::Down { from, window: RECENT },
        }
    }

    fn explanation(&self, now: Moment, question: Option<Question>) -> Explanation {
        let weighed = |question| (0..self.policy.ladder.len()).map(move |index| self.weighed(now, index, question));
        Explanation {
            at_ms: now,
            phase: self.phase,
            modifiers: self.modifiers().collect(),
            serving: self.serving.as_ref().map(|rung| rung.name.clone()),
            severity: self.severity.level,
            trouble: (self.severity.level >= Level::Soft).then(|| self.trouble()),
            pools: self.latest.pools().copied().collect(),
            asked: question.map_or(Asked::Nothing, |question| match question {
                Question::First { .. } | Question::Unread => Asked::First,
                Question::Down { .. } => Asked::Down,
                Question::Up { .. } => Asked::Up,
            }),
            rungs: question.into_iter().flat_map(weighed).collect(),
        }
    }

    fn weighed(&self, now: Moment, index: usize, question: Question) -> Weighed {
        let rung = &self.policy.ladder[index];
        let verdict = self.verdict(now, index, question);
        let (rooms, limit) = self.judged_by(now, index, question, verdict);
        let footprint = self.footprint(rung);
        let predicted = footprint.iter().flat_map(|need| {
            rooms.iter().map(move |room| Predicted {
                pool: room.pool,
                foreign: room.foreign,
                sum: room.foreign + amount(need, room.pool),
                limit: limit.of(room),
            })
        });
        let predicted = predicted.collect();
        let window = self.rule(index, question).0;
        Weighed {
            rung: rung.name.clone(),
            model: rung.model.clone(),
            footprint,
            verdict,
            predicted,
            text: verdict.in_words(now),
            would_change: verdict
                .would_change(now, if let Question::Up { .. } = question { window } else { Span::ZERO }),
        }
    }
}
