//! Strays: what the server lists -> a serving rung that has vanished, and a rung that is loaded and does not serve.

use std::sync::Arc;

use super::command::Command;
use super::controller::{Adopt, Controller};
use super::phase::Kind;
use super::reason::Reason;
use super::table::First;
use crate::policy::Rung;
use crate::units::{Moment, Span};

/// What the server lists may lag behind what it does.
const LISTING_LAG: Span = Span::seconds(3);
/// How long a stray that was unloaded once is left alone when it comes back: somebody else wants it.
const CONTESTED: Span = Span::minutes(10);

impl Controller {
    pub(super) fn has_vanished(&mut self, now: Moment, serving: &Rung) -> bool {
        let Some(residents) = &self.residents else {
            // Two absences with silence between them are not one.
            self.vanished_since = None;
            return false;
        };
        if residents.iter().any(|resident| resident.model == serving.model) {
            self.vanished_since = None;
            return false;
        }
        let since = *self.vanished_since.get_or_insert(now);
        now.since(since) >= LISTING_LAG
    }

    pub(super) fn serving_is_gone(&mut self, now: Moment, serving: &Arc<Rung>) {
        if self.follows_change(now) {
            return;
        }
        let reason = Reason::ModelVanished { model: serving.model.clone() };
        self.commands.push_back(Command::Close { rung: Arc::clone(serving), reason });
        self.vanished_since = None;
        self.serving = None;
        self.refresh_ledger();
        self.floor = 0;
        self.begin_first(now);
    }

    /// Gets rid of a ladder model that is loaded and does not serve. Once: what comes back is wanted by somebody else.
    pub(super) fn clear_stray(&mut self, now: Moment, serving: Option<&Rung>) -> bool {
        let serves = |rung: &Rung| serving.is_some_and(|serving| serving.model == rung.model);
        let stray = self.policy.ladder.iter().find(|rung| !serves(rung) && self.holds(rung)).cloned();
        // One that would not go when we unloaded it is ours to get rid of, whoever else it may belong to.
        let ours = |rung: &Arc<Rung>| self.adopt == Adopt::Ladder || self.ledger.leaked.contains_key(&rung.model);
        let Some(stray) = stray.filter(ours) else {
            self.stray = None;
            return false;
        };
        let since = match &self.stray {
            Some((model, since)) if *model == stray.model => *since,
            Some(_) | None => {
                self.stray = Some((stray.model.clone(), now));
                now
            }
        };
        if now.since(since) < LISTING_LAG {
            return false;
        }
        let cleared_ago = self.cleared_at.get(&stray.model).map(|at| now.since(*at));
        if let Some(ago) = cleared_ago.filter(|ago| *ago < CONTESTED) {
            self.tell_contested(&stray, ago);
            return false;
        }
        self.contest_told.remove(&stray.model);
        self.cleared_at.insert(stray.model.clone(), now);
        self.stray = None;
        let reason = Reason::ServerFound {
            version: self.server.as_ref().map(|facts| facts.version.clone()).unwrap_or_default(),
            holds: serving.into_iter().chain([&*stray]).map(|rung| rung.model.clone()).collect(),
        };
        // One that was only missing from the list for a while may still be replying.
        self.begin(now, Kind::Clear, reason, Some(stray), None, First::Leaving);
        true
    }
}
