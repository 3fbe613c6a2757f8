//! llama-server in router mode: commands -> calls to its `/models` routes -> what its own list shows.
//!
//! `{"success": true}` comes long before it is so, and a load that fails shows only as a model that is unloaded again.
//! The event stream tells when to look, the list tells what is so. A model has one process, which is gone when the list
//! says `unloaded`.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::changes::{Changes, EventStream};
use super::error::ActError;
use super::http::{Http, Reply};
use super::insist::{GIVEN_UP_AFTER, Insistence};
use super::{Kept, Resident, ResidentState, key};
use crate::decide::input::{ModelFacts, ServerFacts};
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
    pub(super) fn new(url: &str) -> Result<Self, ActError> {
        Ok(LlamaServer { http: Http::new(url)? })
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
            if !model.embeds() {
                let found = model.size().await.map_or_else(ModelFacts::default, ModelFacts::of_files);
                let files = model.files();
                let key = key::of_llama_server(&facts.version, &model.id, &model.status.args, files.as_deref()).await;
                facts.models.insert(model.id, ModelFacts { key: Some(key), ..found });
            }
        }
        Ok(facts)
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

    /// The value that follows one of these options.
    fn argument(&self, names: &[&str]) -> Option<&str> {
        let at = self.status.args.iter().position(|argument| names.contains(&argument.as_str()))?;
        self.status.args.get(at + 1).map(String::as_str)
    }

    fn embeds(&self) -> bool {
        let only = ["--embedding", "--embeddings", "--reranking", "--rerank"];
        self.status.args.iter().any(|argument| only.contains(&argument.as_str()))
    }

    /// All files that it is read from, as the server names them.
    fn files(&self) -> Option<Vec<String>> {
        let weights = self.argument(&["--model", "-m"])?;
        let part = |(stem, count): (&str, u32)| -> Vec<String> {
            (1..=count).map(|part| part_name(stem, part, count)).collect()
        };
        let mut files = parts(weights).map_or_else(|| vec![weights.to_owned()], part);
        files.extend(self.argument(&["--mmproj", "-mm"]).map(str::to_owned));
        Some(files)
    }

    /// The size of its files where they are on this machine, else what it says of itself when it is loaded.
    async fn size(&self) -> Option<Bytes> {
        let says = self.meta.as_ref().map(|meta| Bytes(meta.size)).filter(|size| size.0 > 0);
        let Some(weights) = self.argument(&["--model", "-m"]) else { return says };
        let Some(size) = size_of_parts(weights).await else { return says };
        match self.argument(&["--mmproj", "-mm"]) {
            None => Some(size),
            // A part whose size is unknown makes the whole unknown.
            Some(projector) => Some(size + size_of(projector).await?),
        }
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

fn serves(wanted: u32, served: u32) -> bool {
    served == wanted || served == wanted.next_multiple_of(CONTEXT_STEP)
}

async fn size_of(path: &str) -> Option<Bytes> {
    // A relative path is relative to the server's folder, which is not ours.
    if !Path::new(path).is_absolute() {
        return None;
    }
    tokio::fs::metadata(path).await.ok().map(|file| Bytes(file.len())).filter(|size| size.0 > 0)
}

/// The size of `x-00001-of-00003.gguf` and its other parts, or of the one file that it is.
async fn size_of_parts(path: &str) -> Option<Bytes> {
    let Some((stem, count)) = parts(path) else { return size_of(path).await };
    let mut size = Bytes::ZERO;
    for part in 1..=count {
        size += size_of(&part_name(stem, part, count)).await?;
    }
    Some(size)
}

fn part_name(stem: &str, part: u32, count: u32) -> String {
    format!("{stem}-{part:05}-of-{count:05}.gguf")
}

fn parts(path: &str) -> Option<(&str, u32)> {
    let (first, count) = path.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let stem = first.strip_suffix("-00001")?;
    let count = count.parse().ok().filter(|count| (1..=999).contains(count))?;
    Some((stem, count))
}

/// A value for a query: everything but letters, digits and `-._~` is written as its bytes.
fn percent_encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
