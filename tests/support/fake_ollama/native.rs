//! Ollama's own routes: a body under /api -> the recorded forms. JSON is written by hand to keep Go's key order.

use super::ask::{self, Ask, Message, Prompt, Refusal};
use super::http::{Installed, Server, parse, stream, text, typed};
use super::reply::{Done, Piece};
use super::show;
use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::Value;
use std::sync::Arc;
use tokio::time::Instant;

pub(crate) fn json(body: String) -> Response {
    json_with(StatusCode::OK, body)
}

fn json_with(status: StatusCode, body: String) -> Response {
    typed(status, "application/json; charset=utf-8", body)
}

pub(crate) fn error(status: StatusCode, message: &str) -> Response {
    json_with(status, format!(r#"{{"error":{}}}"#, text(message)))
}

pub(crate) fn refuse(refusal: &Refusal) -> Response {
    error(refusal.status, &refusal.message)
}

pub(crate) fn body_of(body: &[u8]) -> Result<Value, Refusal> {
    parse(body).map_err(Refusal::bad)
}

pub(crate) fn tags(server: &Server) -> Response {
    let mut installed = server.installed().clone();
    installed.sort_by_key(|installed| std::cmp::Reverse(installed.modified_at));
    let models: Vec<String> = installed.iter().map(|installed| tag(server, installed)).collect();
    json(format!(r#"{{"models":[{}]}}"#, models.join(",")))
}

fn tag(server: &Server, installed: &Installed) -> String {
    let (name, model) = (text(&installed.name), &installed.model);
    let details = show::details(model);
    let details = details.trim_end_matches('}');
    format!(
        r#"{{"name":{name},"model":{name},"modified_at":"{}","size":{},"digest":"{}","details":{details},"context_length":{},"embedding_length":{}}},"capabilities":["completion"]}}"#,
        server.time_of(installed.modified_at),
        model.bytes(),
        model.digest(),
        model.context,
        model.embedding
    )
}

pub(crate) async fn ps(server: &Server) -> Response {
    let loaded = server.scheduler.loaded().await;
    let models: Vec<String> = loaded
        .iter()
        .map(|loaded| {
            format!(
                r#"{{"name":{name},"model":{name},"size":{},"digest":"{}","details":{},"expires_at":"{}","size_vram":{},"context_length":{}}}"#,
                loaded.model.placed.0,
                loaded.model.digest(),
                show::details(&loaded.model),
                server.time_of(loaded.expires_at),
                loaded.model.placed.1,
                loaded.model.context_lowered_to.map_or(loaded.num_ctx, |lowered| lowered.min(loaded.num_ctx)),
                name = text(&loaded.name),
            )
        })
        .collect();
    json(format!(r#"{{"models":[{}]}}"#, models.join(",")))
}

pub(crate) fn show(server: &Server, body: &[u8]) -> Response {
    let body = match body_of(body) {
        Ok(body) => body,
        Err(refusal) => return refuse(&refusal),
    };
    let name = body["model"].as_str().or(body["name"].as_str()).unwrap_or_default();
    if name.is_empty() {
        return error(StatusCode::BAD_REQUEST, "model is required");
    }
    match server.find(name) {
        Some(installed) => json(show::show(&installed, &server.time_of(installed.modified_at))),
        None => error(StatusCode::NOT_FOUND, &format!("model '{}' not found", super::config::tagged(name))),
    }
}

pub(crate) fn copy(server: &Server, body: &[u8]) -> Response {
    let body = match body_of(body) {
        Ok(body) => body,
        Err(refusal) => return refuse(&refusal),
    };
    let (source, destination) = (body["source"].as_str().unwrap_or_default(), body["destination"].as_str());
    let Some(found) = server.find(source) else {
        return error(StatusCode::NOT_FOUND, &format!("model {source:?} not found"));
    };
    let name = super::config::tagged(destination.unwrap_or_default());
    let mut installed = server.installed();
    installed.retain(|installed| installed.name != name);
    installed.push(Installed { name, modified_at: Instant::now(), ..found });
    Response::new(Body::empty())
}

pub(crate) fn delete(server: &Server, body: &[u8]) -> Response {
    let body = match body_of(body) {
        Ok(body) => body,
        Err(refusal) => return refuse(&refusal),
    };
    let name = body["model"].as_str().or(body["name"].as_str()).unwrap_or_default();
    let Some(found) = server.find(name) else {
        return error(StatusCode::NOT_FOUND, &format!("model '{name}' not found"));
    };
    server.installed().retain(|installed| installed.name != found.name);
    Response::new(Body::empty())
}

pub(crate) async fn embed(server: &Arc<Server>, body: &[u8]) -> Response {
    let embedded = async {
        let ask = ask_of(server, &body_of(body)?, Prompt::Raw(String::new()))?;
        drop(ask.lease(server).await?);
        Err(Refusal::new(
            StatusCode::NOT_IMPLEMENTED,
            "This server does not support embeddings. Start it with `--embeddings`",
        ))
    };
    embedded.await.unwrap_or_else(|refusal| refuse(&refusal))
}

fn ask_of(server: &Server, body: &Value, prompt: Prompt) -> Result<Ask, Refusal> {
    let keep_alive = ask::keep_alive(&body["keep_alive"])?;
    let options = &body["options"];
    Ok(Ask {
        installed: Ask::installed(server, body)?,
        prompt,
        limit: ask::limit(&options["num_predict"]),
        num_ctx: options["num_ctx"].as_u64(),
        keep_alive,
        json: !body["format"].is_null(),
        tools: body["tools"].as_array().is_some_and(|tools| !tools.is_empty()),
        whole: body["truncate"] == false,
    })
}

/// Where generate and chat differ: how the text is wrapped, and whether the last frame has the context.
#[derive(Clone, Debug)]
struct Form {
    /// The name as the client wrote it.
    model: String,
    chat: bool,
    context: bool,
}

impl Form {
    fn frame(&self, server: &Server, text_part: &str, rest: &str) -> String {
        let said = if self.chat {
            format!(r#""message":{{"role":"assistant","content":{}}}"#, text(text_part))
        } else {
            format!(r#""response":{}"#, text(text_part))
        };
        format!(r#"{{"model":{},"created_at":"{}",{said},{rest}}}"#, text(&self.model), server.clock.now())
    }

    fn done(&self, server: &Server, text_part: &str, done: &Done) -> String {
        let context =
            if self.context { format!(r#""context":{:?},"#, done.context).replace(' ', "") } else { String::new() };
        let rest = format!(
            r#""done":true,"done_reason":"{}",{context}"total_duration":{},"load_duration":{},"prompt_eval_count":{},"prompt_eval_duration":{},"eval_count":{},"eval_duration":{}"#,
            done.reason,
            done.total.as_nanos(),
            done.load.as_nanos(),
            done.prompt_count,
            done.prompt_time.as_nanos(),
            done.count,
            done.time.as_nanos()
        );
        self.frame(server, text_part, &rest)
    }

    /// The answer to an empty prompt: nothing was said, the model came or goes.
    fn nothing(&self, server: &Server, reason: &str) -> Response {
        json(self.frame(server, "", &format!(r#""done":true,"done_reason":"{reason}""#)))
    }
}

pub(crate) async fn generate(server: &Arc<Server>, body: &[u8]) -> Response {
    let answered = async {
        let body = body_of(body)?;
        let prompt = body["prompt"].as_str().unwrap_or_default();
        let raw = body["raw"].as_bool().unwrap_or_default();
        let turned = if raw { Prompt::Raw(prompt.to_owned()) } else { Prompt::Chat(turns(&body, prompt)) };
        let ask = ask_of(server, &body, turned)?;
        let form = Form { model: body["model"].as_str().unwrap_or_default().into(), chat: false, context: !raw };
        answer(server, &body, ask, form, prompt.is_empty()).await
    };
    answered.await.unwrap_or_else(|refusal| refuse(&refusal))
}

fn turns(body: &Value, prompt: &str) -> Vec<Message> {
    let system = body["system"].as_str().filter(|system| !system.is_empty());
    let system = system.map(|content| Message { role: "system".into(), content: content.into(), has_image: false });
    let mut asked = ask::user(prompt);
    asked.has_image = body["images"].as_array().is_some_and(|images| !images.is_empty());
    system.into_iter().chain([asked]).collect()
}

pub(crate) async fn chat(server: &Arc<Server>, body: &[u8]) -> Response {
    let answered = async {
        let body = body_of(body)?;
        let messages = ask::messages(&body);
        let empty = messages.is_empty();
        let ask = ask_of(server, &body, Prompt::Chat(messages))?;
        let form = Form { model: body["model"].as_str().unwrap_or_default().into(), chat: true, context: false };
        answer(server, &body, ask, form, empty).await
    };
    answered.await.unwrap_or_else(|refusal| refuse(&refusal))
}

async fn answer(server: &Arc<Server>, body: &Value, ask: Ask, form: Form, empty: bool) -> Result<Response, Refusal> {
    if empty && ask.keep_alive.is_some_and(|keep| keep.is_zero()) {
        server.scheduler.wish_away(&ask.installed.model);
        return Ok(form.nothing(server, "unload"));
    }
    if body["think"].as_bool().unwrap_or_default() || body["think"].is_string() {
        return Err(Refusal::bad(format!("{:?} does not support thinking", form.model)));
    }
    if empty {
        drop(ask.lease(server).await?);
        return Ok(form.nothing(server, "load"));
    }
    let reply = ask.begin(server).await?;
    if body["stream"].as_bool() == Some(false) {
        let (said, done) = reply.whole().await;
        return Ok(json(match done {
            Some(done) => form.done(server, &said, &done),
            None => form.frame(server, &said, r#""done":false"#),
        }));
    }
    let server = Arc::clone(server);
    let frames = reply.stream(move |piece| {
        let line = match piece {
            Piece::Token { text, .. } => form.frame(&server, &text, r#""done":false"#),
            Piece::Done(done) => form.done(&server, "", &done),
        };
        vec![line + "\n"]
    });
    Ok(stream(StatusCode::OK, "application/x-ndjson", frames))
}
