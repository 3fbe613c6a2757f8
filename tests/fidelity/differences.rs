//! Differences: what the gateway answers otherwise than the server, on purpose -> both answers, side by side.

use std::fmt::Write;

use serde_json::{Value, json};

use super::asked::{Case, MODEL, Seen};
use super::sides::{AT_DEADLINE, Sides, before_llama_server, before_ollama};

/// What is shown of a body.
const SHOWN_MAX: usize = 240;
/// The lists of models, which have our aliases too.
pub(crate) const LISTS_OF_LLAMA_SERVER: [&str; 2] = ["/v1/models", "/models"];
pub(crate) const LISTS_OF_OLLAMA: [&str; 1] = ["/v1/models"];

type Named = (&'static str, Case);

fn sea(more: Value) -> String {
    let mut body = json!({ "max_tokens": 2, "temperature": 0, "ignore_eos": true,
        "messages": [{ "role": "user", "content": "The sea" }] });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body.to_string()
}

pub(crate) fn of_llama_server() -> Vec<Named> {
    let chat = "/v1/chat/completions";
    let plain = || sea(json!({ "model": MODEL }));
    let with = |name, value| Case { headers: vec![(name, value)], ..Case::post(chat, plain()) };
    vec![
        ("who names no model gets the one that serves", Case::post(chat, sea(json!({})))),
        (
            "a model that may not be loaded is named",
            Case::post(&format!("{chat}?autoload=false"), sea(json!({ "model": "model-b" }))),
        ),
        ("what is not JSON is the client's fault", Case::post(chat, r#"{"model":"model-a","#)),
        ("nothing is no JSON either", Case::post(chat, "")),
        ("JSON that is no object", Case::post(chat, "[]")),
        ("a compressed body cannot be looked into", with("content-encoding", "gzip")),
        ("a page of somebody else's", with("origin", "https://evil.example")),
        ("another method", Case { method: "PUT", ..Case::post(chat, plain()) }),
        ("a route is asked whether it is there", Case::head(chat)),
        ("health is ours", Case::get("/health")),
        ("health is ours, without its body", Case::head("/health")),
        ("what changes the server", Case::post("/models/unload", r#"{"model":"nobody"}"#)),
        ("what is for whoever runs the server", Case::get("/metrics?model=MODEL")),
        ("Ollama's API", Case::post("/api/chat", plain())),
        ("no route at all", Case::get("/nope")),
    ]
}

/// The last ones make the server load and unload when they are asked straight.
pub(crate) fn of_ollama() -> Vec<Named> {
    let chat = "/api/chat";
    let plain = || json!({ "model": MODEL, "messages": [{ "role": "user", "content": "The sea" }], "stream": false });
    let owned = |key: &str, value: Value| {
        let mut body = plain();
        body[key] = value;
        Case::post(chat, body.to_string())
    };
    let page = Case { headers: vec![("origin", "https://evil.example")], ..Case::post(chat, plain().to_string()) };
    let long = json!([{ "role": "user", "content": "the sea ".repeat(400) }]);
    let mut small = owned("options", json!({ "num_ctx": 64, "num_predict": 2 }));
    small.body = small.body.replace(&plain()["messages"].to_string(), &long.to_string());
    vec![
        ("what is not JSON", Case::post(chat, r#"{"model":"model-a","#)),
        ("nothing is no JSON either", Case::post("/v1/chat/completions", "")),
        ("JSON that is no object", Case::post("/v1/messages", "[]")),
        ("a page of somebody else's", page),
        ("another method", Case { method: "DELETE", ..Case::get(chat) }),
        ("what changes the server", Case::post("/api/copy", r#"{"source":"nobody","destination":"x"}"#)),
        ("llama-server's API", Case::post("/completion", r#"{"prompt":"x"}"#)),
        ("no route at all", Case::get("/nope")),
        ("health is ours", Case::get("/health")),
        ("health is ours, without its body", Case::head("/health")),
        ("another context would load the model anew", small),
        (
            "to let the model go is not the client's to say",
            Case::post("/api/generate", r#"{"model":"MODEL","keep_alive":0}"#),
        ),
    ]
}

/// All that is asked here.
pub(crate) fn all(differences: Vec<Named>, lists: &[&str]) -> Vec<Case> {
    let lists = lists.iter().flat_map(|list| [Case::get(list), Case::head(list)]);
    differences.into_iter().map(|(_, case)| case).chain(lists).collect()
}

async fn both(sides: &Sides, differences: Vec<Named>) -> String {
    let mut text = String::new();
    for (what, case) in differences {
        let through = sides.through(&case, 0).await.lasting();
        let straight = sides.straight(&case).await.lasting();
        assert_ne!(straight, through, "this is no difference: {what}");
        let target = format!("{} {}", case.method, case.target);
        write!(text, "{what}: {target}\n  straight: {}\n  through:  {}\n\n", shown(&straight), shown(&through))
            .unwrap();
    }
    text
}

fn shown(seen: &Seen) -> String {
    let body: String = seen.body.chars().take(SHOWN_MAX).collect();
    let allow = seen.headers.get("allow").map(|methods| format!(" (allow: {})", methods.join(", ")));
    format!("{}{} {}", seen.status, allow.unwrap_or_default(), body.trim_end())
}

/// As those who choose a model from the list find it, the aliases are there, behind the server's own.
async fn have_the_aliases(sides: &Sides, lists: &[&str]) {
    for list in lists {
        let read = |seen: Seen| (seen.status, seen.headers.clone(), serde_json::from_str::<Value>(&seen.body).unwrap());
        let mut expected = read(sides.straight(&Case::get(list)).await.lasting());
        let aliases =
            ["mai", "auto"].map(|id| json!({ "id": id, "object": "model", "created": 0, "owned_by": "tierkeeper" }));
        expected.2["data"].as_array_mut().unwrap().extend(aliases);
        assert_eq!(read(sides.through(&Case::get(list), 0).await.lasting()), expected, "{list}");
        let [straight, through] = [sides.straight(&Case::head(list)).await, sides.through(&Case::head(list), 0).await];
        assert_eq!(straight.lasting(), through.lasting(), "HEAD {list}");
        assert!(!through.headers.contains_key("content-length"), "the list is longer than the server's: {through:?}");
    }
}

#[tokio::test]
#[ignore = "needs the real llama-server: tests/run"]
async fn what_differs_from_llama_server_is_meant_to() {
    let mut sides = before_llama_server(AT_DEADLINE[0]).await;
    insta::assert_snapshot!("llama_server", both(&sides, of_llama_server()).await);
    have_the_aliases(&sides, &LISTS_OF_LLAMA_SERVER).await;
    sides.sidecar.stop().await;
}

#[tokio::test]
async fn what_differs_from_ollama_is_meant_to() {
    let (mut sides, _server) = before_ollama().await;
    have_the_aliases(&sides, &LISTS_OF_OLLAMA).await;
    insta::assert_snapshot!("ollama", both(&sides, of_ollama()).await);
    sides.sidecar.stop().await;
}
