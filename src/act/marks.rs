//! Marks: what a server shows of the use of its models -> how many replies it gives, and signs that change with every use.
//!
//! They are for requests that do not come through us. Ollama tells of no reply, only until when a model stays, which every
//! request moves; llama-server tells what each of its slots works on, or worked on last. Of a model that goes to sleep by
//! itself (`--sleep-idle-seconds`) it is not asked: the question would wake it, or keep it awake.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::Driver;
use super::error::ActError;
use super::http::Http;
use super::listing::State;
use super::llama_server::percent_encoded;

const ANSWER_MAX: Duration = Duration::from_secs(3);
/// What the server answers about a model that is not loaded.
const NOT_LOADED: u16 = 400;

/// By the name under which the server lists a model: a sign that is the same for as long as nobody uses it.
pub type Marks = BTreeMap<String, String>;

#[derive(Debug, Deserialize)]
struct Slot {
    #[serde(default)]
    is_processing: bool,
    #[serde(default)]
    id_task: Option<i64>,
}

impl Driver {
    /// How many replies of this model run, whoever asked for them; `None` where the server does not tell.
    pub async fn busy(&self, model: &str) -> Result<Option<u32>, ActError> {
        let Driver::LlamaServer(server) = self else { return Ok(None) };
        busy(server.http(), model).await
    }

    /// The marks of all models that are loaded.
    pub async fn marks(&self) -> Result<Marks, ActError> {
        let mut marks = Marks::new();
        match self {
            Driver::Ollama(server) => marks.extend(server.stays().await?),
            Driver::LlamaServer(server) => {
                for model in server.list().await? {
                    let mark = match model.status.value {
                        State::Unloaded | State::Other => continue,
                        State::Loaded if !model.arguments().sleeps() => used(slots(server.http(), &model.id).await?),
                        State::Loading | State::Loaded | State::Sleeping => String::new(),
                    };
                    marks.insert(model.id, mark);
                }
            }
        }
        Ok(marks)
    }
}

/// How many replies of this model a llama-server gives; `None` where it was started without slots.
pub(super) async fn busy(http: &Http, model: &str) -> Result<Option<u32>, ActError> {
    let slots = slots(http, model).await?;
    Ok(slots.map(|slots| slots.iter().filter(|slot| slot.is_processing).count() as u32))
}

/// `None` where the server was started without them.
async fn slots(http: &Http, model: &str) -> Result<Option<Vec<Slot>>, ActError> {
    let path = format!("/slots?model={}&autoload=false", percent_encoded(model));
    match http.get(&path, ANSWER_MAX).await {
        Ok(slots) => Ok(Some(slots)),
        Err(ActError::Refused { status: NOT_LOADED, .. }) => Ok(Some(Vec::new())),
        Err(ActError::Refused { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn used(slots: Option<Vec<Slot>>) -> String {
    let mark = |slot: Slot| format!("{}{}", slot.id_task.unwrap_or(-1), if slot.is_processing { "!" } else { "" });
    slots.unwrap_or_default().into_iter().map(mark).collect::<Vec<_>>().join(",")
}
