//! Cases of Ollama: every route that is served -> requests that go well and requests that do not.
//!
//! What the gateway owns is not in them: it is a difference that is wanted, and stands with the others.

use serde_json::{Value, json};

use super::asked::{Case, MODEL};

const PICTURE: &str = "iVBORw0KGgo=";

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (path, body) in native().into_iter().chain(openai()) {
        for stream in [None, Some(true), Some(false)] {
            let mut body = body.clone();
            body["model"] = json!(MODEL);
            if let Some(stream) = stream {
                body["stream"] = json!(stream);
            }
            cases.push(Case::post(path, body.to_string()));
        }
    }
    let embedded = json!({ "model": MODEL, "input": ["The sea", "Grüße"], "prompt": "The sea" }).to_string();
    let embedding = ["/api/embed", "/api/embeddings", "/v1/embeddings"].map(|path| Case::post(path, embedded.clone()));
    cases.extend(embedding);
    cases.extend(written());
    cases.extend(told());
    let paths: std::collections::BTreeSet<String> =
        cases.iter().filter(|case| case.method == "POST").map(|case| case.target.clone()).collect();
    for path in paths {
        for model in [json!("nobody"), json!("nobody:7b"), json!(7), json!(null), json!("")] {
            let message = json!([{ "role": "user", "content": "Hm?" }]);
            let body = json!({ "model": model, "prompt": "x", "input": "x", "messages": message, "max_tokens": 2 });
            cases.push(Case::post(&path, body.to_string()));
        }
        cases.push(Case::post(&path, "{}"));
    }
    cases
}

type Asked = Vec<(&'static str, Value)>;

fn user(content: impl Into<Value>) -> Value {
    json!([{ "role": "user", "content": content.into() }])
}

fn tools() -> Value {
    let parameters = json!({ "type": "object", "properties": { "place": { "type": "string" } } });
    json!([{ "type": "function", "function": { "name": "weather", "parameters": parameters } }])
}

fn few() -> Value {
    json!({ "num_predict": 6, "temperature": 0, "seed": 1, "stop": ["é"] })
}

fn native() -> Asked {
    let chat = [
        json!({ "messages": user("Tell me about the sea."), "options": few() }),
        json!({ "messages": user("Grüße, 日本語 😀?"), "options": few(), "unheard_of": { "model": "x", "a": [1.5] } }),
        json!({ "messages": [{ "role": "system", "content": "Be brief." }, user("Why?")[0]], "options": few() }),
        json!({ "messages": [user("Go on.")[0], { "role": "assistant", "content": "The sea is" }], "options": few() }),
        json!({ "messages": user("The weather?"), "tools": tools(), "options": few() }),
        json!({ "messages": [{ "role": "user", "content": "What is it?", "images": [PICTURE] }], "options": few() }),
        json!({ "messages": user("A list."), "format": "json", "options": few() }),
        json!({ "messages": user("Why?"), "think": true, "options": few() }),
        json!({ "messages": user("the sea ".repeat(5000)), "options": few() }),
        json!({ "messages": user("As long as it likes.") }),
        // Only loads the model.
        json!({ "messages": [] }),
        json!({}),
    ];
    let generate = [
        json!({ "prompt": "The sea", "options": few() }),
        json!({ "prompt": "Grüße, 日本語 😀", "system": "Be brief.", "options": few(), "context": [1, 2, 3] }),
        json!({ "prompt": "The sea", "raw": true, "options": few() }),
        json!({ "prompt": "What is it?", "images": [PICTURE], "options": few() }),
        json!({ "prompt": "fn main(", "suffix": "}", "options": few() }),
        json!({ "prompt": "A list.", "format": { "type": "object" }, "options": few() }),
        json!({ "prompt": "" }),
        json!({}),
    ];
    let chat = chat.into_iter().map(|body| ("/api/chat", body));
    chat.chain(generate.into_iter().map(|body| ("/api/generate", body))).collect()
}

fn openai() -> Asked {
    let picture =
        json!([{ "type": "text", "text": "What is it?" }, { "type": "image_url", "image_url": { "url": PICTURE } }]);
    let format = json!({ "type": "json_object" });
    let usage = json!({ "include_usage": true });
    vec![
        ("/v1/chat/completions", json!({ "messages": user("The sea, 日本語?"), "max_tokens": 6, "x": [1.50] })),
        (
            "/v1/chat/completions",
            json!({ "messages": user("Why?"), "max_completion_tokens": 6, "stream_options": usage }),
        ),
        ("/v1/chat/completions", json!({ "messages": user("The weather?"), "max_tokens": 6, "tools": tools() })),
        ("/v1/chat/completions", json!({ "messages": user(picture), "max_tokens": 6 })),
        ("/v1/chat/completions", json!({ "messages": user("A list."), "max_tokens": 6, "response_format": format })),
        ("/v1/chat/completions", json!({ "messages": [] })),
        ("/v1/completions", json!({ "prompt": "The sea", "max_tokens": 6, "stream_options": usage })),
        ("/v1/completions", json!({ "prompt": "the sea ".repeat(5000), "max_tokens": 6 })),
        ("/v1/responses", json!({ "input": "The sea, 日本語?", "max_output_tokens": 6 })),
        ("/v1/responses", json!({ "input": user("Why?"), "max_output_tokens": 6, "tools": tools() })),
        ("/v1/messages", json!({ "messages": user("The sea, 日本語?"), "system": "Be brief.", "max_tokens": 6 })),
        ("/v1/messages", json!({ "messages": user("The weather?"), "max_tokens": 6, "tools": tools() })),
    ]
}

/// Bodies as nobody writes them who lets a library do it.
fn written() -> Vec<Case> {
    let sea = r#""messages":[{"role":"user","content":"Gr\u00fc\u00dfe \ud83d\ude00 \"\/"}],"options":{"num_predict":6 , "seed":1}"#;
    let chat = |body: String| Case::post("/api/chat?unheard=of&a=%C3%A9", body);
    let mut odd = chat(format!("\n{{ {sea} ,\t\"model\" :\"{MODEL}\", \"x\":1.0e0 }}\r\n"));
    odd.headers = vec![("authorization", "Bearer unused"), ("accept-encoding", "gzip"), ("user-agent", "odd")];
    vec![
        odd,
        chat(format!(r#"{{"model":"nobody",{sea},"model":"{MODEL}"}}"#)),
        Case { headers: Vec::new(), ..chat(format!(r#"{{"\u006dodel":"{MODEL}",{sea}}}"#)) },
    ]
}

fn told() -> Vec<Case> {
    let show = [json!({ "model": MODEL }), json!({ "model": MODEL, "verbose": true }), json!({ "name": "nobody" })];
    let show = show.iter().map(|body| Case::post("/api/show", body.to_string()));
    let read = ["/", "/api/tags", "/api/ps", "/api/version", "/v1/models/MODEL", "/v1/models/nobody"];
    show.chain(read.iter().flat_map(|target| [Case::get(target), Case::head(target)])).collect()
}
