//! The stand-in: a list of pretended models -> a server that speaks as llama-server's router does.
//!
//! Pretended is only the text. A loaded model is a process that holds its memory, loading takes the time that touching it takes, and an
//! unload cuts what is being said, because those are the things that the demo is about. Where the real one has an oddity
//! that a client must live with , it is here too.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use futures_util::stream;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::broadcast::error::RecvError;

mod answer;
mod child;
pub mod memory;
mod reply;
#[cfg(test)]
mod tests;

use answer::{Refusal, event_stream, json_answer};
use child::{Autoload, Household, Phase};

const BUILD: &str = "b1-stand-in";
const SLOTS: u32 = 4;
const WHOLE_MAX: usize = 1 << 20;

/// A model that is not there.
#[derive(Debug, Clone)]
pub struct StandInModel {
    pub id: String,
    /// How much memory its process holds.
    pub bytes: u64,
    /// What it lists as the model's file.
    pub file: String,
    pub tokens_per_second: u32,
    /// How long a load takes beyond touching the memory.
    pub load: Duration,
}

/// What the real one takes from its command line, and what only a stand-in needs.
#[derive(Debug, Clone)]
pub struct Options {
    /// What makes this program, given `--alias ID --bytes N` after it, call [`memory::hold_memory`].
    pub child_args: Vec<String>,
    pub models_max: usize,
    pub context: u32,
    /// How long a reply may keep a model that was told to go. The real one has 10 s, and the reply does not go on meanwhile.
    pub unload_grace: Duration,
    /// How often a request that waits for room looks whether there is some.
    pub look_again: Duration,
    /// Unix time for the `created` fields; given, because this room has no clock.
    pub created_s: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            child_args: Vec::new(),
            models_max: 2,
            context: 4096,
            unload_grace: Duration::from_secs(10),
            look_again: Duration::from_millis(50),
            created_s: 0,
        }
    }
}

/// Serves until dropped; then every child is killed and every reply cut.
pub async fn serve(listener: TcpListener, models: Vec<StandInModel>, options: Options) -> io::Result<()> {
    let household = Household::new(models, options);
    let _ends = EndOnDrop(household.clone());
    let router = Router::new()
        .route("/health", get(async || json_answer(StatusCode::OK, &json!({ "status": "ok" }))))
        .route("/models", get(list))
        .route("/v1/models", get(list))
        .route("/models/load", post(load))
        .route("/models/unload", post(unload))
        .route("/models/sse", get(tell))
        .route("/props", get(props))
        .route("/slots", get(slots))
        .route("/v1/chat/completions", post(chat))
        .route("/completion", post(completion))
        .fallback(async || Refusal::NoSuchRoute.answer())
        .method_not_allowed_fallback(async || Refusal::NoSuchRoute.answer())
        .with_state(Stand { household, serial: Arc::default() });
    // Without nodelay each token waits for the last one's acknowledgement; a listener that cannot set it still serves.
    axum::serve(listener.tap_io(|stream| _ = stream.set_nodelay(true)), router).await
}

struct EndOnDrop(Arc<Household>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end();
    }
}

#[derive(Clone)]
struct Stand {
    household: Arc<Household>,
    serial: Arc<AtomicU64>,
}

#[derive(Deserialize)]
struct Asked {
    model: Option<String>,
    autoload: Option<String>,
}

impl Asked {
    fn autoload(&self) -> Autoload {
        match self.autoload.as_deref() {
            Some("false" | "0") => Autoload::No,
            Some(_) | None => Autoload::Yes,
        }
    }
}

async fn list(State(stand): State<Stand>) -> Response {
    let models: Vec<Value> = (0..stand.household.models.len()).map(|index| entry(&stand.household, index)).collect();
    json_answer(StatusCode::OK, &json!({ "data": models, "object": "list" }))
}

fn entry(household: &Household, index: usize) -> Value {
    let model = &household.models[index];
    let phase = household.phase(index);
    let program = std::env::current_exe().map(|path| path.display().to_string()).unwrap_or_default();
    let args: Vec<String> = [program]
        .into_iter()
        .chain(child::child_arguments(model, &household.options))
        .chain(["--model".to_owned(), model.file.clone()])
        .collect();
    let mut status = match phase {
        Phase::Unloaded { exit_code: 0 } => json!({ "value": "unloaded" }),
        Phase::Unloaded { exit_code } => json!({ "value": "unloaded", "exit_code": exit_code, "failed": true }),
        Phase::Loading => json!({ "value": "loading" }),
        Phase::Loaded => json!({ "value": "loaded" }),
    };
    status["args"] = json!(args);
    status["preset"] = json!(format!("[{}]\nctx-size = {}\n\n", model.id, household.options.context));
    let mut entry = json!({ "id": model.id, "aliases": [], "tags": [], "object": "model", "owned_by": "llamacpp",
        "created": household.options.created_s, "status": status, "source": "models_dir", "can_remove": false,
        "architecture": { "input_modalities": ["text"], "output_modalities": ["text"] } });
    if phase == Phase::Loaded {
        entry["meta"] = meta(model, &household.options);
    }
    entry
}

fn meta(model: &StandInModel, options: &Options) -> Value {
    json!({ "vocab_type": 1, "n_vocab": 32000, "n_ctx": options.context, "n_ctx_train": options.context, "n_embd": 1024,
        "n_params": model.bytes / 2, "size": model.bytes, "ftype": "F16" })
}

async fn load(State(stand): State<Stand>, body: Bytes) -> Response {
    let household = &stand.household;
    done(match named(household, &body) {
        Ok(index) => household.load(index).await,
        // An unknown id gets the answer of an unknown route there.
        Err(Refusal::BadJson) => Err(Refusal::BadJson),
        Err(_) => Err(Refusal::NoSuchRoute),
    })
}

async fn unload(State(stand): State<Stand>, body: Bytes) -> Response {
    let household = &stand.household;
    done(match named(household, &body) {
        Ok(index) => household.unload(index),
        Err(Refusal::BadJson) => Err(Refusal::BadJson),
        Err(_) => Err(Refusal::UnknownToUnload),
    })
}

fn named(household: &Household, body: &[u8]) -> Result<usize, Refusal<'static>> {
    let body: Value = serde_json::from_slice(body).map_err(|_| Refusal::BadJson)?;
    body["model"].as_str().and_then(|id| household.find(id)).ok_or(Refusal::NoModel)
}

fn done(result: Result<(), Refusal>) -> Response {
    result.map_or_else(Refusal::answer, |()| json_answer(StatusCode::OK, &json!({ "success": true })))
}

async fn tell(State(stand): State<Stand>) -> Response {
    let events = stream::unfold(stand.household.events.subscribe(), |mut events| async {
        loop {
            match events.recv().await {
                Ok(event) => return Some((Ok::<_, Infallible>(Bytes::from(format!("data: {event}\n\n"))), events)),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    });
    event_stream(Body::from_stream(events))
}

/// Asking for a model's properties loads it, unless told not to: the real one treats it as any other request.
async fn props(State(stand): State<Stand>, Query(asked): Query<Asked>) -> Response {
    let household = &stand.household;
    let Some(id) = &asked.model else {
        return json_answer(
            StatusCode::OK,
            &json!({ "role": "router", "max_instances": household.options.models_max,
            "models_autoload": true, "model_alias": "llama-server", "model_path": "none",
            "default_generation_settings": { "params": null, "n_ctx": 0 }, "ui_settings": {}, "build_info": BUILD,
            "cors_proxy_enabled": false }),
        );
    };
    let Some(index) = household.find(id) else {
        return Refusal::UnknownModel(id).answer();
    };
    match household.seat(index, asked.autoload()).await {
        Err(refusal) => refusal.answer(),
        Ok(_seat) => json_answer(
            StatusCode::OK,
            &json!({ "default_generation_settings": { "n_ctx": household.options.context },
            "total_slots": SLOTS, "model_alias": id, "model_ftype": "F16", "endpoint_slots": true, "endpoint_props": false,
            "endpoint_metrics": false, "build_info": BUILD }),
        ),
    }
}

async fn slots(State(stand): State<Stand>, Query(asked): Query<Asked>) -> Response {
    let household = &stand.household;
    let Some(id) = &asked.model else {
        return Refusal::NoModel.answer();
    };
    let Some(index) = household.find(id) else {
        return Refusal::UnknownModel(id).answer();
    };
    let is_busy = household.is_busy(index);
    match household.seat(index, asked.autoload()).await {
        Err(refusal) => refusal.answer(),
        Ok(_seat) => {
            let slot = |id: u32| json!({ "id": id, "n_ctx": household.options.context, "speculative": false, "is_processing": is_busy && id == 0 });
            json_answer(StatusCode::OK, &(0..SLOTS).map(slot).collect())
        }
    }
}

async fn chat(State(stand): State<Stand>, Query(asked): Query<Asked>, body: Bytes) -> Response {
    let Ok(body) = serde_json::from_slice::<Value>(&body) else {
        return Refusal::BadJson.answer();
    };
    answered(&stand, &asked, body).await
}

/// The native route, unstreamed: the same babble in its own form.
async fn completion(State(stand): State<Stand>, Query(asked): Query<Asked>, body: Bytes) -> Response {
    let Ok(body) = serde_json::from_slice::<Value>(&body) else {
        return Refusal::BadJson.answer();
    };
    let question = json!({ "model": body["model"], "max_tokens": body["n_predict"],
        "messages": [{ "role": "user", "content": body["prompt"] }] });
    let answer = answered(&stand, &asked, question).await;
    let status = answer.status();
    let text = axum::body::to_bytes(answer.into_body(), WHOLE_MAX).await.unwrap_or_default();
    let Ok(chat) = serde_json::from_slice::<Value>(&text).map(|chat| (status.is_success(), chat)) else {
        return Refusal::Cut.answer();
    };
    match chat {
        (true, chat) => json_answer(
            StatusCode::OK,
            &json!({ "index": 0, "content": chat["choices"][0]["message"]["content"], "stop": true,
                "stop_type": "limit", "id_slot": 0, "tokens_predicted": chat["usage"]["completion_tokens"],
                "tokens_evaluated": chat["usage"]["prompt_tokens"], "timings": chat["timings"] }),
        ),
        (false, refusal) => json_answer(status, &refusal),
    }
}

async fn answered(stand: &Stand, asked: &Asked, body: Value) -> Response {
    let household = &stand.household;
    let Some(id) = body["model"].as_str() else {
        return Refusal::NoModel.answer();
    };
    let Some(index) = household.find(id) else {
        return Refusal::UnknownModel(id).answer();
    };
    let seat = match household.seat(index, asked.autoload()).await {
        Ok(seat) => seat,
        Err(refusal) => return refusal.answer(),
    };
    let serial = stand.serial.fetch_add(1, Ordering::Relaxed);
    match reply::Ask::read(&body, &household.models[index], &household.options, serial) {
        Ok(ask) => reply::reply(seat, ask).await,
        Err(refusal) => refusal.answer(),
    }
}
