//! Cases of llama-server: every route that is served -> requests that go well and requests that do not.

use serde_json::{Value, json};

use super::asked::{Case, MODEL};

/// A picture of one point.
const PICTURE: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
/// Letters beyond ASCII, plain and escaped, in and beyond the basic plane.
const LETTERS: &str = "Grüße, 日本語, 😀 \\u00e9\\ud83d\\ude00 \\\"x\\\" \\/ ñ";

/// Everything but embeddings and ranking, which a server does only when it was started for them.
pub(crate) fn cases() -> Vec<Case> {
    let streams = [chat(), completions(), responses(), messages(), native()].concat();
    let mut cases: Vec<Case> =
        streams.iter().flat_map(|(path, body)| [asked(path, body), streamed(path, body)]).collect();
    cases.extend(written());
    cases.extend(told());
    cases.extend(tokens());
    for (path, body) in embeddings().into_iter().chain(rankings()) {
        cases.push(asked(path, &body));
    }
    let routes: Vec<_> = cases.iter().filter(|case| case.method == "POST").map(|case| case.target.clone()).collect();
    for path in routes.into_iter().collect::<std::collections::BTreeSet<_>>() {
        for model in [json!("nobody"), json!(7), json!({})] {
            cases.push(Case::post(&path, json!({ "model": model, "prompt": "x", "messages": [] }).to_string()));
        }
    }
    cases
}

/// For a server that was started for them.
pub(crate) fn embeddings() -> Vec<(&'static str, Value)> {
    let lists = [json!("The sea"), json!(["The sea", "Grüße 日本語"])];
    let openai = lists.iter().map(|input| ("/v1/embeddings", json!({ "input": input })));
    let native =
        lists.iter().flat_map(|input| ["/embedding", "/embeddings"].map(|path| (path, json!({ "input": input }))));
    let coded = ("/v1/embeddings", json!({ "input": "The sea", "encoding_format": "base64" }));
    openai.chain(native).chain([coded, ("/v1/embeddings", json!({}))]).collect()
}

pub(crate) fn rankings() -> Vec<(&'static str, Value)> {
    let body = json!({ "query": "The sea", "documents": ["Water", "Grüße", "A hill"], "top_n": 2 });
    vec![("/rerank", body.clone()), ("/v1/rerank", body), ("/rerank", json!({ "query": "The sea" }))]
}

pub(crate) fn asked(path: &str, body: &Value) -> Case {
    Case::post(path, with(body, "model", json!(MODEL)).to_string())
}

fn streamed(path: &str, body: &Value) -> Case {
    asked(path, &with(body, "stream", json!(true)))
}

fn with(body: &Value, key: &str, value: Value) -> Value {
    let mut body = body.clone();
    body[key] = value;
    body
}

/// The body with the same tokens each time, and never many of them.
fn steady(limit: &str, more: Value) -> Value {
    let mut body = json!({ limit: 6, "temperature": 0, "seed": 1, "ignore_eos": true });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn user(content: impl Into<Value>) -> Value {
    json!([{ "role": "user", "content": content.into() }])
}

/// A function as a tool, as the chat has it.
fn function() -> Value {
    let parameters =
        json!({ "type": "object", "properties": { "place": { "type": "string" } }, "required": ["place"] });
    json!({ "name": "weather", "description": "The weather of a place", "parameters": parameters })
}

fn words(count: usize) -> String {
    "the sea and the hill ".repeat(count / 5)
}

type Asked = Vec<(&'static str, Value)>;

fn chat() -> Asked {
    let path = "/v1/chat/completions";
    let sea = || user("Tell me about the sea.");
    let picture = format!("data:image/png;base64,{PICTURE}");
    let bodies = [
        json!({ "messages": sea() }),
        json!({ "messages": sea(), "stream_options": { "include_usage": true }, "user": "me", "metadata": { "a": 1 } }),
        json!({ "messages": [{ "role": "system", "content": "Be brief." }, { "role": "user", "content": "Why?" }] }),
        json!({ "messages": sea(), "tools": [{ "type": "function", "function": function() }] }),
        json!({ "messages": sea(), "tools": [{ "type": "function", "function": function() }], "tool_choice": "required" }),
        json!({ "messages": user(json!([{ "type": "text", "text": "What is it?" },
            { "type": "image_url", "image_url": { "url": picture } }])) }),
        json!({ "messages": sea(), "response_format": { "type": "json_object" } }),
        json!({ "messages": sea(), "response_format": { "type": "json_schema", "json_schema": { "name": "x",
            "schema": function()["parameters"] } } }),
        json!({ "messages": sea(), "logprobs": true, "top_logprobs": 2 }),
        json!({ "messages": sea(), "n": 2 }),
        json!({ "messages": sea(), "stop": [" né", "é"] }),
        json!({ "messages": [{ "role": "user", "content": "Go on." }, { "role": "assistant", "content": "The sea is" }] }),
        json!({ "messages": sea(), "timings_per_token": true, "return_progress": true }),
        json!({ "messages": user(words(800)) }),
        // More than the context.
        json!({ "messages": user(words(20_000)) }),
        json!({}),
        json!({ "messages": "The sea" }),
        json!({ "messages": [{ "role": "user" }] }),
        json!({ "messages": sea(), "temperature": "hot" }),
        json!({ "messages": sea(), "grammar": "root ::= (" }),
    ];
    let plain = ("/chat/completions", steady("max_tokens", json!({ "messages": sea() })));
    bodies.into_iter().map(|body| (path, steady("max_tokens", body))).chain([plain]).collect()
}

fn completions() -> Asked {
    let bodies = [
        json!({ "prompt": "The sea" }),
        json!({ "prompt": ["The sea", "Grüße 日本語"], "stream_options": { "include_usage": true } }),
        json!({ "prompt": [400, 401, 402] }),
        json!({ "prompt": "The sea", "logprobs": 2, "echo": true, "suffix": "." }),
        json!({ "prompt": words(20_000) }),
        json!({ "prompt": { "a": 1 } }),
        json!({}),
    ];
    bodies.into_iter().map(|body| ("/v1/completions", steady("max_tokens", body))).collect()
}

fn responses() -> Asked {
    let picture = format!("data:image/png;base64,{PICTURE}");
    let mut tool = function();
    tool["type"] = json!("function");
    let bodies = [
        json!({ "input": "Tell me about the sea." }),
        json!({ "input": user("Why, 日本語?"), "instructions": "Be brief.", "metadata": { "a": "b" }, "store": false }),
        json!({ "input": "The weather?", "tools": [tool] }),
        json!({ "input": user(json!([{ "type": "input_image", "image_url": picture }])) }),
        json!({ "input": "Go on.", "previous_response_id": "resp_1" }),
        json!({ "input": words(20_000) }),
        json!({}),
    ];
    bodies.into_iter().map(|body| ("/v1/responses", steady("max_output_tokens", body))).collect()
}

fn messages() -> Asked {
    let tool = json!({ "name": "weather", "input_schema": function()["parameters"] });
    let picture = json!({ "type": "base64", "media_type": "image/png", "data": PICTURE });
    let bodies = [
        json!({ "messages": user("Tell me about the sea.") }),
        json!({ "messages": user(json!([{ "type": "text", "text": "日本語?" }])), "system": "Be brief.", "stop_sequences": ["é"] }),
        json!({ "messages": user("The weather?"), "tools": [tool] }),
        json!({ "messages": user(json!([{ "type": "image", "source": picture }])) }),
        json!({ "messages": user("Why?"), "thinking": { "type": "enabled", "budget_tokens": 1024 } }),
        json!({ "messages": user(words(20_000)) }),
        json!({}),
    ];
    bodies.into_iter().map(|body| ("/v1/messages", steady("max_tokens", body))).collect()
}

fn native() -> Asked {
    let bodies = [
        json!({ "prompt": "The sea" }),
        json!({ "prompt": "Grüße 日本語 😀", "n_probs": 2, "return_tokens": true, "cache_prompt": false, "stop": ["é"] }),
        json!({ "prompt": ["The sea", [400, 401]] }),
        json!({ "prompt": "{", "json_schema": function()["parameters"] }),
        json!({ "prompt": { "prompt_string": "<__media__>", "multimodal_data": [PICTURE] } }),
        json!({ "prompt": words(20_000) }),
        json!({}),
    ];
    let native = bodies.into_iter().map(|body| ("/completion", steady("n_predict", body)));
    let twin = ("/completions", steady("n_predict", json!({ "prompt": "The sea" })));
    let file = json!([{ "filename": "é.rs", "text": "fn é() {}" }]);
    let gaps = [
        json!({ "input_prefix": "fn main(", "input_suffix": "}", "input_extra": file }),
        json!({ "input_prefix": "fn main(" }),
        json!({ "input_prefix": 7, "input_suffix": "}" }),
    ];
    let gaps = gaps.into_iter().map(|body| ("/infill", steady("n_predict", body)));
    native.chain([twin]).chain(gaps).collect()
}

/// Bodies as nobody writes them who lets a library do it.
fn written() -> Vec<Case> {
    let path = "/v1/chat/completions";
    let steady = r#""max_tokens":6,"temperature":0e0,"seed":1,"ignore_eos":true"#;
    let letters = format!(r#"{{"model":"{MODEL}",{steady},"messages":[{{"role":"user","content":"{LETTERS}"}}]}}"#);
    let spaced = format!(
        "\n{{ \"x\" : [1.0e0, null, {{\"model\":\"y\"}}] ,\t\"model\" : \"{MODEL}\" ,{steady},\r\n \
         \"messages\":[{{\"role\":\"user\",\"content\":\"Hm?\"}}], \"unheard_of\":{{}}, \"Model\": 3 }} \n"
    );
    let twice = format!(
        r#"{{"model":"nobody",{steady},"messages":[],"messages":[{{"role":"user","content":"Hm?"}}],"model":"{MODEL}"}}"#
    );
    let escaped = format!(r#"{{"\u006dodel":"{MODEL}",{steady},"messages":[{{"role":"user","content":"Hm?"}}]}}"#);
    let mut cases: Vec<Case> = [letters, spaced, twice, escaped].map(|body| Case::post(path, body)).into();
    let mut typed = asked(&format!("{path}?unheard=of&a=%C3%A9"), &chat()[0].1);
    typed.headers = vec![
        ("content-type", "text/plain"),
        ("authorization", "Bearer unused"),
        ("accept-encoding", "gzip, br"),
        ("anthropic-version", "2023-06-01"),
        ("x-stainless-lang", "js"),
    ];
    cases.push(typed);
    cases
}

fn tokens() -> Vec<Case> {
    let message = user("Tell me about the sea, 日本語.");
    [
        ("/v1/messages/count_tokens", json!({ "messages": message, "system": "Be brief." })),
        ("/v1/messages/count_tokens", json!({})),
        ("/tokenize", json!({ "content": "Grüße 日本語", "with_pieces": true, "add_special": true })),
        ("/tokenize", json!({ "content": words(100_000) })),
        ("/tokenize", json!({})),
        ("/detokenize", json!({ "tokens": [400, 401, 402] })),
        ("/detokenize", json!({ "tokens": "x" })),
        ("/apply-template", json!({ "messages": message })),
        ("/apply-template", json!({})),
    ]
    .iter()
    .map(|(path, body)| asked(path, body))
    .collect()
}

fn told() -> Vec<Case> {
    ["/props", "/props?model=MODEL", "/props?model=nobody"]
        .iter()
        .flat_map(|target| [Case::get(target), Case::head(target)])
        .collect()
}
