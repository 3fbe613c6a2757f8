//! llama-server in router mode: commands -> calls to its `/models` routes -> what its own list shows.
//!
//! `{"success": true}` comes long before it is so, and a load that fails shows only as a model that is unloaded again.
//! The event stream tells when to look, the list tells what is so. A model has one process, which is gone when the list
//! says `unloaded`.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::arguments::Arguments;
use super::changes::{Changes, EventStream};
use super::error::ActError;
use super::files::{Found, found};
use super::heads;
use super::http::{Http, Reply};
use super::insist::{GIVEN_UP_AFTER, Insistence};
use super::{Kept, Offer, Resident, ResidentState, key};
use crate::decide::input::{ModelFacts, ServerFacts};
use crate::footprint::Sizing;
use crate::footprint::cpu::Cpu;
use crate::footprint::purpose::Purpose;
use crate::policy::Rung;
use crate::units::Bytes;

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
struct Listing {
    data: Vec<Model>,
}

#[derive(Debug, Deserialize)]
struct Model {
    id: String,
    status: Status,
    /// Only of a model that is loaded.
    #[serde(default)]
    meta: Option<Meta>,
}

#[derive(Debug, Deserialize)]
struct Status {
    value: State,
    /// The command line of the process that has or would have the model.
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    exit_code: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Unloaded,
    Loading,
    Loaded,
    /// Its process is there and gave its memory back; the next request wakes it.
    Sleeping,
    /// A state of a newer version, such as a download.
    #[serde(other)]
    Other,
}

#[derive(Debug, Deserialize)]
struct Meta {
    #[serde(default)]
    n_ctx: u32,
    #[serde(default)]
    size: u64,
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
        let (mut repeats, mut lost) = (0, 0);
        let mut refusal = self.tell("/models/load", rung).await?;
        loop {
            let model = match self.listed(&rung.model).await {
                Ok(model) => model,
                // It may be busy with nothing but the load. Whether it is still there is asked elsewhere.
                Err(_) if lost < LOST_MAX => {
                    lost += 1;
                    sleep(LOOK_EVERY).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            lost = 0;
            let not_loaded = |evidence| Err(ActError::NotLoaded { model: rung.model.clone(), evidence });
            match model.as_ref().map(|model| model.status.value) {
                Some(State::Loaded | State::Sleeping) => return self.has_context_of(rung).await,
                Some(State::Loading | State::Other) => awaited.next().await,
                // It was still on its way out when it was asked for, and was refused as running.
                Some(State::Unloaded) if refusal.is_some() && repeats < LOAD_REPEATS_MAX => {
                    repeats += 1;
                    refusal = self.tell("/models/load", rung).await?;
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

    async fn list(&self) -> Result<Vec<Model>, ActError> {
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

impl Model {
    fn context(&self) -> Option<u32> {
        self.meta.as_ref().map(|meta| meta.n_ctx).filter(|tokens| *tokens > 0)
    }

    fn arguments(&self) -> Arguments<'_> {
        Arguments(&self.status.args)
    }

    /// By its metadata where its files are on this machine, else by the size of its files, or what it says of itself when
    /// it is loaded.
    async fn sizing(&self, cpu: Cpu) -> (Option<Sizing>, Purpose) {
        let says = self.meta.as_ref().map(|meta| Bytes(meta.size)).filter(|size| size.0 > 0).map(Sizing::Files);
        let told = if self.arguments().embeds() { Purpose::Embedding } else { Purpose::Conversation };
        let Some(path) = self.arguments().model().map(str::to_owned) else { return (says, told) };
        let beside: Vec<String> = self.arguments().beside().into_iter().map(str::to_owned).collect();
        let (id, load) = (self.id.clone(), self.arguments().load());
        let looked = tokio::task::spawn_blocking(move || found((&id, cpu), &path, &beside, load)).await;
        match looked.expect("reading a model's head does not panic") {
            Found::Sizing(sizing, Purpose::Conversation) => (Some(sizing), told),
            Found::Sizing(sizing, purpose) => (Some(sizing), purpose),
            Found::NotHere => (says, told),
            Found::Unknown => (None, told),
        }
    }

    /// All files that it is read from, as the server names them.
    fn files(&self) -> Option<Vec<String>> {
        let mut files = heads::parts(self.arguments().model()?);
        files.extend(self.arguments().beside().into_iter().map(str::to_owned));
        Some(files)
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
