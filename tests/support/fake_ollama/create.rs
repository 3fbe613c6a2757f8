//! `/api/create` from a model that is there: a body -> one more name on the disk. It was not recorded: the forms are those of
//! Ollama's own source (server/create.go, server/routes.go), and `stream: false` is all that is answered.
//!
//! What is made has the files of what it is made of, so both are one runner, which is listed by the name that loaded it.

use super::config::tagged;
use super::http::{Installed, Server};
use super::native::{body_of, error, json, refuse};
use axum::http::StatusCode;
use axum::response::Response;
use tokio::time::Instant;

/// What a part of a name may have.
const PART_MAX: usize = 80;

pub(crate) fn create(server: &Server, body: &[u8]) -> Response {
    let body = match body_of(body) {
        Ok(body) => body,
        Err(refusal) => return refuse(&refusal),
    };
    let name = body["model"].as_str().unwrap_or_default();
    if !is_valid(name) {
        return error(StatusCode::BAD_REQUEST, "invalid model name");
    }
    assert_eq!(body["stream"], false, "the fake does not know how a stream of this looks");
    if let Some(message) = server.create_fails.lock().expect("no holder of this lock panics").take() {
        return error(StatusCode::INTERNAL_SERVER_ERROR, &message);
    }
    let Some(from) = body["from"].as_str() else {
        return error(StatusCode::BAD_REQUEST, "neither 'from' or 'files' was specified");
    };
    // The real one looks for it in the internet.
    let Some(found) = server.find(from) else {
        return error(StatusCode::INTERNAL_SERVER_ERROR, "pull model manifest: file does not exist");
    };
    let context = body["parameters"]["num_ctx"].as_u64();
    let made = Installed {
        name: tagged(name),
        model: found.model,
        modified_at: Instant::now(),
        created: context.map(|context| (found.name, context)).or(found.created),
    };
    let mut installed = server.installed();
    installed.retain(|installed| installed.name != made.name);
    installed.push(made);
    json(r#"{"status":"success"}"#.to_owned())
}

fn is_valid(name: &str) -> bool {
    let (part, tag) = name.split_once(':').unwrap_or((name, "latest"));
    let fine = |part: &str| {
        let mut letters = part.chars();
        let begins = letters.next().is_some_and(|first| first.is_ascii_alphanumeric() || first == '_');
        begins && part.len() <= PART_MAX && letters.all(|one| one.is_ascii_alphanumeric() || "-_.".contains(one))
    };
    fine(part) && fine(tag)
}
