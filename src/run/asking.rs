//! Asking: a command for the model server -> what became of it, as an input.

use crate::act::Driver;
use crate::act::error::ActError;
use crate::decide::command::Command;
use crate::decide::input::Input;
use crate::policy::Rung;

/// How often a model whose place was taken is loaded again before it is checked: somebody who keeps asking for another one
/// takes it a few times in ten seconds, and a load that is given up is not tried again for a minute.
const RELOADS_MAX: u32 = 12;
/// The same for one whose process went while it was being checked: that one may have failed by itself.
const RELOADS_BROKEN_OFF_MAX: u32 = 1;

/// Asks, and waits for what became of it; `None` for what is not the server's to do.
pub async fn ask(driver: &Driver, command: Command) -> Option<Input> {
    Some(match command {
        Command::Load { rung, .. } => match driver.load(&rung).await {
            Ok(placed) => Input::LoadDone { rung: rung.name.clone(), placed },
            Err(error) => Input::LoadFailed { rung: rung.name.clone(), why: error.to_string() },
        },
        Command::Unload { rung, .. } => match driver.unload(&rung).await {
            Ok(()) => Input::UnloadDone { rung: rung.name.clone() },
            Err(error) => Input::UnloadFailed { rung: rung.name.clone(), why: error.to_string() },
        },
        Command::Check { rung, .. } => match check(driver, &rung).await {
            Ok(()) => Input::CheckDone { rung: rung.name.clone() },
            Err(error) => Input::CheckFailed { rung: rung.name.clone(), why: error.to_string() },
        },
        Command::TakeSample { .. }
        | Command::CancelLoad { .. }
        | Command::Publish { .. }
        | Command::Close { .. }
        | Command::HandOver { .. }
        | Command::Cut { .. }
        | Command::Release { .. }
        | Command::Remember { .. }
        | Command::KeepWindows { .. }
        | Command::Notify { .. }
        | Command::Propose { .. }
        | Command::GrantRoom { .. }
        | Command::RefuseRoom { .. }
        | Command::EndLease { .. }
        | Command::Exit { .. } => return None,
    })
}

/// Somebody else can ask the server for another model between a load and its check, and get the place: that says nothing
/// of the model.
async fn check(driver: &Driver, rung: &Rung) -> Result<(), ActError> {
    let (mut reloads, mut broken_off) = (0, 0);
    loop {
        match driver.check(rung).await {
            Err(error) if error.says_not_held() && reloads < RELOADS_MAX => {}
            // The router kills one 10 s after it gave its place away, if it was working on something: a check, here.
            Err(error) if error.says_broken_off() && broken_off < RELOADS_BROKEN_OFF_MAX => broken_off += 1,
            checked => return checked,
        }
        reloads += 1;
        driver.load(rung).await?;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use axum::Json;
    use axum::http::StatusCode;
    use axum::routing::{get, post};
    use serde_json::{Value, json};

    use super::*;
    use crate::config::ServerKind;
    use crate::decide::reason::Reason;

    /// What becomes of a check at a server that does not have the model so many times, and of its loads.
    async fn checked(absences: u32, (status, words): (StatusCode, &'static str)) -> (Option<Input>, u32) {
        let [asked, loads] = [0, 0].map(|count| Arc::new(AtomicU32::new(count)));
        let counted = Arc::clone(&loads);
        let load = move || {
            counted.fetch_add(1, Ordering::Relaxed);
            async { Json(json!({ "success": true })) }
        };
        let answer = move || {
            let is_absent = asked.fetch_add(1, Ordering::Relaxed) < absences;
            let absent = json!({ "error": { "code": status.as_u16(), "message": words } });
            async move {
                match is_absent {
                    true => (status, Json(absent)),
                    false => (StatusCode::OK, Json(json!({ "tokens_predicted": 1 }))),
                }
            }
        };
        let told = |told: Value| get(move || async { Json(told) });
        let routes = axum::Router::new()
            .route("/completion", post(answer))
            .route("/models/load", post(load))
            .route("/models", told(json!({ "data": [{ "id": "m", "status": { "value": "loaded" } }] })))
            .route("/props", told(json!({ "default_generation_settings": { "n_ctx": 1024 } })));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let driver = Driver::new(ServerKind::LlamaServer, &url).unwrap();
        let rung = Arc::new(Rung { name: "large".to_owned(), model: "m".to_owned(), context: None });
        let told = ask(&driver, Command::Check { rung, reason: Reason::Cadence }).await;
        (told, loads.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn a_model_that_was_thrown_out_before_its_check_is_loaded_again() {
        let done = || Some(Input::CheckDone { rung: "large".to_owned() });
        let absent = (StatusCode::BAD_REQUEST, "model is not loaded");
        let gone = (StatusCode::INTERNAL_SERVER_ERROR, "proxy error: Failed to read connection");
        assert_eq!(checked(0, absent).await, (done(), 0));
        assert_eq!(checked(2, absent).await, (done(), 2));
        assert_eq!(checked(1, gone).await, (done(), 1));
        for (why, most) in [(absent, RELOADS_MAX), (gone, RELOADS_BROKEN_OFF_MAX)] {
            let (told, loads) = checked(RELOADS_MAX + 9, why).await;
            assert!(matches!(told, Some(Input::CheckFailed { .. })), "{told:?}");
            assert_eq!(loads, most, "it does not fight for ever");
        }
    }
}
