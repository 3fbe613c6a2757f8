//! Client: it asks the alias again and again without a pause -> every reply judged, and each time without text.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body_util::BodyExt;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use super::bench::Course;
use super::http::{Http, causes, client, post};
use super::judge::{Api, Ask, Good, Got, Kind, Loss, Rungs, judge};

/// A reply that takes longer than this has hung. The longest honest wait is one for a large model on a slow disk.
const REPLY_MAX: Duration = Duration::from_secs(300);
/// A server that refuses is not asked a thousand times a second.
const AFTER_LOSS: Duration = Duration::from_millis(500);
/// Of the first client's requests each so many-th is not streamed.
const WHOLE_EACH: u64 = 4;
/// Of those that leave, each so many-th request is not waited for to its end.
const LEFT_EACH: u64 = 11;
const HUSHED_LOOK: Duration = Duration::from_millis(20);
const EVIDENCE_MAX: usize = 12;
/// Shorter times without text are not felt.
const GAP_MIN: Duration = Duration::from_millis(5);

/// A time in which a client waited for text.
#[derive(Clone, Copy, Debug)]
pub struct Gap {
    pub from: Instant,
    pub to: Instant,
    /// One model spoke before it, and another after it.
    pub is_seam: bool,
}

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
    pub gaps: Vec<Gap>,
    /// Pieces of text by the model that they are from.
    texts: BTreeMap<Vec<u8>, u64>,
    pub handed_over: u64,
    /// Replies whose header names a rung that has not said a word of them, and its model.
    pub silent: Vec<(String, String)>,
    /// Their clients did not wait for the end.
    pub left: u64,
    last_text: Option<Instant>,
    ids: BTreeSet<String>,
}

/// A gateway as its clients know it.
#[derive(Clone, Debug)]
pub struct Address {
    /// Without a path.
    pub url: String,
    /// The model that is asked for, whichever serves.
    pub alias: String,
    /// The header that says which rung gives the reply, where there is one.
    pub header: Option<String>,
}

/// The clients together.
#[derive(Clone)]
pub struct Clients {
    address: Arc<Address>,
    course: Course,
    rungs: Arc<Rungs>,
    tally: Arc<Mutex<Tally>>,
    over: Arc<AtomicBool>,
    hushed: Arc<AtomicBool>,
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
                self.handed_over += good.handed_over;
                self.silent.extend(good.silent.map(|model| (ask.tag.clone(), model)));
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
    pub fn new(address: Address, course: Course, rungs: Rungs) -> Self {
        Clients {
            address: Arc::new(address),
            course,
            rungs: Arc::new(rungs),
            tally: Arc::default(),
            over: Arc::default(),
            hushed: Arc::default(),
        }
    }

    pub fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pieces of text that this model has given, or all of them.
    pub fn texts_of(&self, model: Option<&str>) -> u64 {
        match model {
            Some(model) => self.tally().texts.get(model.as_bytes()).copied().unwrap_or_default(),
            None => self.tally().texts.values().sum(),
        }
    }

    /// Has every client pause when its reply has ended, or go on.
    pub fn hush(&self, hushed: bool) {
        self.hushed.store(hushed, Ordering::Release);
    }

    /// Starts a client, which ends with its current reply once `end` was called.
    pub fn start(&self, number: u64) -> tokio::task::JoinHandle<()> {
        tokio::spawn(self.clone().run(number))
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
            while self.hushed.load(Ordering::Acquire) && !self.over.load(Ordering::Acquire) {
                sleep(HUSHED_LOOK).await;
            }
            let ask = self.next(number, turn);
            self.tally().asked += 1;
            if self.course.is_forced() && (turn * 7 + number) % LEFT_EACH == LEFT_EACH - 1 {
                let patience = Duration::from_millis(40 * (turn % 40));
                if timeout(patience, self.read(&http, &ask, &mut Got::default())).await.is_err() {
                    self.tally().left += 1;
                    continue;
                }
            }
            let got = self.reply(&http, &ask).await;
            let judged = judge(&ask, &got, &self.rungs);
            let is_lost = judged.is_err();
            self.tally().take(&ask, judged);
            if is_lost {
                sleep(AFTER_LOSS).await;
            }
        }
    }

    /// What this client asks then. Where switches are forced there are long replies too, which outlive their deadline.
    fn next(&self, number: u64, turn: u64) -> Ask {
        let (tokens, apis) = match self.course {
            Course::Pressure | Course::Card => ([12, 40, 90], [Api::Chat, Api::Chat]),
            Course::Forced { .. } => ([12, 90, 600], [Api::Chat, Api::Text]),
        };
        Ask {
            api: apis[((turn + number) / 3 % 2) as usize],
            tag: format!("client{number}-{turn:05}"),
            tokens: tokens[((turn + number) % 3) as usize],
            streamed: number > 0 || turn % WHOLE_EACH != WHOLE_EACH - 1,
            may_be_handed_over: self.course.is_forced(),
            rung_is_said: self.address.header.is_some(),
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
            "model": self.address.alias, "max_tokens": ask.tokens, "temperature": 1, "ignore_eos": true, "stream": ask.streamed,
        });
        match ask.api {
            Api::Chat => body["messages"] = json!([{ "role": "user", "content": prompt }]),
            Api::Text => body["prompt"] = json!(prompt),
        }
        if ask.streamed {
            body["stream_options"] = json!({ "include_usage": true });
        }
        let asked_at = Instant::now();
        let (mut last, mut model) = (None, None);
        let answer = http
            .request(post(&format!("{}{}", self.address.url, ask.api.path()), &body)?)
            .await
            .map_err(|error| causes(&error))?;
        got.status = answer.status().as_u16();
        let rung = self.address.header.as_ref().and_then(|header| answer.headers().get(header));
        got.rung = rung.and_then(|rung| rung.to_str().ok()).map(str::to_owned);
        let mut body = answer.into_body();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| causes(&error))?;
            let Some(data) = frame.data_ref() else { continue };
            got.body.extend_from_slice(data);
            if ask.streamed && got.status == 200 && has_text(ask.api, data) {
                let speaks = last_model(data).map(<[u8]>::to_vec);
                let is_seam = model.is_some() && model != speaks;
                model.clone_from(&speaks);
                self.felt((asked_at, last.replace(Instant::now())), speaks, is_seam);
            }
        }
        Ok(())
    }

    /// A piece of text has come.
    fn felt(&self, (asked_at, before): (Instant, Option<Instant>), speaks: Option<Vec<u8>>, is_seam: bool) {
        let now = Instant::now();
        let mut tally = self.tally();
        *tally.texts.entry(speaks.unwrap_or_default()).or_default() += 1;
        tally.text_came(now);
        let gap = Gap { from: before.unwrap_or(asked_at), to: now, is_seam };
        if is_seam || gap.to - gap.from >= GAP_MIN {
            tally.gaps.push(gap);
        }
        match before {
            None => tally.first_token_max = tally.first_token_max.max(now - asked_at),
            Some(before) => tally.gap_max = tally.gap_max.max(now - before),
        }
    }
}

/// Whether a part of a stream has text in it; comments, and frames that say who speaks, have none.
fn has_text(api: Api, data: &[u8]) -> bool {
    let mark: &[u8] = match api {
        Api::Chat => b"\"content\":\"",
        Api::Text => b"\"text\":\"",
    };
    data.windows(mark.len() + 1).any(|window| window.starts_with(mark) && !window.ends_with(b"\""))
}

/// The model that the last frame of this part names.
fn last_model(data: &[u8]) -> Option<&[u8]> {
    let mark = b"\"model\":\"";
    let from = data.windows(mark.len()).rposition(|window| window == mark)? + mark.len();
    data[from..].split(|byte| *byte == b'"').next()
}
