//! Decisions: what the Controller sets about, and what it asks for in turn -> the records of the last of them, here and in
//! the store.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::admin::explain::{DecisionRecord, Last, NotKept, StepRecord};
use crate::decide::command::Command;
use crate::decide::explain::Decision;
use crate::store::Store;
use crate::store::decision::Kept;
use crate::units::{Moment, Span};

/// Steps of one decision that are kept; a drain that is waited for again and again has many.
const STEPS_MAX: usize = 64;

#[derive(Debug, Default)]
pub struct Decisions {
    /// The oldest first; at most as many as the store keeps.
    records: VecDeque<Arc<DecisionRecord>>,
    /// The id of the last decision of the run before.
    before: u64,
    /// When the last one was made.
    made: Moment,
}

impl Decisions {
    /// Goes on after those that were kept. One that this version cannot read is left out.
    pub fn after(kept: Vec<Kept>) -> Self {
        let before = kept.iter().map(|kept| kept.id).max().unwrap_or_default();
        let read = |kept: Kept| serde_json::from_str(&kept.record).ok().map(Arc::new);
        Decisions { records: kept.into_iter().filter_map(read).collect(), before, made: Moment::START }
    }

    /// Writes down a command, with the decision that it is for; what the decision's id is.
    pub fn note(
        &mut self,
        now: Moment,
        unix_ms: u64,
        decision: &Decision,
        command: &Command,
        store: Option<&Store>,
    ) -> u64 {
        let id = self.before + decision.number;
        if self.records.back().is_none_or(|last| last.id < id) {
            self.made = now;
            self.records.push_back(Arc::new(begun(id, unix_ms, decision)));
            if self.records.len() > crate::store::decision::KEPT_MAX {
                self.records.pop_front();
            }
        }
        if let Some(record) = self.records.back_mut().filter(|record| record.id == id) {
            let record = Arc::make_mut(record);
            if record.steps.len() < STEPS_MAX {
                record.steps.push(step(now.since(self.made), record, command));
            }
            if let (Some(store), Ok(text)) = (store, serde_json::to_string(record)) {
                store.keep_decision(Kept { id, record: text });
            }
        }
        id
    }

    pub fn get(&self, id: u64) -> Result<Arc<DecisionRecord>, NotKept> {
        let found = self.records.iter().find(|record| record.id == id).cloned();
        found.ok_or_else(|| NotKept {
            first: self.records.front().map(|record| record.id),
            last: self.records.back().map(|record| record.id),
        })
    }

    /// The last one of this run.
    pub fn last(&self, now: Moment) -> Option<Last> {
        let record = self.records.back().filter(|record| record.id > self.before)?;
        Some(Last {
            id: record.id,
            ago_ms: now.since(self.made),
            kind: record.kind,
            from: record.from.clone(),
            to: record.to.clone(),
            text: record.text.clone(),
        })
    }
}

fn begun(id: u64, unix_ms: u64, decision: &Decision) -> DecisionRecord {
    let Decision { kind, reason, from, to, evidence, .. } = decision;
    DecisionRecord {
        id,
        unix_ms,
        kind: *kind,
        from: from.clone(),
        to: to.clone(),
        reason: reason.clone(),
        text: reason.to_string(),
        evidence: evidence.clone(),
        steps: Vec::new(),
    }
}

fn step(after_ms: Span, record: &DecisionRecord, command: &Command) -> StepRecord {
    let text = command.reason().to_string();
    let about = if let Command::Notify { notice, .. } = command { Some(notice.event().to_owned()) } else { None };
    StepRecord {
        after_ms,
        command: command.name().to_owned(),
        rung: about.or_else(|| command.rung().map(|rung| rung.name.clone())),
        text: (text != record.text).then_some(text),
    }
}
