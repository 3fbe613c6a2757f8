//! Body: the JSON of a request -> the same bytes, with another model and without what the gateway owns.
//!
//! It is never parsed into values and written again: numbers would change their digits and objects their order. Only
//! the spans of what is to change are found, and everything between them is copied.
//!
//! What is found must be what the server will find. Ollama's parser (Go's) matches keys in any case, takes the last of
//! several, skips nulls and merges repeated objects; it also ignores what follows the object. So keys are folded as Go
//! folds them, every repetition is changed, and a body that we cannot read whole goes nowhere.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::errors::{Failure, Fault};
use crate::config::ServerKind;

/// A JSON object by its members' places.
pub struct Document {
    text: Bytes,
    /// Just after the opening brace.
    open: usize,
    members: Vec<Member>,
    keys: Keys,
}

struct Member {
    key: String,
    start: usize,
    value: Range<usize>,
}

/// How the server compares keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    Exact,
    Folded,
}

/// What a request says of the model it wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    Missing,
    Model(String),
    /// Not a text: for the server to refuse.
    Other,
}

/// What of a native Ollama request is not the client's to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owned {
    /// The context the model is loaded with; another one would load it again.
    pub context: Option<u32>,
    /// A request that is too long is refused and not cut, unless the client has said which.
    pub whole: bool,
}

const OWNED_OPTIONS: [&str; 5] = ["num_gpu", "main_gpu", "num_batch", "use_mmap", "num_thread"];

enum Change {
    Keep,
    Remove,
    Replace(Vec<u8>),
}

impl Keys {
    pub fn of(server: ServerKind) -> Self {
        match server {
            ServerKind::Ollama => Keys::Folded,
            ServerKind::LlamaServer => Keys::Exact,
        }
    }

    fn read(self, key: &str) -> String {
        match self {
            Keys::Exact => key.to_owned(),
            // The only letters beyond ASCII that fold into it are the long s and the Kelvin sign.
            Keys::Folded => key
                .chars()
                .map(|letter| match letter {
                    '\u{17f}' => 's',
                    '\u{212a}' => 'k',
                    _ => letter.to_ascii_lowercase(),
                })
                .collect(),
        }
    }
}

/// What takes longer to read than others may wait is read beside them.
const LARGE: usize = 256 << 10;

impl Document {
    /// As `read`; what is large, on another thread.
    pub async fn read_beside(text: Bytes, keys: Keys) -> Result<Self, Failure> {
        if text.len() < LARGE {
            return Document::read(text, keys);
        }
        let read = tokio::task::spawn_blocking(move || Document::read(text, keys));
        read.await.expect("it is neither aborted nor panics")
    }

    pub fn read(text: Bytes, keys: Keys) -> Result<Self, Failure> {
        let spans = {
            let mut deserializer = serde_json::Deserializer::from_slice(&text);
            let spans = deserializer.deserialize_map(Spans { base: text.as_ptr() as usize });
            spans.and_then(|spans| deserializer.end().map(|()| spans))
        };
        let spans = spans
            .map_err(|error| Failure::new(Fault::BadRequest, format!("the body is not a JSON object: {error}")))?;
        let open = 1 + text.iter().position(|byte| *byte == b'{').expect("an object has been read from it");
        let members = spans.into_iter().map(|(key, value)| Member {
            key: keys.read(&unquoted(&text[key.clone()]).unwrap_or_default()),
            start: key.start,
            value,
        });
        Ok(Document { open, members: members.collect(), keys, text })
    }

    pub fn bytes(&self) -> Bytes {
        self.text.clone()
    }

    pub fn keys(&self) -> Keys {
        self.keys
    }

    pub fn model(&self) -> Named {
        match self.last("model") {
            None => Named::Missing,
            Some(value) => match unquoted(value) {
                Some(model) if model.is_empty() => Named::Missing,
                Some(model) => Named::Model(model.into_owned()),
                None => Named::Other,
            },
        }
    }

    /// What the client says on whether it wants the reply in pieces.
    pub fn stream(&self) -> Option<bool> {
        match self.last("stream")? {
            b"true" => Some(true),
            b"false" => Some(false),
            _ => None,
        }
    }

    /// What the server will take for this key, as it is written.
    pub fn value(&self, key: &str) -> Option<&[u8]> {
        self.last(key)
    }

    /// The same with these values, each in the place of what there was, or added.
    pub fn with(&self, values: &[(&str, Vec<u8>)]) -> Bytes {
        let added = values.iter().filter(|(key, _)| !self.has(key));
        let insert: Vec<_> = added.map(|(key, value)| [format!("\"{key}\":").as_bytes(), value].concat()).collect();
        let change = |key: &str| values.iter().find(|(changed, _)| *changed == key);
        Bytes::from(
            self.rewritten(&insert, |key, _| {
                change(key).map_or(Change::Keep, |(_, value)| Change::Replace(value.clone()))
            }),
        )
    }

    /// The request as it goes to this model.
    pub fn spliced(&self, model: &str, owned: Option<Owned>) -> Bytes {
        let model = serde_json::to_vec(model).expect("a text can always be written");
        let mut insert = Vec::new();
        if !self.has("model") {
            insert.push([b"\"model\":".as_slice(), &model].concat());
        }
        if owned.is_some_and(|owned| owned.whole) && self.last("truncate").is_none() {
            insert.push(b"\"truncate\":false".to_vec());
        }
        if let Some(Owned { context: Some(context), .. }) = owned
            && !self.has("options")
        {
            insert.push(format!("\"options\":{{\"num_ctx\":{context}}}").into_bytes());
        }
        let text = self.rewritten(&insert, |key, value| match (key, owned) {
            ("model", _) => Change::Replace(model.clone()),
            ("keep_alive", Some(_)) => Change::Remove,
            ("options", Some(owned)) => self.options(value, owned),
            _ => Change::Keep,
        });
        Bytes::from(text)
    }

    fn options(&self, value: Range<usize>, owned: Owned) -> Change {
        let own = owned.context.map(|context| format!("\"num_ctx\":{context}").into_bytes());
        let Ok(options) = Document::read(self.text.slice(value.clone()), self.keys) else {
            return match (&self.text[value], own) {
                // A null would empty the options that stand before it.
                (b"null", Some(own)) => Change::Replace([b"{".as_slice(), &own, b"}"].concat()),
                _ => Change::Keep,
            };
        };
        let insert = own.filter(|_| !options.has("num_ctx"));
        Change::Replace(options.rewritten(insert.as_slice(), |key, _| match (key, owned.context) {
            ("num_ctx", Some(context)) => Change::Replace(context.to_string().into_bytes()),
            ("num_ctx", None) => Change::Remove,
            _ if OWNED_OPTIONS.contains(&key) => Change::Remove,
            _ => Change::Keep,
        }))
    }

    /// Adds entries to the end of an array that is a member; `None` where there is no such array.
    pub fn appended(&self, key: &str, entries: &[serde_json::Value]) -> Option<Bytes> {
        let array = self.members.iter().rfind(|member| member.key == key)?.value.clone();
        let inner = self.text.get(array.start..array.end)?.strip_prefix(b"[")?.strip_suffix(b"]")?;
        let mut text = self.text[..array.end - 1].to_vec();
        let mut empty = inner.trim_ascii().is_empty();
        for entry in entries {
            if !empty {
                text.push(b',');
            }
            text.extend(entry.to_string().as_bytes());
            empty = false;
        }
        text.extend(&self.text[array.end - 1..]);
        Some(Bytes::from(text))
    }

    fn has(&self, key: &str) -> bool {
        self.members.iter().any(|member| member.key == key)
    }

    /// The value that the server will take: the last one. Go leaves what it had when it meets a null.
    fn last(&self, key: &str) -> Option<&[u8]> {
        let values =
            self.members.iter().filter(|member| member.key == key).map(|member| &self.text[member.value.clone()]);
        match self.keys {
            Keys::Exact => values.last().filter(|value| *value != b"null"),
            Keys::Folded => values.filter(|value| *value != b"null").last(),
        }
    }

    fn rewritten(&self, insert: &[Vec<u8>], change: impl Fn(&str, Range<usize>) -> Change) -> Vec<u8> {
        let changes: Vec<_> = self.members.iter().map(|member| change(&member.key, member.value.clone())).collect();
        let some_stay = changes.iter().any(|change| !matches!(change, Change::Remove));
        let mut out = Vec::with_capacity(self.text.len() + 128);
        out.extend(&self.text[..self.open]);
        out.extend(insert.join(&b','));
        if !insert.is_empty() && some_stay {
            out.push(b',');
        }
        let mut copied = self.open;
        let mut kept_before = false;
        for (index, (member, change)) in self.members.iter().zip(changes).enumerate() {
            match change {
                Change::Keep => kept_before = true,
                Change::Replace(value) => {
                    out.extend(&self.text[copied..member.value.start]);
                    out.extend(value);
                    copied = member.value.end;
                    kept_before = true;
                }
                // With it goes the comma before it, or the one after it where it would be the first.
                Change::Remove => {
                    let next = self.members.get(index + 1);
                    let (from, to) = match (kept_before, next) {
                        (true, _) => (self.members[index - 1].value.end, member.value.end),
                        (false, Some(next)) => (member.start, next.start),
                        (false, None) => (member.start, member.value.end),
                    };
                    out.extend(&self.text[copied..from]);
                    copied = to;
                }
            }
        }
        out.extend(&self.text[copied..]);
        out
    }
}

fn unquoted(text: &[u8]) -> Option<Cow<'_, str>> {
    // Most strings have no escapes, and then they are what stands between the quotes.
    let inner = text.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    match inner.contains(&b'\\') {
        false => std::str::from_utf8(inner).ok().map(Cow::Borrowed),
        true => serde_json::from_slice(text).ok().map(Cow::Owned),
    }
}

type MemberSpan = (Range<usize>, Range<usize>);

/// Reads an object as the spans of its keys and values, counted from `base`.
struct Spans {
    base: usize,
}

impl<'de> Visitor<'de> for Spans {
    type Value = Vec<MemberSpan>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let span = |raw: &RawValue| {
            let start = raw.get().as_ptr() as usize - self.base;
            start..start + raw.get().len()
        };
        let mut spans = Vec::new();
        while let Some((key, value)) = map.next_entry::<&RawValue, &RawValue>()? {
            spans.push((span(key), span(value)));
        }
        Ok(spans)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    fn go(text: &str) -> Document {
        Document::read(Bytes::copy_from_slice(text.as_bytes()), Keys::Folded).unwrap()
    }

    fn exact(text: &str) -> Document {
        Document::read(Bytes::copy_from_slice(text.as_bytes()), Keys::Exact).unwrap()
    }

    fn own(text: &str, context: Option<u32>) -> String {
        String::from_utf8(go(text).spliced("m", Some(Owned { context, whole: false })).to_vec()).unwrap()
    }

    #[test]
    fn only_the_model_changes() {
        let text =
            "\n{ \"a\" : 1.00e+02 ,\t\"model\" : \"mai\" , \"messages\":[{\"model\":\"x\"}], \"ü\":\"\\u00fc\\/\" } \n";
        let spliced = exact(text).spliced("q\"w:3", None);
        assert_eq!(spliced, text.replace("\"mai\"", "\"q\\\"w:3\""));
    }

    #[test]
    fn a_missing_model_is_added() {
        assert_eq!(exact("{ }").spliced("m", None), "{\"model\":\"m\" }");
        assert_eq!(exact("{\"a\":1}").spliced("m", None), "{\"model\":\"m\",\"a\":1}");
        assert_eq!(exact("{\"model\":null}").model(), Named::Missing);
    }

    #[test]
    fn the_model_that_the_server_would_take_is_the_one_that_is_read_and_all_are_changed() {
        assert_eq!(exact(r#"{"model":"a","model":"b"}"#).model(), Named::Model("b".into()));
        assert_eq!(exact(r#"{"model":"a","model":"b"}"#).spliced("m", None), r#"{"model":"m","model":"m"}"#);
        assert_eq!(exact(r#"{"\u006dodel":"a"}"#).model(), Named::Model("a".into()));
        assert_eq!(exact(r#"{"\u006dodel":"a"}"#).spliced("m", None), r#"{"\u006dodel":"m"}"#);
        assert_eq!(exact(r#"{"Model":"a"}"#).model(), Named::Missing);
        assert_eq!(go(r#"{"MODEL":"a"}"#).model(), Named::Model("a".into()));
        assert_eq!(go(r#"{"model":"a","model":null}"#).model(), Named::Model("a".into()));
        assert_eq!(go(r#"{"model":"\u006d\u0061i"}"#).model(), Named::Model("mai".into()));
        assert_eq!(go(r#"{"model":7}"#).model(), Named::Other);
        assert_eq!(go(r#"{"model":"\ud800"}"#).model(), Named::Other);
    }

    #[test]
    fn what_the_gateway_owns_is_taken_out_wherever_it_stands() {
        assert_eq!(own(r#"{"keep_alive":-1,"model":"a"}"#, None), r#"{"model":"m"}"#);
        assert_eq!(own(r#"{"model":"a","keep_alive":-1}"#, None), r#"{"model":"m"}"#);
        assert_eq!(own(r#"{"keep_alive":1,"keep_alive":2,"model":"a","Keep_Alive":3}"#, None), r#"{"model":"m"}"#);
        assert_eq!(own("{\"model\":\"a\",\"\u{212a}eep_alive\":-1}", None), r#"{"model":"m"}"#);
        assert_eq!(own(r#"{"model":"a","keep\u005falive":-1}"#, None), r#"{"model":"m"}"#);
        assert_eq!(
            own(r#"{"model":"a","options":{"num_gpu":1, "seed":7 ,"num_thread":2,"use_mmap":true}}"#, None),
            r#"{"model":"m","options":{"seed":7}}"#
        );
        assert_eq!(own(r#"{"model":"a","options":{"num_gpu":1}}"#, None), r#"{"model":"m","options":{}}"#);
    }

    #[test]
    fn the_rungs_context_holds() {
        assert_eq!(own(r#"{"model":"a"}"#, Some(8)), r#"{"options":{"num_ctx":8},"model":"m"}"#);
        assert_eq!(own(r#"{"keep_alive":1}"#, Some(8)), r#"{"model":"m","options":{"num_ctx":8}}"#);
        assert_eq!(own(r#"{"model":"a","options":{}}"#, Some(8)), r#"{"model":"m","options":{"num_ctx":8}}"#);
        assert_eq!(
            own(r#"{"model":"a","options":{"top_k":1,"num_ctx":99}}"#, Some(8)),
            r#"{"model":"m","options":{"top_k":1,"num_ctx":8}}"#
        );
        assert_eq!(own(r#"{"model":"a","options":{"num_ctx":99}}"#, None), r#"{"model":"m","options":{}}"#);
        assert_eq!(
            own(r#"{"model":"a","options":{"num_ctx":9},"options":null}"#, Some(8)),
            r#"{"model":"m","options":{"num_ctx":8},"options":{"num_ctx":8}}"#
        );
        assert_eq!(
            own(r#"{"model":"a","options":{"num_ctx":9},"Options":{"num_ctx":10,"seed":1}}"#, Some(8)),
            r#"{"model":"m","options":{"num_ctx":8},"Options":{"num_ctx":8,"seed":1}}"#
        );
    }

    #[test]
    fn nothing_is_cut_unless_the_client_has_it_so() {
        let own = |text: &str| {
            let spliced = go(text).spliced("m", Some(Owned { context: None, whole: true }));
            String::from_utf8(spliced.to_vec()).unwrap()
        };
        assert_eq!(own(r#"{"model":"a"}"#), r#"{"truncate":false,"model":"m"}"#);
        assert_eq!(own(r#"{"model":"a","truncate":null}"#), r#"{"truncate":false,"model":"m","truncate":null}"#);
        assert_eq!(own(r#"{"model":"a","Truncate":true}"#), r#"{"model":"m","Truncate":true}"#);
    }

    #[test]
    fn what_cannot_be_read_whole_is_refused() {
        for text in ["", "[]", "\"x\"", "{", "{\"a\":1} {\"keep_alive\":-1}", "{\"a\":1}x", "{\"a\":}", "nul"] {
            assert!(Document::read(Bytes::copy_from_slice(text.as_bytes()), Keys::Folded).is_err(), "{text}");
        }
        assert!(Document::read(Bytes::from_static(b"{\"a\":\"\xff\"}"), Keys::Folded).is_err());
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(Document::read(Bytes::from(deep), Keys::Exact).is_ok(), "depth costs no stack");
    }

    #[test]
    fn values_are_put_in_the_place_of_others_or_added() {
        let values = [("a", b"2".to_vec()), ("c", b"{}".to_vec())];
        assert_eq!(exact(r#"{"a": 1.0, "b":1, "a":3}"#).with(&values), r#"{"c":{},"a": 2, "b":1, "a":2}"#);
        assert_eq!(exact("{ }").with(&values), r#"{"a":2,"c":{} }"#);
        assert_eq!(exact(r#"{"a":1}"#).with(&[]), r#"{"a":1}"#);
    }

    #[test]
    fn entries_are_added_to_a_list() {
        let entry = [json!({"id": "mai"})];
        assert_eq!(
            exact(r#"{"data":[ ],"x":1}"#).appended("data", &entry).unwrap(),
            r#"{"data":[ {"id":"mai"}],"x":1}"#
        );
        assert_eq!(exact(r#"{"data":[1]}"#).appended("data", &entry).unwrap(), r#"{"data":[1,{"id":"mai"}]}"#);
        assert!(exact(r#"{"data":{}}"#).appended("data", &entry).is_none());
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_filter("finite", |n| n.is_finite()).prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((any::<String>(), inner), 0..4)
                    .prop_map(|members| Value::from(members.into_iter().collect::<Map<_, _>>())),
            ]
        })
    }

    proptest! {
        #[test]
        fn everything_but_the_model_is_the_same_bytes(
            before in prop::collection::vec(("[a-l]{1,4}|\\PC{2}", any_json()), 0..4),
            after in prop::collection::vec(("[n-z]{1,4}|\\PC{2}", any_json()), 0..4),
            space in "[ \\n\\t\\r]{0,3}",
            (old, new) in (any::<String>(), any::<String>()),
        ) {
            let write = |members: &[(String, Value)]| {
                members.iter().map(|(key, value)| format!("{}{space}:{value}", json!(key))).collect::<Vec<_>>()
            };
            let around = |model: &str| {
                let model = format!("\"model\"{space}:{space}{}", json!(model));
                let members = [write(&before), vec![model], write(&after)].concat();
                format!("{space}{{{space}{}{space}}}{space}", members.join(&format!("{space},{space}")))
            };
            prop_assert_eq!(exact(&around(&old)).spliced(&new, None), around(&new));
        }

        /// Whatever is removed and added, the result is what the same changes make of the parsed value.
        #[test]
        fn owning_the_options_changes_nothing_else(
            members in prop::collection::vec((
                prop_oneof![Just("model"), Just("keep_alive"), Just("stream"), Just("think"), Just("prompt")], any_json()
            ), 0..6),
            options in prop::option::of(prop::collection::vec((
                prop_oneof![Just("num_ctx"), Just("num_gpu"), Just("seed"), Just("use_mmap"), Just("stop")], any_json()
            ), 0..6)),
            context in prop::option::of(1u32..9999),
        ) {
            let write = |members: &[(&str, Value)]| {
                members.iter().map(|(key, value)| format!("{}: {value}", json!(key))).collect::<Vec<_>>().join(" , ")
            };
            let mut text = write(&members);
            if let Some(options) = &options {
                let comma = if members.is_empty() { "" } else { "," };
                text = format!("{text}{comma}\"options\":{{ {} }}", write(options));
            }
            let text = format!("{{{text}}}");
            let mut expected: Map<String, Value> = serde_json::from_str(&text).unwrap();
            expected.insert("model".into(), json!("m"));
            expected.remove("keep_alive");
            if let Some(options) = expected.get_mut("options").and_then(Value::as_object_mut) {
                for owned in OWNED_OPTIONS.iter().chain(&["num_ctx"]) {
                    options.remove(*owned);
                }
            }
            if let Some(context) = context {
                let options = expected.entry("options").or_insert(json!({}));
                options["num_ctx"] = json!(context);
            }
            let spliced = go(&text).spliced("m", Some(Owned { context, whole: false }));
            prop_assert_eq!(serde_json::from_slice::<Map<String, Value>>(&spliced).unwrap(), expected);
        }
    }
}
