//! Ollama: commands -> calls to its native API -> what its own list shows.
//!
//! Its traps, and what is done about each (all seen on a real one):
//! 1. A load lives as long as the connection that asked for it. It is held open; dropping it gives the load up.
//! 2. `keep_alive: 0` answers "unload" at once, always, and does nothing to a model that is still loading, which the list
//!    does not show. So a model that was never seen in the list is watched for a while before it counts as gone.
//! 3. `/api/ps` gives `size: 0`: sizes are taken from `/api/tags`, and zero is unknown there too. Where it gives one, it
//!    says how much of it is on a GPU, which is how a silent fall back to the CPU shows.
//! 4. `/api/ps` may block for seconds: that is a stale list, not a server that is down.
//! 5. A request on `/v1` loads the model anew with its default context, and puts its stay back to five minutes.
//! 6. Models of the same files are one process, which is listed by the name that loaded it and answers to the others.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::derived::num_ctx;
use super::error::ActError;
use super::http::{Http, Reply};
use super::insist::{GIVEN_UP_AFTER, Insistence};
use super::names::{UNDER_ANOTHER_NAME, listed_name};
use super::{Kept, Offer, Resident, ResidentState, key};
use crate::decide::input::{ModelFacts, Placed, ServerFacts};
use crate::footprint::Sizing;
use crate::footprint::cpu::Cpu;
use crate::footprint::formula::Plan;
use crate::footprint::load::{Cells, Context, Held, Load};
use crate::footprint::shape::{Shape, ShapeError};
use crate::footprint::show::Shown;
use crate::policy::Rung;
use crate::units::{Bytes, Permille};

/// After this a list is stale (trap 4).
const LIST_MAX: Duration = Duration::from_secs(3);
const ANSWER_MAX: Duration = Duration::from_secs(15);
const CHECK_MAX: Duration = Duration::from_secs(15);
/// How often the list is looked at while something is awaited.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long a model that answered as loaded may take to be listed.
const LISTED_MAX: Duration = Duration::from_secs(15);
/// How long a model that nobody saw listed must stay away to be gone: it may be loading (trap 2).
const WATCHED_FOR: Duration = Duration::from_secs(2);
/// The stay that Ollama gives a model by default. It does not say what it was set to, and a request without a stay leaves
/// the one that the model has.
const DEFAULT_STAY: &str = "5m";
/// What of a model's size may be texts.
const TEXTS_MAX: Permille = Permille(100);
/// `keep_alive: -1` is 292 years. Whatever ends before this year is an ordinary stay.
const FOR_EVER_FROM_YEAR: u32 = 2200;

#[derive(Debug)]
pub struct Ollama {
    http: Http,
    /// What it computes with.
    cpu: Cpu,
}

#[derive(Debug, Deserialize)]
struct Version {
    version: String,
}

#[derive(Debug, Deserialize)]
struct Listing<T> {
    models: Option<Vec<T>>,
}

/// A model that is loaded, from `/api/ps`. Its sizes are what was planned at the load, and zero where that is unknown.
#[derive(Debug, Deserialize)]
pub(super) struct Loaded {
    name: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    size_vram: u64,
    #[serde(default)]
    expires_at: Option<String>,
    #[serde(default)]
    context_length: Option<u32>,
}

/// A model that is installed, from `/api/tags`.
#[derive(Debug, Deserialize)]
struct Installed {
    name: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    digest: Option<String>,
    #[serde(default)]
    details: Details,
    /// Absent in older versions.
    #[serde(default)]
    capabilities: Option<Vec<String>>,
    /// Set for a model that runs elsewhere, on somebody else's memory.
    #[serde(default)]
    remote_host: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Details {
    #[serde(default)]
    family: String,
}

/// What `/api/show` tells of a model.
#[derive(Debug, Deserialize)]
struct Show {
    #[serde(flatten)]
    shown: Shown,
    /// Lines of a name and a value, as the model's own file sets them.
    #[serde(default)]
    parameters: String,
    /// Only of a model that takes images.
    #[serde(default)]
    projector_info: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Done {
    #[serde(default)]
    done: Option<Value>,
    #[serde(default)]
    done_reason: Option<String>,
}

impl Ollama {
    pub(super) fn new(url: &str, cpu: Cpu) -> Result<Self, ActError> {
        Ok(Ollama { http: Http::new(url)?, cpu })
    }

    pub(super) fn http(&self) -> &Http {
        &self.http
    }

    pub(super) fn url(&self) -> &str {
        self.http.url()
    }

    pub(super) async fn version(&self) -> Result<String, ActError> {
        let found: Version = self.http.get("/api/version", LIST_MAX).await?;
        Ok(format!("Ollama {}", found.version))
    }

    pub(super) async fn facts(&self) -> Result<ServerFacts, ActError> {
        let version = self.version().await?;
        let installed: Listing<Installed> = self.http.get("/api/tags", ANSWER_MAX).await?;
        let mut facts = ServerFacts { version, ..ServerFacts::default() };
        for model in installed.models.unwrap_or_default().into_iter().filter(|model| model.unfit().is_none()) {
            let sizing = self.sizing(&model).await;
            let key = Some(key::of_ollama(&facts.version, &model.name, model.digest.as_deref(), self.cpu));
            facts.models.insert(model.name, ModelFacts { sizing, key });
        }
        Ok(facts)
    }

    /// Every model and whether it can be a rung.
    pub(super) async fn offers(&self) -> Result<Vec<Offer>, ActError> {
        let installed: Listing<Installed> = self.http.get("/api/tags", ANSWER_MAX).await?;
        let offer = |model: Installed| Offer { unfit: model.unfit(), model: model.name, file: None, projector: None };
        Ok(installed.models.unwrap_or_default().into_iter().map(offer).collect())
    }

    /// By what it shows of the model, else by the size of its files.
    async fn sizing(&self, model: &Installed) -> Option<Sizing> {
        let size = Some(Bytes(model.size)).filter(|size| size.0 > 0);
        let shown = self.http.post("/api/show", &json!({ "model": model.name }), ANSWER_MAX).await;
        let plan = match shown.and_then(Reply::accepted).and_then(|reply| reply.json::<Show>()) {
            Ok(show) => show.plan(size, self.cpu).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match plan {
            Ok(plan) => Some(Sizing::Formula(Box::new(plan))),
            Err(why) => {
                tracing::debug!(message = "The metadata of a model is not read.", model = %model.name, %why);
                size.map(Sizing::Files)
            }
        }
    }

    pub(super) async fn residents(&self) -> Result<Vec<Resident>, ActError> {
        let resident = |model: Loaded| Resident {
            context: model.context(),
            model: model.name,
            // A model that is still loading is not in this list.
            state: ResidentState::Loaded,
        };
        Ok(self.list().await?.into_iter().map(resident).collect())
    }

    /// Until when each model that is loaded stays, as it is written.
    pub(super) async fn stays(&self) -> Result<Vec<(String, String)>, ActError> {
        let stay = |model: Loaded| (model.name, model.expires_at.unwrap_or_default());
        Ok(self.list().await?.into_iter().map(stay).collect())
    }

    pub(super) async fn load(&self, rung: &Rung) -> Result<Option<Placed>, ActError> {
        // Held open until it answers: closing it is what gives the load up (trap 1).
        self.http.post_and_hold("/api/generate", &preload(rung, rung.context)).await?.accepted()?;
        let (mut answered, mut by_its_name) = (Instant::now(), false);
        let mut seen = String::from("it answered as loaded, and its list was never seen since");
        while answered.elapsed() < LISTED_MAX {
            match self.listed(&rung.model).await {
                Ok(Some(model)) => return model.has_context_of(rung).map(|()| model.placed()),
                Ok(None) if !by_its_name && answered.elapsed() >= UNDER_ANOTHER_NAME => {
                    self.load_by_its_name(rung).await?;
                    (answered, by_its_name) = (Instant::now(), true);
                }
                Ok(None) => "it answered as loaded, and its list does not show it".clone_into(&mut seen),
                Err(error) => seen = error.to_string(),
            }
            sleep(LOOK_EVERY).await;
        }
        Err(ActError::NotLoaded { model: rung.model.clone(), evidence: seen })
    }

    pub(super) async fn unload(&self, rung: &Rung) -> Result<(), ActError> {
        let mut watched = match self.listed(&rung.model).await {
            Ok(Some(_)) => Duration::ZERO,
            Ok(None) | Err(_) => WATCHED_FOR,
        };
        let mut insistence = Insistence::start();
        let mut away_since = None;
        let mut seen = self.tell_to_go(rung).await?;
        while !insistence.is_over() {
            match self.listed(&rung.model).await {
                Ok(None) => {
                    let since = *away_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= watched {
                        return Ok(());
                    }
                }
                Ok(Some(model)) => {
                    seen = format!("its list still shows it, until {}", model.expires_at.as_deref().unwrap_or("-"));
                    watched = Duration::ZERO;
                    // It was loading when it was told to go, and came up all the same (trap 2).
                    if away_since.take().is_some() {
                        seen = self.tell_to_go_again(rung).await;
                    }
                }
                Err(error) => seen = error.to_string(),
            }
            if insistence.asks_again() {
                seen = self.tell_to_go_again(rung).await;
            }
            sleep(LOOK_EVERY).await;
        }
        Err(ActError::NotUnloaded { model: rung.model.clone(), after: GIVEN_UP_AFTER, evidence: seen })
    }

    pub(super) async fn check(&self, rung: &Rung) -> Result<(), ActError> {
        let mut question = preload(rung, rung.context);
        question["prompt"] = json!("Hi");
        question["stream"] = json!(false);
        question["options"]["num_predict"] = json!(1);
        let reply = self.http.post("/api/generate", &question, CHECK_MAX).await?.accepted()?;
        reply.is_an_answer(&rung.model)?;
        match self.listed(&rung.model).await? {
            Some(model) => model.has_context_of(rung),
            None => Err(ActError::NotAnswered {
                model: rung.model.clone(),
                evidence: "it answered, and its list does not show it".to_owned(),
            }),
        }
    }

    /// A stay that was shortened shows in `expires_at`, a model that was loaded anew in `context_length` (trap 5).
    pub(super) async fn keep(&self, rung: &Rung) -> Result<Kept, ActError> {
        let Some(model) = self.listed(&rung.model).await? else { return Ok(Kept::NotListed) };
        let shortened = model.stays_for_ever() == Some(false);
        if shortened {
            // With the context that it has now: another one would load the model anew.
            let again = preload(rung, model.context());
            self.http.post("/api/generate", &again, ANSWER_MAX).await?.accepted()?;
        }
        Ok(match model.has_context_of(rung) {
            Err(ActError::WrongContext { served, .. }) => Kept::OtherContext { served },
            Ok(()) | Err(_) if shortened => Kept::Again,
            Ok(()) | Err(_) => Kept::AsAsked,
        })
    }

    pub(super) async fn release(&self, rung: &Rung) -> Result<(), ActError> {
        // Asking for a model that is not there would load it.
        let Some(model) = self.listed(&rung.model).await? else { return Ok(()) };
        let mut back = preload(rung, model.context());
        back["keep_alive"] = json!(DEFAULT_STAY);
        self.http.post("/api/generate", &back, ANSWER_MAX).await?.accepted()?;
        Ok(())
    }

    /// Answers what was answered, which is no proof of anything.
    pub(super) async fn tell_to_go(&self, rung: &Rung) -> Result<String, ActError> {
        let go = json!({ "model": rung.model, "keep_alive": 0 });
        let reply = self.http.post("/api/generate", &go, ANSWER_MAX).await?.accepted()?;
        Ok(format!("it answered {}", reply.head()))
    }

    /// A failure is only evidence now: the list decides.
    async fn tell_to_go_again(&self, rung: &Rung) -> String {
        self.tell_to_go(rung).await.unwrap_or_else(|error| error.to_string())
    }

    pub(super) async fn list(&self) -> Result<Vec<Loaded>, ActError> {
        let loaded: Listing<Loaded> = self.http.get("/api/ps", LIST_MAX).await?;
        Ok(loaded.models.unwrap_or_default())
    }

    async fn listed(&self, model: &str) -> Result<Option<Loaded>, ActError> {
        let name = listed_name(model);
        Ok(self.list().await?.into_iter().find(|loaded| loaded.name == name))
    }
}

impl Loaded {
    /// A missing context and a context of zero are both unknown.
    fn context(&self) -> Option<u32> {
        self.context_length.filter(|tokens| *tokens > 0)
    }

    /// `None` where it does not know (trap 3).
    fn placed(&self) -> Option<Placed> {
        let memory = Bytes(self.size.saturating_sub(self.size_vram));
        (self.size > 0).then_some(Placed { memory, vram: Bytes(self.size_vram) })
    }

    fn has_context_of(&self, rung: &Rung) -> Result<(), ActError> {
        match (rung.context, self.context()) {
            (Some(wanted), Some(served)) if wanted != served => {
                Err(ActError::WrongContext { model: rung.model.clone(), wanted, served })
            }
            (Some(_) | None, _) => Ok(()),
        }
    }

    /// `None` when it does not say.
    fn stays_for_ever(&self) -> Option<bool> {
        let year = self.expires_at.as_deref()?.split('-').next()?.parse::<u32>().ok()?;
        Some(year >= FOR_EVER_FROM_YEAR)
    }
}

impl Installed {
    /// Why it can be no rung. Embedding models answer no questions, and models that run elsewhere take no memory here.
    fn unfit(&self) -> Option<&'static str> {
        let embeds = match &self.capabilities {
            Some(known) => known.iter().any(|it| it == "embedding") && !known.iter().any(|it| it == "completion"),
            None => self.details.family.contains("bert"),
        };
        let embeds = embeds.then_some("it embeds texts, and answers no questions");
        embeds.or(self.remote_host.as_ref().map(|_| "it runs elsewhere, and takes no memory here"))
    }
}

impl Show {
    /// It does not map weights into memory without a GPU, and takes one conversation at a time unless told otherwise.
    fn plan(&self, size: Option<Bytes>, cpu: Cpu) -> Result<Plan, ShapeError> {
        let shape = Shape::of(&[self.shown.head()], cpu)?;
        let load = Load {
            context: num_ctx(&self.parameters).map_or(Context::ByGpu, Context::Tokens),
            slots: 1,
            cells: Cells::Multiplied,
            weights: Held::Copied,
            ..Load::default()
        };
        // The size is of everything that the model consists of. Beside its tensors that is its vocabulary's texts, unless it
        // has a projector, or more than those could be.
        let untold = size.unwrap_or_default().saturating_sub(shape.weights());
        let is_loaded = self.projector_info.is_some() || untold > size.unwrap_or_default().share(TEXTS_MAX);
        let beside = if is_loaded { untold } else { Bytes::ZERO };
        Ok(Plan { shape, load, vram: Bytes::ZERO, beside })
    }
}

impl Reply {
    /// Whether a token was made: an empty prompt would end with `load`, an unload with `unload`.
    fn is_an_answer(&self, model: &str) -> Result<(), ActError> {
        let done: Done = self.json()?;
        let finished = done.done == Some(Value::Bool(true));
        let made = matches!(done.done_reason.as_deref(), Some("length" | "stop") | None);
        if finished && made {
            return Ok(());
        }
        Err(ActError::NotAnswered { model: model.to_owned(), evidence: self.head() })
    }
}

/// The request that loads a model and keeps it: an empty prompt.
pub(super) fn preload(rung: &Rung, context: Option<u32>) -> Value {
    let mut request = json!({ "model": rung.model, "keep_alive": -1 });
    if let Some(tokens) = context {
        request["options"] = json!({ "num_ctx": tokens });
    }
    request
}
