//! llama-server in router mode: commands -> calls to its `/models` routes -> what its own list shows.
//!
//! `{"success": true}` comes long before it is so, and a load that fails shows only as a model that is unloaded again.
//! The event stream tells when to look, the list tells what is so. A model has one process, which is gone when the list
//! says `unloaded`.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use super::changes::{Changes, EventStream};
use super::error::ActError;
use super::http::{Http, Reply};
use super::insist::{GIVEN_UP_AFTER, Insistence};
use super::listing::{self, Listing, Model, State};
use super::marks;
use super::{Kept, Offer, Resident, ResidentState, key};
use crate::decide::input::{ModelFacts, ServerFacts};
use crate::footprint::cpu::Cpu;
use crate::footprint::purpose::Purpose;
use crate::policy::Rung;

const LIST_MAX: Duration = Duration::from_secs(3);
const ANSWER_MAX: Duration = Duration::from_secs(15);
const CHECK_MAX: Duration = Duration::from_secs(15);
/// How often the list is looked at without events, and with them, should one be lost.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const LOOK_DESPITE_EVENTS_EVERY: Duration = Duration::from_millis(250);
/// It rounds a context up to a multiple of this.
const CONTEXT_STEP: u32 = 256;
/// How often a load is asked for again when the model was still on its way out.
const LOAD_REPEATS_MAX: u32 = 3;
/// Its words where it holds as many models as it may, and somebody has a reply in each.
const FULL: &str = "model limit reached";
/// Replies come to their end: how long, and how often, a place is waited for.
const FULL_MAX: Duration = Duration::from_secs(30);
const FULL_LOOK_EVERY: Duration = Duration::from_millis(50);
/// How often, and for how long, a model that is listed as loaded is asked while its process does not answer: one that has
/// to go for somebody else's is listed for a while.
const UNANSWERED_MAX: u32 = 100;
const UNANSWERED_LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long the replies of a model that has to go may take to end, and how often that is looked at. One whose reader has
/// left ends with the next token, or the next piece of its prompt: within 1.2 s for four at a 1.3 GB model on two cores.
const REST_MAX: Duration = Duration::from_secs(3);
const REST_LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long the list may fail to come while a load is awaited.
const LOST_MAX: u32 = 20;

#[derive(Debug)]
pub struct LlamaServer {
    http: Http,
    /// What it computes with, if it is on this machine.
    cpu: Cpu,
}

#[derive(Debug, Deserialize)]
struct RouterProps {
    build_info: String,
    #[serde(default)]
    max_instances: Option<u32>,
}

#[derive(Debug, Deserialize)]
struct ModelProps {
    default_generation_settings: GenerationSettings,
}

#[derive(Debug, Deserialize)]
struct GenerationSettings {
    n_ctx: u32,
}

#[derive(Debug, Deserialize)]
struct Completion {
    #[serde(default)]
    tokens_predicted: u32,
}

impl LlamaServer {
    pub(super) fn new(url: &str, cpu: Cpu) -> Result<Self, ActError> {
        Ok(LlamaServer { http: Http::new(url)?, cpu })
    }

    pub(super) fn http(&self) -> &Http {
        &self.http
    }

    pub(super) fn url(&self) -> &str {
        self.http.url()
    }

    pub(super) fn changes(&self) -> Changes {
        Changes::of(self.http.clone())
    }

    pub(super) async fn version(&self) -> Result<String, ActError> {
        Ok(self.props().await?.version())
    }

    pub(super) async fn facts(&self) -> Result<ServerFacts, ActError> {
        let props = self.props().await?;
        let mut facts = ServerFacts { version: props.version(), ..ServerFacts::default() };
        // Zero is without limit.
        facts.models_max = props.max_instances.filter(|count| *count > 0);
        for model in self.list().await? {
            let (sizing, purpose) = model.sizing(self.cpu).await;
            if purpose == Purpose::Conversation {
                let files = model.files();
                let of = (facts.version.as_str(), model.id.as_str(), self.cpu);
                let key = key::of_llama_server(of, model.arguments(), files.as_deref()).await;
                facts.models.insert(model.id, ModelFacts { sizing, key: Some(key) });
            }
        }
        Ok(facts)
    }

    /// Every model's files and whether it can be a rung, by its id.
    pub(super) async fn offers(&self) -> Result<Vec<Offer>, ActError> {
        let mut offers = Vec::new();
        for model in self.list().await? {
            let unfit = match model.sizing(self.cpu).await.1 {
                Purpose::Conversation => None,
                Purpose::Embedding => Some("it embeds or ranks texts, and answers no questions"),
                Purpose::Part => Some("it is a part of another model"),
            };
            let value = |names: &[&str]| model.arguments().value(names).map(str::to_owned);
            let (file, projector) = (model.arguments().model().map(str::to_owned), value(&["--mmproj", "-mm"]));
            offers.push(Offer { model: model.id.clone(), unfit, file, projector });
        }
        Ok(offers)
    }

    pub(super) async fn residents(&self) -> Result<Vec<Resident>, ActError> {
        let resident = |model: Model| {
            let state = match model.status.value {
                State::Unloaded | State::Other => return None,
                State::Loading => ResidentState::Loading,
                State::Loaded | State::Sleeping => ResidentState::Loaded,
            };
            Some(Resident { context: model.context(), model: model.id, state })
        };
        Ok(self.list().await?.into_iter().filter_map(resident).collect())
    }

    pub(super) async fn load(&self, rung: &Rung) -> Result<(), ActError> {
        let mut awaited = Awaited::start(&self.http).await;
        let (mut repeats, mut lost, mut unanswered, mut beside) = (0, 0, 0, None);
        let mut refusal = self.ask_for(rung).await?;
        loop {
            let listed = match self.list().await {
                Ok(listed) => listed,
                // It may be busy with nothing but the load. Whether it is still there is asked elsewhere.
                Err(_) if lost < LOST_MAX => {
                    lost += 1;
                    sleep(LOOK_EVERY).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            lost = 0;
            let others = listing::held_beside(&listed, &rung.model);
            // Somebody else's has come since, and it had to go for that.
            let is_displaced = !others.is_subset(beside.get_or_insert_with(|| others.clone()));
            let model = listed.into_iter().find(|model| model.id == rung.model);
            let not_loaded = |evidence| Err(ActError::NotLoaded { model: rung.model.clone(), evidence });
            match model.as_ref().map(|model| model.status.value) {
                Some(State::Loaded | State::Sleeping) => match self.has_context_of(rung).await {
                    Err(error) if error.says_not_held() && unanswered < UNANSWERED_MAX => {
                        unanswered += 1;
                        sleep(UNANSWERED_LOOK_EVERY).await;
                    }
                    found => return found,
                },
                Some(State::Loading | State::Other) => awaited.next().await,
                // It was still on its way out when it was asked for, and was refused as running.
                Some(State::Unloaded)
                    if repeats < LOAD_REPEATS_MAX
                        && (refusal.is_some() || is_displaced || model.as_ref().is_some_and(Model::went_in_order)) =>
                {
                    repeats += 1;
                    beside = None;
                    refusal = self.ask_for(rung).await?;
                }
                Some(State::Unloaded) => {
                    let exit_code = model.and_then(|model| model.status.exit_code);
                    let code = exit_code.map_or("unknown".to_owned(), |code| code.to_string());
                    return not_loaded(format!("its process ended with exit code {code}: the server's log says why"));
                }
                None => return not_loaded("the server no longer lists it".to_owned()),
            }
        }
    }

    pub(super) async fn unload(&self, rung: &Rung) -> Result<(), ActError> {
        self.comes_to_rest(rung).await;
        let mut awaited = Awaited::start(&self.http).await;
        let mut insistence = Insistence::start();
        let mut seen = refused(self.tell("/models/unload", rung).await?);
        while !insistence.is_over() {
            match self.listed(&rung.model).await.map(|model| model.map(|model| model.status.value)) {
                Ok(None | Some(State::Unloaded)) => return Ok(()),
                Ok(Some(state)) => seen = format!("its list shows it as {state:?}"),
                Err(error) => {
                    seen = error.to_string();
                    sleep(LOOK_EVERY).await;
                }
            }
            awaited.next().await;
            if insistence.asks_again() {
                seen = self.tell("/models/unload", rung).await.map_or_else(|error| error.to_string(), refused);
            }
        }
        Err(ActError::NotUnloaded { model: rung.model.clone(), after: GIVEN_UP_AFTER, evidence: seen })
    }

    /// Waits a little for the last replies of a model. A process that is told to go while it works on one does not end:
    /// the router kills it after 10 s (its `stop-timeout`), and all clients wait that long for the next model. It still
    /// works on a reply that was let go of a moment ago.
    async fn comes_to_rest(&self, rung: &Rung) {
        // One that sleeps would be woken by the question.
        let listed = self.listed(&rung.model).await.ok().flatten();
        if listed.is_none_or(|model| model.status.value != State::Loaded) {
            return;
        }
        let rest = async {
            // Without slots, or without an answer, nothing is known, and waiting for it is of no use.
            while let Ok(Some(1..)) = marks::busy(&self.http, &rung.model).await {
                sleep(REST_LOOK_EVERY).await;
            }
        };
        if timeout(REST_MAX, rest).await.is_err() {
            tracing::warn!(message = "A model has to go while the server still works on a reply of it.", rung = %rung.name);
        }
    }

    pub(super) async fn check(&self, rung: &Rung) -> Result<(), ActError> {
        let question = json!({ "model": rung.model, "prompt": "Hi", "n_predict": 1, "stream": false });
        let reply = self.http.post("/completion?autoload=false", &question, CHECK_MAX).await?.accepted()?;
        let completion: Completion = reply.json()?;
        if completion.tokens_predicted == 0 {
            return Err(ActError::NotAnswered { model: rung.model.clone(), evidence: reply.head() });
        }
        self.has_context_of(rung).await
    }

    pub(super) async fn keep(&self, rung: &Rung) -> Result<Kept, ActError> {
        let model = self.listed(&rung.model).await?;
        let held = model.filter(|model| matches!(model.status.value, State::Loaded | State::Sleeping));
        Ok(match held.map(|model| (rung.context, model.context())) {
            None => Kept::NotListed,
            Some((Some(wanted), Some(served))) if !serves(wanted, served) => Kept::OtherContext { served },
            Some(_) => Kept::AsAsked,
        })
    }

    /// Asks the model's own process, also where no context is wanted: one that was told to go before it ever answered
    /// took 10 s for it (7 of 200 times; after an answer, once in 950).
    async fn has_context_of(&self, rung: &Rung) -> Result<(), ActError> {
        let query = percent_encoded(&rung.model);
        let props: ModelProps = self.http.get(&format!("/props?model={query}&autoload=false"), ANSWER_MAX).await?;
        let served = props.default_generation_settings.n_ctx;
        match rung.context {
            Some(wanted) if !serves(wanted, served) => {
                Err(ActError::WrongContext { model: rung.model.clone(), wanted, served })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Asks for a load, again and again while the server has no place for it: it makes one itself as soon as a model that
    /// it holds has no reply to give.
    async fn ask_for(&self, rung: &Rung) -> Result<Option<ActError>, ActError> {
        let began = Instant::now();
        loop {
            let told = self.tell("/models/load", rung).await;
            let is_full = matches!(&told, Err(ActError::Refused { head, .. }) if head.contains(FULL));
            if !is_full || began.elapsed() >= FULL_MAX {
                return told;
            }
            sleep(FULL_LOOK_EVERY).await;
        }
    }

    /// Tells it about a model. A refusal for the state that the model is in (400) is handed back, for the list decides.
    async fn tell(&self, path: &str, rung: &Rung) -> Result<Option<ActError>, ActError> {
        let reply: Reply = self.http.post(path, &json!({ "model": rung.model }), ANSWER_MAX).await?;
        match reply.status {
            200 => Ok(None),
            400 => Ok(Some(reply.refusal())),
            _ => Err(reply.refusal()),
        }
    }

    async fn props(&self) -> Result<RouterProps, ActError> {
        self.http.get("/props", LIST_MAX).await
    }

    pub(super) async fn list(&self) -> Result<Vec<Model>, ActError> {
        let listing: Listing = self.http.get("/models", LIST_MAX).await?;
        Ok(listing.data)
    }

    async fn listed(&self, model: &str) -> Result<Option<Model>, ActError> {
        Ok(self.list().await?.into_iter().find(|listed| listed.id == model))
    }
}

impl RouterProps {
    fn version(&self) -> String {
        format!("llama-server {}", self.build_info)
    }
}

/// The end of a wait: an event about any model, or a while.
struct Awaited {
    events: Option<EventStream>,
}

impl Awaited {
    async fn start(http: &Http) -> Self {
        Awaited { events: EventStream::open(http).await }
    }

    async fn next(&mut self) {
        let Some(events) = &mut self.events else { return sleep(LOOK_EVERY).await };
        // An event that was lost is found by looking all the same; a stream that ended is not asked again.
        if let Ok(None) = timeout(LOOK_DESPITE_EVENTS_EVERY, events.next()).await {
            self.events = None;
        }
    }
}

fn refused(refusal: Option<ActError>) -> String {
    refusal.map_or("it answered success".to_owned(), |refusal| refusal.to_string())
}

pub(super) fn serves(wanted: u32, served: u32) -> bool {
    served == wanted || served == wanted.next_multiple_of(CONTEXT_STEP)
}

/// A value for a query: everything but letters, digits and `-._~` is written as its bytes.
pub(super) fn percent_encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
