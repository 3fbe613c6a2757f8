//! Unseen: replies that do not come through us, where there is no gateway -> when those of a rung have ended.
//!
//! Ollama tells of no reply, and finishes those that run before it lets a model go: there the unload is the wait.
//! llama-server cuts them, and tells what its slots work on, unless it was started without them: then nobody knows, and
//! they get the time that replies get at soft.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::conductor::Conductor;
use crate::act::Driver;
use crate::config::ServerKind;
use crate::policy::{Policy, Rung};
use crate::units::Span;

const LOOK_EVERY: Duration = Duration::from_millis(250);

impl Conductor {
    /// Admits nobody any more, and has those that run end.
    pub(super) fn close(&self, rung: Arc<Rung>) {
        let (name, drain) = (rung.name.clone(), self.policy.pressure.soft.drain);
        match self.parts.config.gateway_off {
            false => self.parts.gateway.close(&name),
            true => {
                let ended = ended(Arc::clone(&self.parts.driver), rung, drain);
                self.parts.gateway.close_unseen(&name, ended);
            }
        }
    }
}

/// What can be followed of a policy without a gateway: no reply that is not seen can be handed over.
pub fn followed(policy: Policy) -> Policy {
    Policy { hand_over: false, ..policy }
}

/// Resolves when no reply of this rung runs any more, or it has not been known for `at_most`.
pub async fn ended(driver: Arc<Driver>, rung: Arc<Rung>, at_most: Span) {
    if driver.kind() == ServerKind::Ollama {
        return;
    }
    let mut known_at = Instant::now();
    loop {
        match driver.busy(&rung.model).await {
            Ok(Some(0)) => return,
            Ok(Some(_)) => known_at = Instant::now(),
            Ok(None) | Err(_) if known_at.elapsed() >= at_most.duration() => return,
            Ok(None) | Err(_) => {}
        }
        sleep(LOOK_EVERY).await;
    }
}

/// What is weaker then, for the start and for `doctor`.
pub fn said(kind: ServerKind) -> &'static str {
    match kind {
        ServerKind::Ollama => {
            "off: clients ask the server itself. No request waits for a switch or is handed over, a client that names another model has it loaded, and what runs is not known: Ollama is told to unload at once, and finishes its replies first"
        }
        ServerKind::LlamaServer => {
            "off: clients ask the server itself. No request waits for a switch or is handed over, a client that names another model has it loaded, and a switch waits for the running replies by the server's own word (/slots), or, without that, for the time of `drain` at soft, and cuts them"
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use axum::Router;
    use axum::http::StatusCode;
    use tokio::net::TcpListener;

    use super::*;

    const AT_MOST: Span = Span::seconds(10);
    const BUSY: (u16, &str) = (200, r#"[{"is_processing":true},{"is_processing":false}]"#);
    const IDLE: (u16, &str) = (200, r#"[{"is_processing":false}]"#);
    /// As a server that was started without its slots answers.
    const UNTOLD: (u16, &str) = (501, "{}");

    /// How long it takes where the server answers with these in turn, so many times each, and then with the last; and
    /// how often it was asked.
    async fn took(kind: ServerKind, answers: &[((u16, &'static str), usize)]) -> (Duration, usize) {
        let answers: Vec<_> = answers.iter().flat_map(|(answer, times)| vec![*answer; *times]).collect();
        let asked = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&asked);
        let answer = move || {
            let mut asked = counted.lock().unwrap();
            let (status, body) = answers.get(*asked).or(answers.last()).copied().unwrap();
            *asked += 1;
            std::future::ready((StatusCode::from_u16(status).unwrap(), body))
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let driver = Driver::new(kind, &format!("http://{}", listener.local_addr().unwrap())).unwrap();
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
        let rung = Arc::new(Rung { name: "large".to_owned(), model: "large".to_owned(), context: None });
        let began = Instant::now();
        let ended = tokio::time::timeout(Duration::from_secs(600), ended(Arc::new(driver), rung, AT_MOST)).await;
        assert!(ended.is_ok(), "it is waited for without an end");
        let asked = *asked.lock().unwrap();
        (began.elapsed(), asked)
    }

    #[tokio::test(start_paused = true)]
    async fn replies_have_ended_when_the_servers_own_word_says_so_however_long_they_take() {
        let looks = 2 * AT_MOST.duration().as_millis() as usize / LOOK_EVERY.as_millis() as usize;
        let (took, asked) = took(ServerKind::LlamaServer, &[(BUSY, looks), (IDLE, 1)]).await;
        assert_eq!(asked, looks + 1);
        assert!(took >= 2 * AT_MOST.duration(), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn where_nobody_knows_replies_get_their_time_and_no_more() {
        for before in [0, 20] {
            let (took, asked) = took(ServerKind::LlamaServer, &[(BUSY, before), (UNTOLD, 1)]).await;
            let unknown = took - LOOK_EVERY * before as u32;
            assert!(unknown >= AT_MOST.duration() - LOOK_EVERY && unknown <= 2 * AT_MOST.duration(), "{unknown:?}");
            assert!(asked > before + 1, "it may come to know");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn ollama_is_not_asked_for_it_finishes_them_itself() {
        assert_eq!(took(ServerKind::Ollama, &[(BUSY, 1)]).await, (Duration::ZERO, 0));
    }

    #[test]
    fn nothing_that_is_not_seen_is_handed_over() {
        let rung = Rung { name: "large".to_owned(), model: "large".to_owned(), context: None };
        let policy = Policy::for_ladder(vec![rung]).unwrap();
        let policy = Policy { hand_over: true, ..policy };
        assert_eq!(followed(policy.clone()), Policy { hand_over: false, ..policy });
    }
}
