//! Checks: what the Controller hears and asks for -> what of it must never be.
//!
//! They keep their own books of everything, and ask the Controller only for what it shows to everybody.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::machine::Machine;
use super::{CAPACITY, RUNGS, World};
use crate::classify::Level;
use crate::decide::command::Command;
use crate::decide::controller::Controller;
use crate::decide::explain::Decided;
use crate::decide::input::Input;
use crate::decide::lease::LeaseTold;
use crate::decide::modifier::Modifier;
use crate::decide::phase::Phase;
use crate::decide::word::Said;
use crate::policy::{AtDeadline, Rung};
use crate::sample::Sample;
use crate::units::{Bytes, Moment, Span};

/// Replies have at least this long before they are cut, and an unload before it is not waited for any more.
const DRAIN_MIN: Span = Span::seconds(5);
const UNLOAD_MIN: Span = Span::seconds(50);
/// Whoever wants more than there is takes what a model gives back before anybody can see that it was given.
const PAGES_MAX: Span = Span::seconds(5);
/// The machine is looked at again within this; a look may hang for a while.
const UNSEEN_MAX: Span = Span::seconds(30);
/// Who asks for room has an answer within this.
const ANSWER_MAX: Span = Span::minutes(5);
/// Who asks to end has not to wait for longer than a load that hangs beside replies that hardly end.
const EXIT_MAX: Span = Span::minutes(30);

#[derive(Debug)]
pub(super) struct Checks {
    world: World,
    /// The load, and the unload, that are under way.
    loading: Option<String>,
    unloading: Option<(String, Moment)>,
    /// The rung that was loaded, and the one that has answered.
    loaded: Option<String>,
    answered: Option<String>,
    /// When each rung's gate was closed.
    closed: BTreeMap<String, Moment>,
    /// The pool of the models could not be read in the last sample; nor could it be told what of it is ours.
    unread: bool,
    own_unknown: bool,
    /// What was used of it in the last two samples.
    used: [Bytes; 2],
    asleep_until: Option<Moment>,
    pinned: Option<(String, Moment)>,
    /// Who has asked for room and has no answer, and who has it.
    asking: BTreeMap<u64, Moment>,
    leased: BTreeMap<u64, Bytes>,
    stopping: Option<Moment>,
    ended: bool,
    /// The last moment of trouble, of blindness or of a change.
    restless: Moment,
    decisions: u64,
    waits: Option<(Phase, Moment)>,
    looked: Moment,
}

impl Checks {
    pub(super) fn new(world: World) -> Self {
        Checks {
            world,
            loading: None,
            unloading: None,
            loaded: None,
            answered: None,
            closed: BTreeMap::new(),
            unread: true,
            own_unknown: true,
            used: [CAPACITY; 2],
            asleep_until: None,
            pinned: None,
            asking: BTreeMap::new(),
            leased: BTreeMap::new(),
            stopping: None,
            ended: false,
            restless: Moment::START,
            decisions: 0,
            waits: None,
            looked: Moment::START,
        }
    }

    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    /// The operator's word is heard even where the Controller is made deaf to it.
    pub(super) fn heard(&mut self, now: Moment, input: &Input) {
        match input {
            Input::Sampled(sample) => self.sampled(sample),
            Input::LoadDone { rung, .. } => (self.loading, self.loaded) = (None, Some(rung.clone())),
            Input::LoadFailed { .. } => self.loading = None,
            Input::UnloadDone { .. } | Input::UnloadFailed { .. } => self.unloading = None,
            Input::CheckDone { rung } => self.answered = Some(rung.clone()),
            Input::ServerDown { .. } | Input::ServerUp(_) => {
                (self.loading, self.unloading, self.loaded, self.answered) = (None, None, None, None);
            }
            Input::OperatorSaid(said) => self.said(now, said),
            Input::Lease(LeaseTold::Asked { id, .. }) => self.asking.extend([(*id, now)]),
            Input::Lease(LeaseTold::Returned { id }) => self.asking.retain(|other, _| other != id),
            Input::StopRequested => self.stopping = Some(now),
            Input::Lease(LeaseTold::Renewed { .. } | LeaseTold::Kept(_))
            | Input::MachineFound(_)
            | Input::FootprintsLearned(_)
            | Input::WindowsTried(_)
            | Input::ModelsFound(_)
            | Input::CheckFailed { .. }
            | Input::Drained { .. }
            | Input::Replied(_)
            | Input::HandedOver { .. }
            | Input::HandOverFailed { .. }
            | Input::PolicyChanged(_) => {}
        }
    }

    fn sampled(&mut self, sample: &Sample) {
        let gpu = sample.gpus.values().next().copied();
        let models = gpu.unwrap_or(sample.ram);
        self.unread = models.is_none();
        self.own_unknown = sample.runners.is_none() && sample.residents.is_none();
        if let Some(models) = models {
            self.used = [self.used[1], models.used];
        }
    }

    fn said(&mut self, now: Moment, said: &Said) {
        let until = |lasts: &Option<Span>| lasts.map_or(Moment(u64::MAX), |lasts| now + lasts);
        match said {
            Said::Pin { rung, lasts } => self.pinned = Some((rung.clone(), until(lasts))),
            Said::Sleep { lasts } => self.asleep_until = Some(until(lasts)),
            Said::Wake { .. } => self.asleep_until = None,
            Said::Resume { .. } => (self.asleep_until, self.pinned) = (None, None),
        }
    }

    pub(super) fn commanded(&mut self, now: Moment, command: &Command, machine: &Machine) -> Result<(), String> {
        self.check(now, command, machine).map_err(|why| format!("at {}: {why}", Span(now.0)))
    }

    fn check(&mut self, now: Moment, command: &Command, machine: &Machine) -> Result<(), String> {
        let touches = matches!(
            command,
            Command::Load { .. }
                | Command::CancelLoad { .. }
                | Command::Unload { .. }
                | Command::Check { .. }
                | Command::HandOver { .. }
                | Command::Cut { .. }
                | Command::Release { .. }
        );
        if self.world.observes && touches {
            return Err(format!("a dry run touches something: {command:?}"));
        }
        match command {
            Command::Load { rung, .. } => self.load(now, rung, machine),
            Command::CancelLoad { .. } => {
                self.loading = None;
                Ok(())
            }
            Command::Unload { rung, .. } => self.unload(now, rung, machine),
            Command::Check { rung, .. } if self.loaded.as_ref() != Some(&rung.name) => {
                Err(format!("{} is asked for a token, and nobody has said that it is loaded", rung.name))
            }
            Command::Publish { rung, .. } => self.publish(rung, machine),
            Command::Close { rung, .. } => {
                self.closed.insert(rung.name.clone(), now);
                Ok(())
            }
            Command::HandOver { rung, .. } => self.had_their_time(now, rung, "handed over"),
            Command::Cut { rung, .. } => self.cut(now, rung),
            Command::GrantRoom { lease, .. } => self.grant(lease.id, self.world.of_models(lease.room)),
            Command::RefuseRoom { id, .. } => self.answer(*id),
            Command::EndLease { id, .. } => {
                self.leased.remove(id);
                Ok(())
            }
            Command::Exit { .. } if self.stopping.is_none() => Err("it ends, and nobody has asked it to".to_owned()),
            Command::Exit { .. } => {
                self.ended = true;
                Ok(())
            }
            Command::TakeSample { .. } => {
                self.looked = now;
                Ok(())
            }
            Command::Check { .. }
            | Command::Release { .. }
            | Command::Remember { .. }
            | Command::KeepWindows { .. }
            | Command::Notify { .. }
            | Command::Propose { .. } => Ok(()),
        }
    }

    fn load(&mut self, now: Moment, rung: &Arc<Rung>, machine: &Machine) -> Result<(), String> {
        let name = &rung.name;
        if let Some(other) = self.loading.replace(name.clone()) {
            return Err(format!("two loads at a time: {name} beside {other}"));
        }
        let unloading = self.unloading.take().filter(|(_, since)| now.since(*since) < UNLOAD_MIN);
        if let Some((other, _)) = unloading {
            return Err(format!("{name} is loaded while {other} is being unloaded"));
        }
        (self.loaded, self.answered) = (None, None);
        if self.unread && name != machine.smallest() {
            return Err(format!("{name} is loaded while memory cannot be read"));
        }
        let place = |name: &str| RUNGS.iter().position(|(other, _)| *other == name);
        if machine.troubles.unsized_rung.is_some() && place(name) == machine.troubles.unsized_rung {
            return Err(format!("{name} is loaded, and nobody knows how large it is"));
        }
        if self.asleep_until.is_some_and(|until| now < until) {
            return Err(format!("{name} is loaded while it is told to sleep"));
        }
        let pinned = self.pinned.as_ref().filter(|(_, until)| now < *until);
        if pinned.is_some_and(|(pinned, _)| place(name) < place(pinned)) {
            return Err(format!("{name} is loaded, and a smaller one is pinned"));
        }
        // What nobody was told of, nobody can know.
        let honest = machine.troubles.said_percent == 100 && !machine.troubles.hidden;
        let knows = honest && machine.troubles.meddled_with.is_none() && machine.troubles.blind.is_none();
        let knows = knows && !machine.overfull_within(now, PAGES_MAX);
        let need = Bytes::gib(place(name).map_or(0, |index| RUNGS[index].1));
        if knows && !self.unread && machine.troubles.late.is_none() {
            let beside = machine.taken_beside(&rung.model);
            let lately = self.used[0].min(self.used[1]);
            if beside.min(lately) + need > CAPACITY {
                return Err(format!("{name} is loaded on hope: {need} beside {beside}, and {lately} seen"));
            }
        }
        Ok(())
    }

    fn unload(&mut self, now: Moment, rung: &Rung, machine: &Machine) -> Result<(), String> {
        self.loading.take_if(|loading| *loading == rung.name);
        self.unloading = Some((rung.name.clone(), now));
        let replies = machine.gateway.replies_of(&rung.name);
        if replies > 0 {
            return Err(format!("{} is unloaded with {replies} replies in flight", rung.name));
        }
        if machine.gateway.is_open(&rung.name) {
            return Err(format!("{} is unloaded while its gate is open", rung.name));
        }
        Ok(())
    }

    /// What serves has answered, or was there before; nobody knows better than the server, which may have lost it since.
    fn publish(&mut self, rung: &Rung, machine: &Machine) -> Result<(), String> {
        self.closed.remove(&rung.name);
        let answered = self.answered.as_ref() == Some(&rung.name);
        let certain = machine.troubles.meddled_with.is_none() && machine.troubles.late.is_none() && machine.is_up();
        if !answered && certain && self.loaded.is_some() && !machine.holds(&rung.model) {
            return Err(format!("{} is to serve, and it is not there", rung.name));
        }
        Ok(())
    }

    fn cut(&self, now: Moment, rung: &Rung) -> Result<(), String> {
        if self.world.at_deadline != AtDeadline::Cut {
            return Err(format!("the replies of {} are cut, and the policy says to wait", rung.name));
        }
        self.had_their_time(now, rung, "cut")
    }

    /// What happens to replies then happens to none whose gate is open, nor before their time.
    fn had_their_time(&self, now: Moment, rung: &Rung, what: &str) -> Result<(), String> {
        match self.closed.get(&rung.name) {
            None => Err(format!("the replies of {} are {what}, and its gate is open", rung.name)),
            Some(since) if now.since(*since) < DRAIN_MIN => {
                Err(format!("the replies of {} are {what} before their time", rung.name))
            }
            Some(_) => Ok(()),
        }
    }

    fn answer(&mut self, id: u64) -> Result<(), String> {
        self.asking.remove(&id).map(drop).ok_or_else(|| format!("{id} is answered, and has not asked or has an answer"))
    }

    fn grant(&mut self, id: u64, room: Bytes) -> Result<(), String> {
        self.answer(id)?;
        self.leased.insert(id, room);
        let used = self.used[0].min(self.used[1]);
        if room > Bytes::ZERO && used + room > CAPACITY {
            return Err(format!("{room} is granted beside the {used} that are used"));
        }
        Ok(())
    }

    pub(super) fn settled(&mut self, now: Moment, controller: &Controller, machine: &Machine) -> Result<(), String> {
        self.look(now, controller, machine).map_err(|why| format!("at {}: {why}", Span(now.0)))
    }

    fn look(&mut self, now: Moment, controller: &Controller, machine: &Machine) -> Result<(), String> {
        let status = controller.status();
        if let Some(wrong) = machine.gateway.wrong(now) {
            return Err(wrong);
        }
        if status.phase.timer().is_some() != status.deadline.is_some() {
            return Err(format!("{:?} waits until {:?}", status.phase, status.deadline));
        }
        // A drain has a deadline, which comes nearer and is never put off.
        let waits = status.deadline.map(|deadline| (status.phase, deadline));
        if let (Some((Phase::Draining, before)), Some((Phase::Draining, after))) = (self.waits, waits)
            && before > now
            && after > before
            && !self.closed.values().any(|at| *at == now)
        {
            return Err(format!("the deadline of a drain is put off from {} to {}", Span(before.0), Span(after.0)));
        }
        self.waits = waits;
        let unseen = now.since(self.looked);
        if unseen > UNSEEN_MAX {
            return Err(format!("nobody has looked at the machine for {unseen}"));
        }
        if let Some((id, _)) = self.asking.iter().find(|(_, since)| now.since(**since) > ANSWER_MAX) {
            return Err(format!("{id} has asked for room and has no answer"));
        }
        if self.stopping.is_some_and(|since| now.since(since) > EXIT_MAX) {
            return Err(format!("it was asked to end, and is {:?}", status.phase));
        }
        self.decided(now, controller)?;
        let blind = status.modifiers.contains(&Modifier::Blind);
        if blind || status.severity >= Level::Soft || status.phase != Phase::Steady {
            self.restless = now;
        }
        Ok(())
    }

    fn decided(&mut self, now: Moment, controller: &Controller) -> Result<(), String> {
        let Some(made) = controller.decision().filter(|made| made.number > self.decisions) else { return Ok(()) };
        self.decisions = made.number;
        let (calm, stable) = (now.since(self.restless), self.world.stable);
        if made.kind == Decided::Up && calm < stable {
            return Err(format!("a climb after {calm} of calm, within the stable time of {stable}"));
        }
        let holds = |modifier: &&Modifier| matches!(modifier, Modifier::Blind | Modifier::ServerDown | Modifier::Held);
        if made.kind == Decided::Up && made.evidence.modifiers.iter().any(|modifier| holds(&modifier)) {
            return Err(format!("a climb while {:?}", made.evidence.modifiers));
        }
        if made.kind == Decided::Up && (self.unread || self.own_unknown) {
            return Err("a climb on what cannot be read".to_owned());
        }
        if made.evidence.rungs.is_empty() && matches!(made.kind, Decided::Up | Decided::Down | Decided::First) {
            return Err(format!("a decision that nothing explains: {made:?}"));
        }
        Ok(())
    }

    /// After more than an hour in which nothing went wrong a rung serves, and everybody has his answer.
    pub(super) fn in_the_end(&self, controller: &Controller, machine: &Machine) -> Result<(), String> {
        let status = controller.status();
        let serving = status.rung.as_ref().map(|rung| rung.name.as_str());
        let held = machine.gateway.traffic().held;
        if self.world.observes || status.phase == Phase::Steady && serving.is_some() && held == 0 {
            return Ok(());
        }
        Err(format!("long after the last trouble it is {:?}, serves {serving:?}, and holds {held}", status.phase))
    }
}
