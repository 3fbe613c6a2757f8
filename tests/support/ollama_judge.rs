//! The judge: a recording of a real Ollama and a base URL -> what that server does otherwise.
//! Steps are replayed in order, overlapping where they overlapped; long idle waits are shortened. Times, ids and token
//! texts are free; status, framing headers, number and kind of frames, keys and their order, types and all other
//! values are not.

use super::ollama_shape::{compare_line, epoch_ms};
use reqwest::{Client, Response};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// When the client of a step without an answer leaves; the recording has it at 802 ms.
const LEAVES_AFTER: Duration = Duration::from_millis(800);
/// A server that says nothing for this long has hung.
const PATIENCE: Duration = Duration::from_secs(60);
const HEADERS_HELD: [&str; 3] = ["content-type", "allow", "transfer-encoding"];

/// One recorded request and its answer.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) name: String,
    method: String,
    path: String,
    body: Option<String>,
    sent_ms: u64,
    status: Option<u16>,
    headers: BTreeMap<String, String>,
    lines: Vec<(u64, String)>,
    client_left: bool,
}

/// One difference, in words.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Mismatch {
    pub(crate) step: String,
    pub(crate) what: String,
}

/// What came back: lines with the wall time in ms at which they came.
#[derive(Clone, Debug, Default)]
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    lines: Vec<(i64, String)>,
    trouble: Option<String>,
}

impl Step {
    fn read(step: &Value) -> Self {
        let string = |key: &str| step[key].as_str().map(str::to_owned);
        let headers = step["headers"].as_object().into_iter().flatten();
        let lines = step["lines"].as_array().into_iter().flatten();
        let body = if step["body"].is_null() { None } else { Some(step["body"].to_string()) };
        Self {
            name: string("name").expect("a step has a name"),
            method: string("method").expect("a step has a method"),
            path: string("path").expect("a step has a path"),
            body: string("raw_body").or(body),
            sent_ms: step["sent_ms"].as_u64().expect("a step has a time"),
            status: step["status"].as_u64().map(|status| u16::try_from(status).expect("a status is below 1000")),
            headers: headers.map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().into())).collect(),
            lines: lines
                .map(|line| (line[0].as_u64().unwrap_or_default(), line[1].as_str().unwrap_or_default().into()))
                .collect(),
            client_left: !step["client"].is_null(),
        }
    }

    fn end_ms(&self) -> u64 {
        let leaves = u64::try_from(LEAVES_AFTER.as_millis()).expect("a short time");
        let last = self.lines.last().map_or(self.sent_ms, |line| line.0);
        if self.status.is_none() { self.sent_ms + leaves } else { last }
    }

    fn lines_before(&self, ms: u64) -> usize {
        self.lines.iter().filter(|line| line.0 < ms).count()
    }
}

pub(crate) fn read(recording: &str) -> Vec<Step> {
    let steps: Vec<Value> = serde_json::from_str(recording).expect("the recording is a JSON list");
    steps.iter().map(Step::read).collect()
}

struct Sent {
    at: Instant,
    lines_seen: watch::Receiver<usize>,
    task: JoinHandle<Answer>,
}

/// Replays the steps against a server and tells where it differs; empty when it does not.
pub(crate) async fn judge(base_url: &str, steps: &[Step]) -> Vec<Mismatch> {
    let client = crate::plain_client::plain_client();
    let base_ms = steps.iter().find_map(recorded_base_ms).unwrap_or_default();
    let mut sent: Vec<Sent> = Vec::new();
    let mut answers: BTreeMap<usize, Answer> = BTreeMap::new();
    for (index, step) in steps.iter().enumerate() {
        for (earlier, running) in sent.iter_mut().enumerate() {
            if steps[earlier].end_ms() <= step.sent_ms && !answers.contains_key(&earlier) {
                answers.insert(earlier, join(&mut running.task).await);
            }
        }
        wait_turn(steps, index, &mut sent, &answers).await;
        let (tell, lines_seen) = watch::channel(0);
        let task = tokio::spawn(perform(client.clone(), base_url.to_owned(), step.clone(), tell));
        sent.push(Sent { at: Instant::now(), lines_seen, task });
    }
    let mut mismatches = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        let answer = match answers.remove(&index) {
            Some(answer) => answer,
            None => join(&mut sent[index].task).await,
        };
        let found = compare(step, &answer, base_ms).into_iter();
        mismatches.extend(found.map(|what| Mismatch { step: step.name.clone(), what }));
    }
    mismatches
}

async fn join(task: &mut JoinHandle<Answer>) -> Answer {
    task.await.expect("a step's task does not panic")
}

/// Wall time of the recording's zero, from the first frame that carries one.
fn recorded_base_ms(step: &Step) -> Option<i64> {
    let (ms, line) = step.lines.first()?;
    let frame: Value = serde_json::from_str(line).ok()?;
    Some(epoch_ms(frame["created_at"].as_str()?)? - i64::try_from(*ms).ok()?)
}

/// Wait as the recording waited: for the same number of frames of what still runs, for the same time into what has
/// not begun to answer, or a shortened idle time.
async fn wait_turn(steps: &[Step], index: usize, sent: &mut [Sent], answers: &BTreeMap<usize, Answer>) {
    let now_ms = steps[index].sent_ms;
    let running: Vec<usize> = (0..index).filter(|earlier| !answers.contains_key(earlier)).collect();
    for earlier in &running {
        let step = &steps[*earlier];
        let lines = step.lines_before(now_ms);
        if lines > 0 {
            let seen = sent[*earlier].lines_seen.wait_for(|seen| *seen >= lines);
            drop(timeout(PATIENCE, seen).await);
        } else {
            sleep_until(sent[*earlier].at + Duration::from_millis(now_ms - step.sent_ms)).await;
        }
    }
    if running.is_empty() && index > 0 {
        let last = steps[..index].iter().map(Step::end_ms).max().unwrap_or_default();
        sleep(shortened(now_ms.saturating_sub(last))).await;
    }
}

fn shortened(gap_ms: u64) -> Duration {
    Duration::from_millis(if gap_ms <= 300 { gap_ms } else { 300 + (gap_ms - 300) / 8 })
}

async fn perform(client: Client, base_url: String, step: Step, tell: watch::Sender<usize>) -> Answer {
    let method = step.method.parse().expect("a recorded method is a method");
    let mut request = client.request(method, format!("{base_url}{}", step.path));
    if let Some(body) = &step.body {
        request = request.header("content-type", "application/json").body(body.clone());
    }
    if step.status.is_none() {
        return match timeout(LEAVES_AFTER, request.send()).await {
            Err(_) => Answer::default(),
            Ok(_) => Answer { trouble: Some("it answered before its client left".into()), ..Answer::default() },
        };
    }
    let response = match timeout(PATIENCE, request.send()).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return Answer { trouble: Some(format!("no answer: {error}")), ..Answer::default() },
        Err(_) => return Answer { trouble: Some("no answer in time".into()), ..Answer::default() },
    };
    let enough = if step.client_left { step.lines.len() } else { usize::MAX };
    receive(response, enough, &tell).await
}

async fn receive(mut response: Response, enough: usize, tell: &watch::Sender<usize>) -> Answer {
    let headers = response.headers().iter();
    let mut answer = Answer {
        status: response.status().as_u16(),
        headers: headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap_or("?").into())).collect(),
        ..Answer::default()
    };
    let mut rest = Vec::new();
    loop {
        match timeout(PATIENCE, response.chunk()).await {
            Ok(Ok(Some(chunk))) => rest.extend_from_slice(&chunk),
            Ok(Ok(None)) => break,
            Ok(Err(error)) => {
                answer.trouble = Some(format!("the body broke off: {error}"));
                break;
            }
            Err(_) => {
                answer.trouble = Some("the body stalled".into());
                break;
            }
        }
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            answer.take_line(rest.drain(..=end).collect());
            tell.send_replace(answer.lines.len());
            if answer.lines.len() == enough {
                return answer;
            }
        }
    }
    if !rest.is_empty() {
        answer.take_line(rest);
    }
    answer
}

impl Answer {
    fn take_line(&mut self, line: Vec<u8>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
        let now = i64::try_from(now.as_millis()).expect("a date of this age");
        self.lines.push((now, String::from_utf8_lossy(&line).into_owned()));
    }
}

fn compare(step: &Step, answer: &Answer, base_ms: i64) -> Vec<String> {
    if let Some(trouble) = &answer.trouble {
        return vec![trouble.clone()];
    }
    let Some(status) = step.status else { return Vec::new() };
    let mut found = Vec::new();
    if status != answer.status {
        found.push(format!("status {} instead of {status}", answer.status));
    }
    for name in HEADERS_HELD {
        let (recorded, got) = (step.headers.get(name), answer.headers.get(name));
        if recorded != got {
            found.push(format!("header {name} is {got:?} instead of {recorded:?}"));
        }
    }
    let (recorded, got) = (step.headers.get("content-length"), answer.headers.get("content-length"));
    if recorded.is_some() != got.is_some() || (step.lines.is_empty() && recorded != got) {
        found.push(format!("header content-length is {got:?} instead of {recorded:?}"));
    }
    if step.lines.len() != answer.lines.len() {
        found.push(format!("{} lines instead of {}", answer.lines.len(), step.lines.len()));
    }
    for (number, ((ms, recorded), (now, got))) in step.lines.iter().zip(&answer.lines).enumerate() {
        let then = base_ms + i64::try_from(*ms).expect("a recording of less than an age");
        let differences = compare_line((recorded, then), (got, *now));
        found.extend(differences.into_iter().map(|what| format!("line {}: {what}", number + 1)));
    }
    found
}
