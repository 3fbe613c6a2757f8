//! Reply: a route's form -> requests in it, and the reply as its client has it.

use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::rig::{Rig, SOON};

pub const TOKENS: u64 = 160;

/// How requests and replies look on one route.
#[derive(Clone, Copy)]
pub struct Form {
    pub path: &'static str,
    pub limit: &'static str,
}

pub const CHAT: Form = Form { path: "/v1/chat/completions", limit: "max_tokens" };
pub const TEXT: Form = Form { path: "/v1/completions", limit: "max_tokens" };
pub const NATIVE: Form = Form { path: "/completion", limit: "n_predict" };
pub const MESSAGES: Form = Form { path: "/v1/messages", limit: "max_tokens" };
pub const RESPONSES: Form = Form { path: "/v1/responses", limit: "max_output_tokens" };

impl Form {
    pub fn request(self) -> Value {
        let mut request = json!({ "model": "mai", "stream": true, "temperature": 0, "cache_prompt": false });
        request[self.limit] = json!(TOKENS);
        let asked = "Tell me of the keeper of the light.";
        match self.path {
            "/v1/chat/completions" => {
                request["messages"] = json!([{ "role": "user", "content": asked }]);
                request["stream_options"] = json!({ "include_usage": true });
            }
            "/v1/messages" => {
                let parts = ["You keep", " count."].map(|text| json!({ "type": "text", "text": text }));
                request["system"] = json!(parts);
                request["messages"] = json!([{ "role": "user", "content": asked }]);
            }
            "/v1/responses" => {
                request["instructions"] = json!("You keep count.");
                request["input"] = json!(asked);
            }
            _ => request["prompt"] = json!("The keeper of the light counts the ships."),
        }
        request
    }

    /// Its replies have a beginning, parts and an end.
    pub fn has_parts(self) -> bool {
        [MESSAGES.path, RESPONSES.path].contains(&self.path)
    }

    /// A model that is given the beginning of a reply says it once more.
    pub fn repeats(self) -> bool {
        self.path == CHAT.path || self.has_parts()
    }

    /// Each record says which model it is of.
    pub fn is_signed(self) -> bool {
        [CHAT.path, TEXT.path].contains(&self.path)
    }

    pub fn said(self, record: &Value) -> String {
        let said = match self.path {
            "/v1/chat/completions" => &record["choices"][0]["delta"]["content"],
            "/v1/completions" => &record["choices"][0]["text"],
            "/v1/messages" => &record["delta"]["text"],
            "/v1/responses" if record["type"] == "response.output_text.delta" => &record["delta"],
            "/v1/responses" => &Value::Null,
            _ => &record["content"],
        };
        said.as_str().unwrap_or_default().to_owned()
    }

    pub fn whole(self, answer: &Value) -> String {
        let said = match self.path {
            "/v1/chat/completions" => &answer["choices"][0]["message"]["content"],
            "/v1/completions" => &answer["choices"][0]["text"],
            "/v1/messages" => &answer["content"][0]["text"],
            "/v1/responses" => &answer["output"][0]["content"][0]["text"],
            _ => &answer["content"],
        };
        said.as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    /// The request that has a model go on from this text.
    pub fn from(self, request: &Value, text: &str, tokens: u64) -> Value {
        let mut request = request.clone();
        request[self.limit] = json!(tokens);
        match self.path {
            "/v1/chat/completions" | "/v1/messages" => {
                request["messages"].as_array_mut().unwrap().push(json!({ "role": "assistant", "content": text }));
            }
            "/v1/responses" => {
                let part = json!({ "type": "output_text", "text": text });
                let said = json!({ "type": "message", "role": "assistant", "content": [part] });
                request["input"] = json!([{ "role": "user", "content": request["input"] }, said]);
            }
            _ => request["prompt"] = json!(format!("{}{text}", request["prompt"].as_str().unwrap())),
        }
        request
    }
}

pub fn thought(record: &Value) -> String {
    let thought = match record["type"].as_str() {
        Some("content_block_delta") => &record["delta"]["thinking"],
        Some("response.reasoning_text.delta") => &record["delta"],
        Some(_) => &Value::Null,
        None => &record["choices"][0]["delta"]["reasoning_content"],
    };
    thought.as_str().unwrap_or_default().to_owned()
}

/// A streamed reply as its client has it so far.
pub struct Reply {
    form: Form,
    body: std::pin::Pin<Box<dyn futures_util::Stream<Item = reqwest::Result<bytes::Bytes>> + Send>>,
    pub text: String,
    pub records: Vec<Value>,
    /// How much of the text was read.
    read: usize,
    /// The beginning of a character whose rest is still to come.
    begun: Vec<u8>,
}

impl Reply {
    pub async fn begin(rig: &Rig, form: Form, request: &Value) -> Self {
        rig.idle("large").await;
        Self::from(rig, form, &format!("http://{}{}", rig.address, form.path), request).await
    }

    /// What a model says by itself, as its server streams it.
    pub async fn alone(rig: &Rig, form: Form, request: &Value, model: &str) -> String {
        rig.idle(model).await;
        let mut request = request.clone();
        request["model"] = json!(model);
        let url = format!("{}{}?autoload=false", rig.url, form.path);
        let mut reply = Self::from(rig, form, &url, &request).await;
        while reply.more().await {}
        reply.words().concat()
    }

    async fn from(rig: &Rig, form: Form, url: &str, request: &Value) -> Self {
        let answer = rig.client.post(url).json(request).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let body = Box::pin(answer.bytes_stream());
        Reply { form, body, text: String::new(), records: Vec::new(), read: 0, begun: Vec::new() }
    }

    /// False at the end.
    pub async fn more(&mut self) -> bool {
        let Some(piece) = timeout(SOON, self.body.next()).await.expect("it goes on") else { return false };
        self.begun.extend(piece.unwrap());
        let whole = match std::str::from_utf8(&self.begun) {
            Ok(_) => self.begun.len(),
            Err(error) => {
                assert_eq!(error.error_len(), None, "this is no UTF-8: {:?}", self.begun);
                error.valid_up_to()
            }
        };
        let rest = self.begun.split_off(whole);
        self.text.push_str(&String::from_utf8(std::mem::replace(&mut self.begun, rest)).unwrap());
        while let Some(end) = self.text[self.read..].find("\n\n") {
            let mut lines = self.text[self.read..self.read + end].lines();
            let data = lines.find_map(|line| line.strip_prefix("data: "));
            self.records.extend(data.and_then(|record| serde_json::from_str(record).ok()));
            self.read += end + 2;
        }
        true
    }

    pub async fn until(&mut self, enough: impl Fn(&Self) -> bool) {
        while !enough(self) {
            assert!(self.more().await, "it ended before it was to be handed over: {}", self.text);
        }
    }

    /// What it thinks, word by word.
    pub fn thoughts(&self) -> Vec<String> {
        self.records.iter().map(thought).filter(|thought| !thought.is_empty()).collect()
    }

    pub fn words(&self) -> Vec<String> {
        self.records.iter().map(|record| self.form.said(record)).filter(|said| !said.is_empty()).collect()
    }

    pub async fn whole(mut self) -> Whole {
        while self.more().await {}
        let (form, records) = (self.form, self.records);
        if form.has_parts() {
            return Whole { text: records.iter().map(|record| form.said(record)).collect(), records };
        }
        let ends = |record: &&Value| record["choices"][0]["finish_reason"].is_string() || record["stop"] == true;
        assert_eq!(records.iter().filter(ends).count(), 1, "it ends once: {}", self.text);
        if form.path != NATIVE.path {
            assert!(
                self.text.ends_with("data: [DONE]\n\n") && self.text.matches("[DONE]").count() == 1,
                "{}",
                self.text
            );
            let ids: std::collections::BTreeSet<_> = records.iter().map(|record| record["id"].to_string()).collect();
            assert_eq!(ids.len(), 1, "one id: {ids:?}");
        }
        if form.path == CHAT.path {
            let roles = records.iter().filter(|record| record["choices"][0]["delta"]["role"].is_string()).count();
            // Where the first token is no whole character, the server itself does not say it.
            let is_said = usize::from(records[0]["choices"][0]["delta"]["content"].is_null());
            assert_eq!(roles, is_said, "it is said once who speaks: {}", self.text);
        }
        Whole { text: records.iter().map(|record| form.said(record)).collect(), records }
    }
}

pub struct Whole {
    pub text: String,
    pub records: Vec<Value>,
}

impl Whole {
    pub fn finish(&self) -> String {
        let finish = |record: &Value| record["choices"][0]["finish_reason"].as_str().map(str::to_owned);
        self.records.iter().find_map(finish).unwrap_or_default()
    }
}
