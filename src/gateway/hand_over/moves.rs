//! Moves: a rung that must go, and the one that comes -> its replies gone on with there, the oldest first.
//!
//! Where the other rung is there already, a reply is let go of only when that one has begun to answer: what does not
//! come about costs nothing. Where it is still to come, replies stall until it is there, so only those go that can.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::ACCEPT_ENCODING;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt, Limited};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::kept::Proposal;
use super::proceed;
use super::stalled::{Stalled, go_on_with};
use crate::config::ServerKind;
use crate::gateway::answer::collected;
use crate::gateway::body::Document;
use crate::gateway::instance::{Admission, Inside, Instance};
use crate::gateway::pass::Ask;
use crate::gateway::reply::media_type;
use crate::gateway::running::{Live, Running};
use crate::gateway::wire::incoming::Incoming;
use crate::gateway::{Event, Shared};
use crate::policy::Rung;

/// How many more tokens the rung that goes on must have room for.
const ROOM_MIN: u64 = 256;
/// Where tokens cannot be counted: one has about so many bytes, or more.
const BYTES_PER_TOKEN: u64 = 3;
pub const ANSWER_MAX: Duration = Duration::from_secs(5);
const LOOK_INTO_MAX: usize = 16 << 20;
/// How many replies a server works on at once, where it does not say.
const SLOTS: usize = 1;

/// The rung that goes on, as its server has it.
pub struct Place {
    context: Option<u64>,
    pub slots: Arc<Semaphore>,
}

/// Hands over what goes on at a rung that must go, and tells what came of it.
pub async fn hand_over(shared: Arc<Shared>, from: Arc<Instance>, to: Arc<Rung>) {
    let inside = from.inside();
    let total = u32::try_from(inside.len()).unwrap_or(u32::MAX);
    let beside = shared.current.borrow().clone().filter(|instance| instance.rung == to);
    let headers = inside.first().map(Inside::headers).unwrap_or_default();
    let place = match &beside {
        Some(_) => place(&shared, &to, &headers).await,
        None => Place { context: to.context.map(u64::from), slots: Arc::new(Semaphore::new(0)) },
    };
    let (mut tries, mut stalled, mut moved) = (JoinSet::new(), VecDeque::new(), 0);
    for inside in inside {
        let running = match inside {
            Inside::Asking(asking) => {
                if may_be_asked_again(&shared, &from.rung, &asking.ask, &place).await {
                    asking.moved.cancel();
                    moved += 1;
                }
                continue;
            }
            Inside::Replying(running) => running,
        };
        let Some(mut proposal) = running.pause() else { continue };
        if !fits(&shared, (&from.rung, &to), &mut proposal, &place).await {
            running.resume();
            continue;
        }
        match (&beside, place.slots.clone().try_acquire_owned()) {
            (Some(beside), Ok(slot)) => {
                let (shared, beside) = (shared.clone(), beside.clone());
                tries.spawn(async move { go_on_beside(&shared, &beside, &running, &proposal, slot).await });
            }
            (Some(_) | None, _) => {
                running.stall(shared.stalled.take(1));
                moved += 1;
                stalled.push_back(Stalled { running, proposal });
            }
        }
    }
    moved += tries.join_all().await.into_iter().map(u32::from).sum::<u32>();
    let rung = from.rung.name.clone();
    shared.record.handed_over.more(u64::from(moved));
    shared.record.tell(match moved {
        0 if total > 0 => Event::HandOverFailed { rung, why: "another model could go on with none of them".to_owned() },
        _ => Event::HandedOver { rung, moved, left: total.saturating_sub(moved) },
    });
    let place = beside.map(|instance| (instance, place));
    go_on_with(shared, stalled, place).await;
}

impl Shared {
    /// Whether a model was seen to go on with a reply that another one has begun; waits a little while for that to be known.
    async fn goes_on(&self, model: &str) -> bool {
        let mut known = self.continuing.subscribe();
        let seen = timeout(ANSWER_MAX, known.wait_for(|known| known.contains_key(model))).await;
        seen.is_ok_and(|seen| seen.is_ok_and(|known| known.get(model) == Some(&true)))
    }
}

impl Inside {
    /// Whatever the server asks of its callers, this one has it.
    fn headers(&self) -> HeaderMap {
        match self {
            Inside::Asking(asking) => asking.ask.headers.clone(),
            Inside::Replying(running) => running.headers(),
        }
    }
}

/// True when the other rung goes on; otherwise the first one does.
async fn go_on_beside(
    shared: &Shared,
    beside: &Arc<Instance>,
    running: &Arc<Running>,
    proposal: &Proposal,
    slot: OwnedSemaphorePermit,
) -> bool {
    let answer = match beside.enter() {
        Some(admission) => ask(shared, &admission, proposal).await.map(|answer| (answer, admission)),
        None => Err("it leaves already".to_owned()),
    };
    match answer {
        Ok((upstream, admission)) => {
            running.join(Live { upstream, admission: Some(admission), _slot: Some(slot) }, proposal.prompt);
            true
        }
        Err(why) => {
            tracing::warn!(message = "A model does not go on with a reply.", rung = %beside.rung.name, %why);
            running.resume();
            false
        }
    }
}

/// The server's answer if it goes on, or why it does not. Nobody waits for it once the client has left.
pub async fn ask(shared: &Shared, admission: &Admission, proposal: &Proposal) -> Result<Box<Incoming>, String> {
    tokio::select! {
        biased;
        () = proposal.left.cancelled() => Err("its client has left".to_owned()),
        answer = answer_of(shared, admission, proposal) => answer,
    }
}

async fn answer_of(shared: &Shared, admission: &Admission, proposal: &Proposal) -> Result<Box<Incoming>, String> {
    if left_open(shared, admission.rung(), proposal).await.is_none() {
        return Err("its template does not let it, or its server does not say".to_owned());
    }
    let target = proposal.rest_at.map_or_else(|| proposal.ask.target(shared.server, true), str::to_owned);
    let body = proposal.request.spliced(&admission.rung().model, proposal.ask.owned(shared, admission.rung()));
    let (cut, kind) = (admission.cut(), proposal.dialect.frames().media_type());
    let answer = shared.upstream.ask(&Method::POST, &target, &proposal.ask.headers, body);
    let answer = tokio::select! {
        biased;
        () = cut.cancelled() => return Err("its replies were cut".to_owned()),
        answer = answer => answer,
    };
    match answer {
        Ok(answer) if answer.status() == StatusCode::OK && media_type(answer.headers()) == kind => {
            Ok(Box::new(answer.into_body()))
        }
        Ok(answer) => {
            let status = answer.status();
            let body = collected(answer.into_body(), 1 << 16).await.unwrap_or_default();
            Err(format!("{status}: {}", String::from_utf8_lossy(&body)))
        }
        Err(error) => Err(error.to_string()),
    }
}

pub fn props_of(rung: &Rung) -> String {
    let model = percent_encoding::utf8_percent_encode(&rung.model, percent_encoding::NON_ALPHANUMERIC);
    format!("/props?model={model}&autoload=false")
}

pub async fn place(shared: &Shared, rung: &Rung, headers: &HeaderMap) -> Place {
    if shared.server == ServerKind::Ollama {
        let listed = told(shared, Method::GET, "/api/ps", headers, Bytes::new()).await.unwrap_or_default();
        let mut models = listed["models"].as_array().into_iter().flatten();
        let loaded = models.find(|model| model["name"].as_str().is_some_and(|name| is_called(name, &rung.model)));
        let context = loaded.and_then(|model| model["context_length"].as_u64());
        let slots = Arc::new(Semaphore::new(SLOTS));
        return Place { context: context.or(rung.context.map(u64::from)), slots };
    }
    let props = told(shared, Method::GET, &props_of(rung), headers, Bytes::new()).await;
    let props = props.unwrap_or_default();
    let context = props.pointer("/default_generation_settings/n_ctx").and_then(Value::as_u64);
    let slots = props["total_slots"].as_u64().and_then(|slots| usize::try_from(slots).ok());
    let slots = slots.unwrap_or(SLOTS).clamp(1, Semaphore::MAX_PERMITS);
    Place { context: context.or(rung.context.map(u64::from)), slots: Arc::new(Semaphore::new(slots)) }
}

/// Ollama's names have a tag, which need not be said.
fn is_called(listed: &str, model: &str) -> bool {
    listed == model || listed.strip_suffix(":latest") == Some(model)
}

/// Whether it can be gone on with: its template leaves it open, and prompt, partial reply and some more fit into the
/// context of the rung that goes on. Notes what the prompt alone took.
pub async fn fits(shared: &Shared, (from, to): (&Rung, &Rung), proposal: &mut Proposal, place: &Place) -> bool {
    let headers = proposal.ask.headers.clone();
    if shared.server == ServerKind::Ollama {
        // It tells no templates and counts no tokens before it reads them.
        let open = left_open(shared, to, proposal).await.is_some();
        return open && place.context.is_none_or(|context| estimate(&proposal.request) + ROOM_MIN <= context);
    }
    let Some(prompt) = left_open(shared, from, proposal).await else { return false };
    if let Some(asked) = read_of(shared, from, proposal).await {
        // It is made to think first, and its server takes thoughts for what is said.
        let thinks = proposal.said.is_some() && !proposal.thought && asked.trim_end().ends_with("<think>");
        if thinks && proposal.dialect.prompt(&proposal.ask.document).is_none() {
            return false;
        }
        proposal.prompt = tokens(shared, from, &headers, &asked).await;
    }
    let Some(context) = place.context else { return true };
    let counted = tokens(shared, from, &headers, &prompt).await;
    counted.unwrap_or_else(|| estimate(&proposal.request)) + ROOM_MIN <= context
}

/// What this model has read before it said anything.
async fn read_of(shared: &Shared, model: &Rung, proposal: &Proposal) -> Option<String> {
    match proposal.dialect.prompt(&proposal.ask.document) {
        Some(prompt) => Some(prompt),
        None => {
            let chat = proposal.dialect.chat(&proposal.ask.document)?;
            templated(shared, model, &proposal.ask.headers, &chat).await
        }
    }
}

/// The prompt that has this model go on, and not answer what was said: it ends with just that.
async fn left_open(shared: &Shared, model: &Rung, proposal: &Proposal) -> Option<String> {
    if let Some(prompt) = proposal.dialect.prompt(&proposal.request) {
        return Some(prompt);
    }
    if shared.server == ServerKind::Ollama {
        let goes_on = proposal.said.is_none() || shared.goes_on(&model.model).await;
        return goes_on.then(String::new);
    }
    let chat = proposal.dialect.chat(&proposal.request)?;
    let prompt = templated(shared, model, &proposal.ask.headers, &chat).await?;
    let said = proposal.said.as_deref().unwrap_or_default().trim_end();
    prompt.trim_end().ends_with(said).then_some(prompt)
}

/// Whether a request that was not answered yet can be asked of the other rung as well.
async fn may_be_asked_again(shared: &Shared, from: &Rung, ask: &Ask, place: &Place) -> bool {
    if ask.required.is_some() {
        return false;
    }
    let Some(context) = place.context else { return true };
    if shared.server == ServerKind::Ollama {
        return estimate(&ask.document) + ROOM_MIN <= context;
    }
    let dialect = proceed::dialect(shared.server, &ask.path, &ask.document);
    let chat = dialect.and_then(|dialect| dialect.chat(&ask.document));
    let prompt = match chat {
        Some(chat) => templated(shared, from, &ask.headers, &chat).await,
        None => None,
    };
    let counted = match prompt {
        Some(prompt) => tokens(shared, from, &ask.headers, &prompt).await,
        None => None,
    };
    counted.unwrap_or_else(|| estimate(&ask.document)) + ROOM_MIN <= context
}

/// A chat as the model reads it.
async fn templated(shared: &Shared, model: &Rung, headers: &HeaderMap, request: &Document) -> Option<String> {
    let body = request.spliced(&model.model, None);
    let told = told(shared, Method::POST, "/apply-template?autoload=false", headers, body).await?;
    told["prompt"].as_str().map(str::to_owned)
}

async fn tokens(shared: &Shared, model: &Rung, headers: &HeaderMap, text: &str) -> Option<u64> {
    let body = Bytes::from(json!({ "model": model.model, "content": text, "add_special": true }).to_string());
    let told = told(shared, Method::POST, "/tokenize?autoload=false", headers, body).await?;
    told["tokens"].as_array().map(|tokens| tokens.len() as u64)
}

fn estimate(request: &Document) -> u64 {
    request.bytes().len() as u64 / BYTES_PER_TOKEN
}

/// What the server tells, if it does.
async fn told(shared: &Shared, method: Method, target: &str, headers: &HeaderMap, body: Bytes) -> Option<Value> {
    let mut headers = headers.clone();
    headers.remove(ACCEPT_ENCODING);
    let answer = async {
        let answer = shared.upstream.ask(&method, target, &headers, body).await.ok()?;
        let is_fine = answer.status() == StatusCode::OK;
        let body = Limited::new(answer.into_body(), LOOK_INTO_MAX).collect().await.ok()?;
        serde_json::from_slice(&body.to_bytes()).ok().filter(|_| is_fine)
    };
    timeout(ANSWER_MAX, answer).await.ok().flatten()
}
