//! Asked: a case and an address -> what a client sees of the answer, and the same without ids and times.

use std::collections::BTreeMap;

use super::plain_client::plain_client;

/// Stands for the model in a case.
pub(crate) const MODEL: &str = "MODEL";
/// How the bytes travel, which is each connection's own; whether pages may call, which is the gateway's to say; when; and
/// what the gateway adds for people and for proxies.
const OWN_HEADERS: [&str; 7] =
    ["connection", "keep-alive", "transfer-encoding", "content-length", "date", "x-accel-buffering", "vary"];
const OWN_PREFIXES: [&str; 2] = ["access-control-", "x-tierkeeper"];
/// Keys whose numbers are times, and never the same twice.
const TIMES: [&str; 16] = [
    "created",
    "created_at",
    "completed_at",
    "expires_at",
    "prompt_ms",
    "prompt_per_token_ms",
    "prompt_per_second",
    "predicted_ms",
    "predicted_per_token_ms",
    "predicted_per_second",
    "total_duration",
    "load_duration",
    "prompt_eval_duration",
    "eval_duration",
    "time_ms",
    "last_used",
];
const IDS: [&str; 5] = ["id", "item_id", "call_id", "request_id", "tool_call_id"];
/// What stands before the part of an id that is drawn anew for each reply.
const ID_PREFIXES: [&str; 9] = ["chatcmpl-", "cmpl-", "resp_", "msg_", "call_", "fc_", "rs_", "req_", "toolu_"];
/// The length of an id that has nothing before it.
const ID_LENGTH: usize = 32;

/// A request, told without the address and the model that it goes to.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) method: &'static str,
    pub(crate) target: String,
    pub(crate) headers: Vec<(&'static str, &'static str)>,
    pub(crate) body: String,
}

/// An answer as its client has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, Vec<String>>,
    pub(crate) body: String,
}

impl Case {
    pub(crate) fn get(target: &str) -> Self {
        Case { method: "GET", target: target.to_owned(), headers: Vec::new(), body: String::new() }
    }

    pub(crate) fn head(target: &str) -> Self {
        Case { method: "HEAD", ..Case::get(target) }
    }

    pub(crate) fn post(target: &str, body: impl Into<String>) -> Self {
        let headers = vec![("content-type", "application/json")];
        Case { method: "POST", headers, body: body.into(), ..Case::get(target) }
    }

    /// The same, of this model whoever is asked.
    pub(crate) fn named(&self, model: &str) -> Self {
        Case { target: self.target.replace(MODEL, model), body: self.body.replace(MODEL, model), ..self.clone() }
    }

    /// Its method and path.
    pub(crate) fn route(&self) -> (&'static str, &str) {
        (self.method, self.target.split('?').next().unwrap())
    }

    /// What there is of the answer where the server lives at this address and the model has this name.
    pub(crate) async fn ask(&self, address: &str, model: &str) -> Seen {
        let target = self.target.replace(MODEL, model);
        let mut request = plain_client().request(self.method.parse().unwrap(), format!("{address}{target}"));
        for (name, value) in &self.headers {
            request = request.header(*name, *value);
        }
        let mut response = request.body(self.body.replace(MODEL, model)).send().await.unwrap();
        let status = response.status().as_u16();
        let mut headers = BTreeMap::<_, Vec<_>>::new();
        for (name, value) in response.headers() {
            headers.entry(name.to_string()).or_default().push(value.to_str().unwrap().to_owned());
        }
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.unwrap_or_else(|error| panic!("{self:?} broke off: {error}")) {
            body.extend(piece);
        }
        Seen { status, headers, body: String::from_utf8(body).unwrap() }
    }
}

impl Seen {
    /// The same without what is never the same twice.
    pub(crate) fn lasting(&self) -> Self {
        let is_own =
            |name: &str| OWN_HEADERS.contains(&name) || OWN_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        let headers = self.headers.iter().filter(|(name, _)| !is_own(name));
        let headers = headers.map(|(name, values)| (name.clone(), values.clone()));
        Seen { status: self.status, headers: headers.collect(), body: lasting(&self.body) }
    }
}

/// A text of JSON without times, and with ids by the order in which they come: two that were the same stay the same.
/// Everything else stays byte for byte.
fn lasting(text: &str) -> String {
    let (mut out, mut rest, mut ids) = (String::new(), text, Vec::new());
    while let Some(at) = rest.find("\":") {
        let (before, after) = rest.split_at(at + 2);
        let key = before[..at].rsplit('"').next().unwrap();
        let value = &after[..scalar_length(after)];
        out.push_str(before);
        rest = &after[value.len()..];
        match key {
            _ if TIMES.contains(&key) && !value.is_empty() => out.push('0'),
            _ if IDS.contains(&key) && is_drawn(value.trim_matches('"')) => {
                let known = ids.iter().position(|id| *id == value).unwrap_or_else(|| {
                    ids.push(value);
                    ids.len() - 1
                });
                out.push_str(&format!("\"id {known}\""));
            }
            _ => out.push_str(value),
        }
    }
    out + rest
}

fn is_drawn(id: &str) -> bool {
    let bare = id.len() == ID_LENGTH && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    bare || ID_PREFIXES.iter().any(|prefix| id.starts_with(prefix))
}

/// How long the number, word or string is that the text begins with; nothing for a list or an object.
fn scalar_length(text: &str) -> usize {
    let Some(string) = text.strip_prefix('"') else {
        return text.find([',', '}', ']', '[', '{', '\n']).unwrap_or(text.len());
    };
    let mut escaped = false;
    let end = string.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    });
    end.map_or(text.len(), |end| end + 2)
}

#[test]
fn only_times_and_ids_are_taken_out() {
    let told = |id: &str, more: &str| {
        lasting(&format!(r#"data: {{"id":"{id}","created":17,"item":{{"id":"{id}"}},"text":"a \"id\":\"}}",{more}}}"#))
    };
    assert_eq!(
        told("chatcmpl-Xy1", r#""model":"id","data":[{"id":"a"}]"#),
        r#"data: {"id":"id 0","created":0,"item":{"id":"id 0"},"text":"a \"id\":\"}","model":"id","data":[{"id":"a"}]}"#
    );
    assert_eq!(told("resp_1", ""), told("resp_2", ""));
    assert_ne!(lasting(r#"{"id":"msg_1","item_id":"msg_1"}"#), lasting(r#"{"id":"msg_1","item_id":"msg_2"}"#));
    assert_ne!(told("resp_1", r#""tokens":1"#), told("resp_1", r#""tokens":2"#));
}
