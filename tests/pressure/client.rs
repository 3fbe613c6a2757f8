//! Client: it asks the alias again and again without a pause -> every reply judged, and what a user would have felt.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body_util::BodyExt;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use super::http::{Http, causes, client, post};
use super::judge::{Ask, Good, Got, Kind, Loss, Rungs, judge};

/// A reply that takes longer than this has hung. The longest honest wait is one for a large model on a slow disk.
const REPLY_MAX: Duration = Duration::from_secs(300);
/// A server that refuses is not asked a thousand times a second.
const AFTER_LOSS: Duration = Duration::from_millis(500);
const TOKENS: [u64; 3] = [12, 40, 90];
/// Of the first client's requests each so many-th is not streamed.
const WHOLE_EACH: u64 = 4;
const EVIDENCE_MAX: usize = 12;

/// What all clients have seen so far.
#[derive(Default)]
pub struct Tally {
    pub asked: u64,
    pub replies: u64,
    pub whole: u64,
    pub tokens: u64,
    /// Good replies by the model that gave them.
    pub by_model: BTreeMap<String, u64>,
    pub lost: BTreeMap<Kind, u64>,
    pub evidence: Vec<String>,
    /// From asking to the first text, the longest.
    pub first_token_max: Duration,
    /// Between two pieces of text of one reply, the longest.
    pub gap_max: Duration,
    /// In which no client got any text, the longest.
    pub silence_max: Duration,
    last_text: Option<Instant>,
    ids: BTreeSet<String>,
}

/// The clients together.
#[derive(Clone)]
pub struct Clients {
    url: String,
    rungs: Arc<Rungs>,
    tally: Arc<Mutex<Tally>>,
    over: Arc<AtomicBool>,
}

impl Tally {
    pub fn lost_total(&self) -> u64 {
        self.lost.values().sum()
    }

    /// Good replies and lost ones.
    pub fn totals(&self) -> (u64, u64) {
        (self.replies, self.lost_total())
    }

    fn text_came(&mut self, now: Instant) {
        if let Some(last) = self.last_text.replace(now) {
            self.silence_max = self.silence_max.max(now - last);
        }
    }

    fn take(&mut self, ask: &Ask, judged: Result<Good, Loss>) {
        let judged = judged.and_then(|good| {
            if self.ids.insert(good.id.clone()) {
                return Ok(good);
            }
            Err(Loss { kind: Kind::Doubled, why: format!("the id {} was another reply's", good.id) })
        });
        match judged {
            Ok(good) => {
                self.replies += 1;
                self.whole += u64::from(!ask.streamed);
                self.tokens += good.tokens;
                *self.by_model.entry(good.model).or_default() += 1;
            }
            Err(loss) => self.lose(loss.kind, format!("{}: {}", ask.tag, loss.why)),
        }
    }

    pub fn lose(&mut self, kind: Kind, why: String) {
        *self.lost.entry(kind).or_default() += 1;
        if self.evidence.len() < EVIDENCE_MAX {
            self.evidence.push(format!("{kind}: {}", why.replace('\n', "\\n")));
        }
    }
}

impl Clients {
    pub fn new(url: String, rungs: Rungs) -> Self {
        Clients { url, rungs: Arc::new(rungs), tally: Arc::default(), over: Arc::default() }
    }

    pub fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Good replies that this model has given.
    pub fn replies_of(&self, model: &str) -> u64 {
        self.tally().by_model.get(model).copied().unwrap_or_default()
    }

    /// Starts so many clients; each ends with its current reply once `end` was called.
    pub fn start(&self, count: u64) -> Vec<tokio::task::JoinHandle<()>> {
        (0..count).map(|client| tokio::spawn(self.clone().run(client))).collect()
    }

    pub fn end(&self) {
        self.over.store(true, Ordering::Release);
    }

    async fn run(self, number: u64) {
        let http = client();
        for turn in 0.. {
            if self.over.load(Ordering::Acquire) {
                return;
            }
            let ask = Ask {
                tag: format!("client{number}-{turn:05}"),
                tokens: TOKENS[((turn + number) % 3) as usize],
                streamed: number > 0 || turn % WHOLE_EACH != WHOLE_EACH - 1,
            };
            self.tally().asked += 1;
            let got = self.reply(&http, &ask).await;
            let judged = judge(&ask, &got, &self.rungs);
            let is_lost = judged.is_err();
            self.tally().take(&ask, judged);
            if is_lost {
                sleep(AFTER_LOSS).await;
            }
        }
    }

    async fn reply(&self, http: &Http, ask: &Ask) -> Got {
        let mut got = Got::default();
        match timeout(REPLY_MAX, self.read(http, ask, &mut got)).await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => got.broken = Some(why),
            Err(_) => got.broken = Some(format!("it had not ended after {REPLY_MAX:?}")),
        }
        got
    }

    async fn read(&self, http: &Http, ask: &Ask, got: &mut Got) -> Result<(), String> {
        let prompt = format!("{} tell me what you see from where you are", ask.tag);
        let mut body = json!({
            "model": "mai", "max_tokens": ask.tokens, "temperature": 1, "stream": ask.streamed,
            "messages": [{ "role": "user", "content": prompt }],
        });
        if ask.streamed {
            body["stream_options"] = json!({ "include_usage": true });
        }
        let asked_at = Instant::now();
        let mut text_at = None;
        let answer = http.request(post(&self.url, &body)?).await.map_err(|error| causes(&error))?;
        got.status = answer.status().as_u16();
        got.rung = answer.headers().get("x-tierkeeper-rung").and_then(|rung| rung.to_str().ok()).map(str::to_owned);
        let mut body = answer.into_body();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| causes(&error))?;
            let Some(data) = frame.data_ref() else { continue };
            got.body.extend_from_slice(data);
            if ask.streamed && got.status == 200 && has_text(data) {
                self.felt(asked_at, text_at.replace(Instant::now()));
            }
        }
        Ok(())
    }

    /// A piece of text has come.
    fn felt(&self, asked_at: Instant, before: Option<Instant>) {
        let now = Instant::now();
        let mut tally = self.tally();
        tally.text_came(now);
        match before {
            None => tally.first_token_max = tally.first_token_max.max(now - asked_at),
            Some(before) => tally.gap_max = tally.gap_max.max(now - before),
        }
    }
}

/// Whether a part of a stream has text in it; comments, and frames that say who speaks, have none.
fn has_text(data: &[u8]) -> bool {
    let mark = b"\"content\":\"";
    data.windows(mark.len() + 1).any(|window| window.starts_with(mark) && !window.ends_with(b"\""))
}
