//! Rig: the real sampler, the real Controller and the real driver around a real server, looked at every 10 ms.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tierkeeper::act::{self, Driver};
use tierkeeper::classify::OwnSource;
use tierkeeper::classify::tier::Machine;
use tierkeeper::config::ServerKind;
use tierkeeper::decide::command::Command;
use tierkeeper::decide::controller::{Adopt, Controller};
use tierkeeper::decide::input::Input;
use tierkeeper::decide::phase::Phase;
use tierkeeper::policy::{Policy, Rung};
use tierkeeper::run::asking::ask;
use tierkeeper::sample::listener::ServerPlace;
use tierkeeper::sample::sampler::Sampler;
use tierkeeper::sample::{ProcessMemory, Resident, ResidentState, Traffic, host, hot_weights};
use tierkeeper::units::Moment;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::plain_client::plain_client;
use super::server::Router;
use super::truth::{self, Held};

const LOOK_EVERY: Duration = Duration::from_millis(10);
const LIST_EVERY: Duration = Duration::from_millis(200);
/// Longer than anything here takes.
const SOON: Duration = Duration::from_secs(30);
const HISTORY_MAX: usize = 120;
const MODELS: [&str; 2] = ["one", "other"];

/// Whether the sampler can see the server's processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    Processes,
    Hidden,
}

/// What the Controller took to be so at one look.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub foreign: u64,
    /// Without what is held back while our own moves blur it.
    pub unfrozen: u64,
    pub own_source: OwnSource,
}

/// By how much a figure has moved beyond what others really took or gave back.
#[derive(Clone, Copy, Debug)]
pub struct Off {
    pub foreign: i64,
    pub unfrozen: i64,
}

/// Where it began, and what others held then.
#[derive(Clone, Debug)]
pub struct Mark {
    pub foreign: u64,
    pub others: BTreeMap<u32, u64>,
    pub beside: i64,
}

pub struct Rig {
    router: Router,
    runtime: Runtime,
    driver: Arc<Driver>,
    sampler: Sampler,
    controller: Controller,
    began: Instant,
    residents: Arc<Mutex<Option<Vec<Resident>>>>,
    acting: Option<JoinHandle<Option<Input>>>,
    runners: Option<Vec<ProcessMemory>>,
    serving: usize,
    told: Vec<String>,
    /// The last looks, for what is shown when something is wrong.
    history: VecDeque<String>,
    next_look: Instant,
    /// When it was looked last, and the time between the looks.
    looked: Option<Instant>,
    gaps: Vec<Duration>,
}

fn ladder(model: &str) -> Arc<Policy> {
    let rung = Rung { name: model.to_owned(), model: model.to_owned(), context: None };
    Arc::new(Policy::for_ladder(vec![rung]).unwrap())
}

impl Rig {
    /// The first model serves.
    pub fn new(router: Router, sight: Sight) -> Self {
        let runtime = Runtime::new().unwrap();
        let driver = Arc::new(Driver::new(ServerKind::LlamaServer, &router.url).unwrap());
        let facts = runtime.block_on(async {
            loop {
                match driver.facts().await {
                    Ok(facts) => return facts,
                    Err(_) => tokio::time::sleep(LOOK_EVERY).await,
                }
            }
        });
        let place = ServerPlace::from_url(&router.url, &["llama-server"]);
        let place = place.filter(|_| sight == Sight::Processes);
        let residents = Arc::new(Mutex::new(None));
        runtime.spawn(keep_listing(Arc::clone(&driver), Arc::clone(&residents)));
        let mut rig = Rig {
            router,
            driver,
            sampler: Sampler::new(Path::new("/"), place, None),
            controller: Controller::new(Moment::START, ladder(MODELS[0]), Adopt::Ladder),
            began: Instant::now(),
            residents,
            acting: None,
            runners: None,
            serving: 0,
            told: Vec::new(),
            history: VecDeque::new(),
            next_look: Instant::now(),
            looked: None,
            gaps: Vec::new(),
            runtime,
        };
        let found = host::machine::machine(Path::new("/")).unwrap();
        let machine = Machine { memory: found.memory, cores: found.cores, ..Machine::default() };
        rig.controller.handle_input(Moment::START, Input::MachineFound(machine));
        rig.controller.handle_input(Moment::START, Input::ServerUp(facts));
        rig.until_steady();
        rig
    }

    pub fn model_bytes(&self) -> u64 {
        self.router.model_bytes()
    }

    pub fn server(&self) -> u32 {
        self.router.pid()
    }

    pub fn phase(&self) -> Phase {
        self.controller.status().phase
    }

    /// The last looks, in MiB.
    pub fn history(&self) -> String {
        self.history.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    pub fn told(&self) -> &[String] {
        &self.told
    }

    /// The next look, 10 ms after the last one.
    pub fn look(&mut self) -> Seen {
        std::thread::sleep(self.next_look.saturating_duration_since(Instant::now()));
        let at = Instant::now();
        self.next_look = at + LOOK_EVERY;
        if let Some(before) = self.looked.replace(at) {
            self.gaps.push(at - before);
        }
        if let Some(acting) = self.acting.take_if(|acting| acting.is_finished())
            && let Some(input) = self.runtime.block_on(acting).unwrap()
        {
            self.tell(input);
        }
        self.controller.handle_timeout(self.now());
        let residents = self.residents.lock().unwrap().clone();
        let now = self.now();
        let sample = self.sampler.take(now, residents, Traffic::default());
        self.runners.clone_from(&sample.runners);
        self.tell(Input::Sampled(Box::new(sample)));
        let ram = self.controller.status().assessment.ram.unwrap();
        self.history.push_back(format!(
            "{} ms {}: used {} own {} (now {}) foreign {} (now {})",
            now.0,
            self.phase().name(),
            ram.used.0 >> 20,
            ram.own.0 >> 20,
            ram.own_now.0 >> 20,
            ram.foreign.0 >> 20,
            ram.foreign_now.0 >> 20,
        ));
        if self.history.len() > HISTORY_MAX {
            self.history.pop_front();
        }
        Seen { foreign: ram.foreign.0, unfrozen: ram.foreign_now.0, own_source: ram.own_source }
    }

    /// The middle one of the times between looks since this was asked last.
    pub fn median_gap(&mut self) -> Duration {
        self.gaps.sort_unstable();
        let median = self.gaps.get(self.gaps.len() / 2).copied().unwrap_or_default();
        self.gaps.clear();
        median
    }

    pub fn run(&mut self, span: Duration) {
        let end = Instant::now() + span;
        while Instant::now() < end {
            self.look();
        }
    }

    pub fn mark(&mut self) -> Mark {
        let foreign = self.look().foreign;
        Mark { foreign, others: truth::others(&[self.server()]), beside: truth::beside(self.server()) }
    }

    /// The next look beside what others really hold, when no process of the server has just ended. They may be at it, so
    /// that is read before the look and after it, and all between the two is true.
    pub fn off_by(&mut self, mark: &Mark) -> Off {
        let before = truth::beside(self.server());
        let seen = self.look();
        let after = truth::beside(self.server());
        let (least, most) = (before.min(after) - mark.beside, before.max(after) - mark.beside);
        let off = |figure: u64| {
            let moved = figure as i64 - mark.foreign as i64;
            moved - moved.clamp(least, most)
        };
        Off { foreign: off(seen.foreign), unfrozen: off(seen.unfrozen) }
    }

    /// What others really took since, when no process of the server has just ended.
    pub fn really_taken(&self, mark: &Mark) -> i64 {
        truth::beside(self.server()) - mark.beside
    }

    /// By how much foreign has risen beyond what others really took, at any time.
    pub fn risen_since(&self, mark: &Mark) -> i64 {
        let foreign = self.controller.status().assessment.ram.unwrap().foreign.0;
        let really = truth::change(&mark.others, &truth::others(&[self.server()]));
        foreign as i64 - mark.foreign as i64 - really.max(0)
    }

    /// The policy now names the other model, so the one that serves has to go.
    pub fn switch_model(&mut self) {
        self.serving = 1 - self.serving;
        self.tell(Input::PolicyChanged(ladder(MODELS[self.serving])));
        assert_ne!(self.phase(), Phase::Steady, "the model is being changed");
    }

    /// What the sampler attributes to the server, by kind.
    pub fn attributed(&self) -> Held {
        let runners = self.runners.as_deref().unwrap();
        let anonymous = runners.iter().map(|runner| (runner.anonymous + runner.shared).0).sum();
        Held { anonymous, weights: hot_weights(runners).0 }
    }

    /// A long question, unlike any other.
    pub fn ask(&self, number: usize) -> JoinHandle<()> {
        let word = ["amber", "birch", "cedar", "daisy", "elder", "fennel"][number];
        let text = format!("{word} {number} ").repeat(60);
        let body = json!({ "model": MODELS[self.serving], "max_tokens": 4,
            "messages": [{ "role": "user", "content": text }] });
        let request = plain_client().post(format!("{}/v1/chat/completions", self.router.url)).json(&body);
        self.runtime.spawn(async move {
            let reply = request.send().await.unwrap();
            assert!(reply.status().is_success(), "{}", reply.text().await.unwrap());
        })
    }

    pub fn finished(&self, asked: &mut JoinHandle<()>) {
        self.runtime.block_on(asked).unwrap();
    }

    fn now(&self) -> Moment {
        Moment(u64::try_from(self.began.elapsed().as_millis()).unwrap())
    }

    fn until_steady(&mut self) {
        let end = Instant::now() + SOON;
        while self.phase() != Phase::Steady {
            assert!(Instant::now() < end, "nothing serves: {:?}", self.controller.status());
            self.look();
        }
    }

    fn tell(&mut self, input: Input) {
        self.controller.handle_input(self.now(), input);
        while let Some(command) = self.controller.poll_command() {
            match command {
                Command::Load { .. } | Command::Unload { .. } | Command::Check { .. } => self.act(command),
                Command::CancelLoad { .. } => {
                    if let Some(acting) = self.acting.take() {
                        acting.abort();
                    }
                }
                Command::Close { rung, .. } => {
                    let drained = Input::Drained { rung: rung.name.clone() };
                    self.controller.handle_input(self.now(), drained);
                }
                Command::Notify { reason, .. } => self.told.push(reason.to_string()),
                // It is looked far more often than is asked for.
                Command::TakeSample { .. }
                | Command::Publish { .. }
                | Command::HandOver { .. }
                | Command::Cut { .. }
                | Command::Release { .. }
                | Command::Remember { .. }
                | Command::KeepWindows { .. }
                | Command::GrantRoom { .. }
                | Command::RefuseRoom { .. }
                | Command::EndLease { .. }
                | Command::Propose { .. }
                | Command::Exit { .. } => {}
            }
        }
    }

    fn act(&mut self, command: Command) {
        let driver = Arc::clone(&self.driver);
        self.acting = Some(self.runtime.spawn(async move { asked(&driver, command).await }));
    }
}

async fn asked(driver: &Driver, command: Command) -> Option<Input> {
    let answer = ask(driver, command).await;
    if let Some(
        Input::LoadFailed { rung, why } | Input::UnloadFailed { rung, why } | Input::CheckFailed { rung, why },
    ) = &answer
    {
        panic!("{rung} failed: {why}");
    }
    answer
}

/// The server's own list, over and over.
async fn keep_listing(driver: Arc<Driver>, residents: Arc<Mutex<Option<Vec<Resident>>>>) {
    loop {
        let listed = driver.residents().await.ok();
        let written = |resident: act::Resident| Resident {
            model: resident.model,
            state: match resident.state {
                act::ResidentState::Loading => ResidentState::Loading,
                act::ResidentState::Loaded => ResidentState::Loaded,
            },
            context: resident.context,
        };
        *residents.lock().unwrap() = listed.map(|listed| listed.into_iter().map(written).collect());
        tokio::time::sleep(LIST_EVERY).await;
    }
}
