//! Bench: the rungs of a ladder, smallest first -> each loaded, measured, asked and unloaded again, or why not.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::machine::{LOOK_EVERY, Look, Machine, Taken, taken};
use super::progress::Progress;
use super::report::{Report, RungReport};
use crate::act::error::ActError;
use crate::act::probe::Quickness;
use crate::act::{Driver, Resident};
use crate::classify::{Level, Pool, Unread};
use crate::config::Config;
use crate::decide::fit::{Limit, Room, shortage};
use crate::decide::input::ServerFacts;
use crate::footprint::Footprint;
use crate::footprint::key::FootprintKey;
use crate::footprint::sightings::{Learned, Sightings};
use crate::policy::{Policy, Rung};
use crate::store::Store;
use crate::store::speed::{Measured, Speed};
use crate::units::Span;

/// A load that takes longer is given up.
const LOAD_MAX: Duration = Duration::from_secs(600);
/// The longest that memory is waited for after an unload.
const BACK_MAX: Span = Span::seconds(5);

pub(super) struct Bench {
    driver: Driver,
    policy: Arc<Policy>,
    facts: ServerFacts,
    machine: Machine,
    learned: Vec<Learned>,
    progress: Progress,
    /// What the server held when we came.
    found: Vec<Resident>,
    /// What we have loaded, or are loading.
    ours: Option<Arc<Rung>>,
    rungs: Vec<RungReport>,
}

impl Bench {
    pub(super) fn new(
        driver: Driver,
        policy: Arc<Policy>,
        facts: ServerFacts,
        config: &Config,
        learned: Vec<Learned>,
        progress: Progress,
    ) -> Self {
        let machine = Machine::new(config, &driver);
        Bench { driver, policy, facts, machine, learned, progress, found: Vec::new(), ours: None, rungs: Vec::new() }
    }

    /// What is there already stays there; and of a model, what goes onto a graphics card is not taken of memory.
    pub(super) async fn look_around(&mut self) -> Result<(), ActError> {
        self.found = self.driver.residents().await?;
        if let Some(vram) = self.machine.vram(&self.policy).await {
            self.facts.place(vram);
        }
        Ok(())
    }

    pub(super) async fn measure_all(&mut self, store: Option<&Store>) {
        let ladder: Vec<Arc<Rung>> = self.policy.ladder.iter().rev().map(Arc::clone).collect();
        for (done, rung) in ladder.iter().enumerate() {
            self.progress.say(done, &rung.name, "looking whether it fits");
            let report = match self.measure(done, rung, store).await {
                Ok(report) => report,
                Err(why) => RungReport { skipped: Some(why), ..self.blank(rung) },
            };
            self.put_away().await;
            self.rungs.push(report);
            if self.wants_another(rung) {
                self.progress.say(done, &rung.name, "loading it once more, for it took far less than was expected");
                self.see_again(rung, store).await;
                self.put_away().await;
            }
        }
        self.progress.end();
    }

    async fn measure(&mut self, done: usize, rung: &Arc<Rung>, store: Option<&Store>) -> Result<RungReport, String> {
        self.refuse_what_is_no_use(rung)?;
        let before = self.machine.looks(&self.policy).await;
        self.refuse_what_does_not_fit(rung, before.last().ok_or("the machine cannot be read")?)?;
        self.progress.say(done, &rung.name, "loading");
        let load = self.load(rung).await?;
        self.progress.say(done, &rung.name, "measuring what it takes");
        let settled = self.machine.settled(&self.policy).await;
        self.driver.check(rung).await.map_err(|error| error.to_string())?;
        self.progress.say(done, &rung.name, "asking it something");
        let quickness = self.driver.quickness(rung).await.map_err(|error| error.to_string())?;
        self.progress.say(done, &rung.name, "seeing whether it goes on with a reply");
        let continues = self.driver.continues_reply(rung).await.map_err(|error| error.to_string())?;
        let mut after = self.machine.looks(&self.policy).await;
        // What it answered has made it grow; what it took before that is no less than it takes.
        if after.last().and_then(Look::own) < settled.own() {
            after.push(settled);
        }
        let taken = self.taken(rung, &before, &after).await;
        let listed = self.driver.residents().await.unwrap_or_default();
        let served = listed.into_iter().find(|resident| resident.model == self.driver.listed_name(&rung.model));
        let speed = speed(load, quickness, continues);
        self.keep_footprint(rung, taken, store);
        if let (Some(store), Some(key)) = (store, self.digested_key(rung)) {
            store.remember_speed(Measured { key, speed });
        }
        Ok(RungReport {
            context: served.and_then(|resident| resident.context).or(rung.context),
            memory_bytes: taken.map(|taken| taken.footprint.memory),
            anonymous_bytes: taken.and_then(|taken| taken.parts).map(|parts| parts.anonymous),
            file_bytes: taken.and_then(|taken| taken.parts).map(|parts| parts.file),
            vram_bytes: taken.map(|taken| taken.footprint.vram),
            left_bytes: after.last().and_then(Look::left),
            speed,
            ..self.blank(rung)
        })
    }

    /// A single load that took far less than was predicted is not believed yet.
    fn wants_another(&self, rung: &Rung) -> bool {
        let Some(key) = self.key(rung) else { return false };
        let predicted = self.facts.models.get(&rung.model).and_then(|model| model.bound(rung.context));
        let measured = self.rungs.last().is_some_and(|report| report.memory_bytes.is_some());
        let known = self.learned.iter().find(|learned| learned.key == key);
        measured && known.is_some_and(|learned| learned.sightings.wants_another(predicted))
    }

    /// A second load, for what it takes alone. What goes wrong leaves the first one as it is.
    async fn see_again(&mut self, rung: &Arc<Rung>, store: Option<&Store>) {
        let before = self.machine.looks(&self.policy).await;
        let fits = before.last().is_some_and(|look| self.refuse_what_does_not_fit(rung, look).is_ok());
        if !fits || self.load(rung).await.is_err() {
            return;
        }
        self.machine.settled(&self.policy).await;
        if self.driver.quickness(rung).await.is_err() {
            return;
        }
        let after = self.machine.looks(&self.policy).await;
        let taken = self.taken(rung, &before, &after).await;
        self.keep_footprint(rung, taken, store);
    }

    /// What is found loaded may be in use, and a server that is full throws something out.
    fn refuse_what_is_no_use(&self, rung: &Rung) -> Result<(), String> {
        let name = self.driver.listed_name(&rung.model);
        if !self.facts.models.contains_key(&rung.model) {
            return Err("the server does not have it".to_owned());
        }
        if self.found.iter().any(|resident| resident.model == name) {
            return Err("it was loaded already and may be in use; unload it first".to_owned());
        }
        match self.facts.models_max {
            Some(most) if self.found.len() >= most as usize => {
                Err(format!("the server holds {most} at most, and other models are loaded; unload them first"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// By the rule that the sidecar climbs by. All that is used stays, so all of it counts.
    fn refuse_what_does_not_fit(&self, rung: &Rung, look: &Look) -> Result<(), String> {
        if look.assessment.unread != Unread::default() {
            return Err("the machine cannot be read, so nothing is known to fit".to_owned());
        }
        let need = self.bound(rung).ok_or("its size is not known, so it is not known to fit")?;
        let rooms: Vec<Room> = look.assessment.pools().map(|pool| Room::of(pool, pool.used)).collect();
        let short = shortage(&rooms, &need, Limit::Below(self.policy.upgrade.margin));
        short.map_or(Ok(()), |short| {
            let amount = if short.pool == Pool::Ram { need.memory } else { need.vram };
            Err(format!(
                "it does not fit now: it may take {amount} of {}, and {} is missing",
                short.pool, short.missing
            ))
        })
    }

    fn bound(&self, rung: &Rung) -> Option<Footprint> {
        let predicted = self.facts.models.get(&rung.model)?.bound(rung.context);
        match self.key(rung).and_then(|key| self.learned.iter().find(|learned| learned.key == key)) {
            Some(learned) => learned.sightings.bound(predicted),
            None => predicted,
        }
    }

    fn key(&self, rung: &Rung) -> Option<FootprintKey> {
        Some(self.facts.models.get(&rung.model)?.key.as_ref()?.with_context(rung.context))
    }

    /// Loads it, and gives it up when the machine fills up.
    async fn load(&mut self, rung: &Arc<Rung>) -> Result<Span, String> {
        self.ours = Some(Arc::clone(rung));
        let from = self.machine.elapsed();
        let (driver, machine, policy) = (&self.driver, &mut self.machine, &self.policy);
        let filling = async {
            loop {
                sleep(LOOK_EVERY).await;
                let look = machine.look(policy);
                if look.assessment.usage.level >= Level::Hard {
                    return look.sample.ram.map(|ram| ram.used.share_of(ram.capacity)).unwrap_or_default();
                }
            }
        };
        tokio::select! {
            loaded = timeout(LOAD_MAX, driver.load(rung)) => {
                loaded.map_err(|_| format!("it was not loaded within {} s", LOAD_MAX.as_secs()))?
                    .map_err(|error| error.to_string())?;
            }
            used = filling => return Err(format!("its load was given up: the machine was {used} full")),
        }
        Ok(Span(self.machine.elapsed().0 - from.0))
    }

    /// Nothing is learned where other models came or went meanwhile.
    async fn taken(&self, rung: &Rung, before: &[Look], after: &[Look]) -> Option<Taken> {
        let name = self.driver.listed_name(&rung.model);
        let listed = self.driver.residents().await.ok()?;
        let others = listed.iter().filter(|resident| resident.model != name);
        let same = others.clone().count() == self.found.len()
            && others.clone().all(|other| self.found.iter().any(|found| found.model == other.model));
        let weights = self.key(rung).and_then(|key| key.weights);
        taken(before, after, weights).filter(|_| same && !self.machine.weights_hidden())
    }

    fn keep_footprint(&mut self, rung: &Rung, taken: Option<Taken>, store: Option<&Store>) {
        let (Some(key), Some(taken)) = (self.digested_key(rung), taken) else { return };
        let known = self.learned.iter().position(|learned| learned.key == key);
        let known = known.unwrap_or_else(|| {
            self.learned.push(Learned { key, sightings: Sightings::default() });
            self.learned.len() - 1
        });
        let learned = &mut self.learned[known];
        learned.sightings.add(taken.footprint);
        if let Some(store) = store {
            store.remember(learned.clone());
        }
    }

    /// Without a digest another file of the same name could not be told from this one.
    fn digested_key(&self, rung: &Rung) -> Option<FootprintKey> {
        self.key(rung).filter(|key| key.digest.is_some())
    }

    /// Unloads what we loaded, and waits a while for its memory.
    async fn put_away(&mut self) {
        let Some(rung) = self.ours.take() else { return };
        let held = self.machine.look(&self.policy).own();
        if let Err(error) = self.driver.unload(&rung).await {
            tracing::warn!(message = "A model could not be unloaded.", rung = %rung.name, %error);
            return;
        }
        let until = self.machine.elapsed() + BACK_MAX;
        while self.machine.elapsed() < until {
            let own = self.machine.look(&self.policy).own();
            // Processes that are hidden tell nothing; then it is not waited for.
            if own.is_none() || own < held {
                return;
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// What is still loaded by us goes, and what was thrown out to make room for it comes back.
    pub(super) async fn leave_as_found(&mut self) {
        self.progress.end();
        self.put_away().await;
        let listed = self.driver.residents().await.unwrap_or_default();
        for gone in self.found.iter().filter(|found| !listed.iter().any(|resident| resident.model == found.model)) {
            let rung = Rung { name: gone.model.clone(), model: gone.model.clone(), context: gone.context };
            let back = async {
                self.driver.load(&rung).await?;
                self.driver.release(&rung).await
            };
            if let Err(error) = back.await {
                tracing::warn!(message = "A model that was loaded before is gone.", model = %gone.model, %error);
            }
        }
    }

    pub(super) fn report(self, interrupted: bool, kept_in: Option<PathBuf>) -> Report {
        Report { server: self.facts.version, rungs: self.rungs, interrupted, kept_in }
    }

    fn blank(&self, rung: &Rung) -> RungReport {
        RungReport {
            rung: rung.name.clone(),
            model: rung.model.clone(),
            context: rung.context,
            ..RungReport::default()
        }
    }
}

fn speed(load: Span, quickness: Quickness, continues: Option<bool>) -> Speed {
    Speed {
        load_ms: Some(load),
        first_token_ms: Some(quickness.first_token),
        prompt_tokens_per_second: quickness.prompt_tokens_per_second,
        predicted_tokens_per_second: quickness.predicted_tokens_per_second,
        continues_reply: continues,
    }
}
