//! Fidelity: the same request straight to the server and through the program -> the same answer, byte for byte, ids and
//! times apart; what differs on purpose is in one list, with both answers.
//!
//! llama-server is the real one, which `tests/run` fetches. Ollama is the fake that is held to recordings of the real one.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../support/fake_ollama/mod.rs"]
#[expect(dead_code, reason = "other tests use more of the fake")]
mod fake_ollama;
#[path = "../support/llama.rs"]
mod llama;
#[path = "../support/plain_client.rs"]
mod plain_client;
#[path = "../run_faults/program.rs"]
#[expect(dead_code, reason = "other tests use more of the program")]
mod program;
#[path = "../run_faults/sidecar.rs"]
#[expect(dead_code, reason = "other tests use more of the sidecar")]
mod sidecar;

mod asked;
mod differences;
mod llama_cases;
mod mixed;
mod ollama_cases;
mod sides;

use std::collections::BTreeSet;

use asked::Case;
use differences::{LISTS_OF_LLAMA_SERVER, LISTS_OF_OLLAMA};
use sides::{AT_DEADLINE, before_llama_server, before_ollama};
use tierkeeper::config::ServerKind;

#[tokio::test]
#[ignore = "needs the real llama-server: tests/run"]
async fn the_real_llama_server_answers_the_same_through_the_program() {
    for at_deadline in AT_DEADLINE {
        let mut sides = before_llama_server(at_deadline).await;
        let went_well = sides.agree_on(&llama_cases::cases()).await;
        assert!(went_well > 65, "errors alone prove little: {went_well} went well");
        sides.sidecar.stop().await;
    }
}

/// These models are none of the ladder's, and go by their own names.
#[tokio::test]
#[ignore = "needs the real llama-server: tests/run"]
async fn embeddings_and_rankings_are_the_same_through_the_program() {
    let mut sides = before_llama_server(AT_DEADLINE[0]).await;
    for (model, asked) in [("embeds", llama_cases::embeddings()), ("ranks", llama_cases::rankings())] {
        let cases: Vec<_> = asked.iter().map(|(path, body)| llama_cases::asked(path, body).named(model)).collect();
        let went_well = sides.agree_on(&cases).await;
        assert_eq!(went_well, cases.len() - 1, "all but the one that asks for nothing");
    }
    sides.sidecar.stop().await;
}

#[tokio::test]
async fn ollama_answers_the_same_through_the_program() {
    let (mut sides, _server) = before_ollama().await;
    let went_well = sides.agree_on(&ollama_cases::cases()).await;
    assert!(went_well > 75, "errors alone prove little: {went_well} went well");
    sides.sidecar.stop().await;
}

#[test]
fn every_route_has_a_case_that_is_compared() {
    for (server, cases) in [(ServerKind::LlamaServer, of_llama_server()), (ServerKind::Ollama, of_ollama())] {
        let routes = routes(server);
        assert!(routes.len() > 20, "the list of routes was not found: {routes:?}");
        let has = cases.iter().map(|case| (case.route().0.to_owned(), case.route().1.to_owned())).collect();
        let without: Vec<_> = routes.difference(&has).collect();
        assert!(without.is_empty(), "{server:?}: no case for {without:?}");
    }
}

/// Every case there is.
fn of_llama_server() -> Vec<Case> {
    [llama_cases::cases(), differences::all(differences::of_llama_server(), &LISTS_OF_LLAMA_SERVER)].concat()
}

fn of_ollama() -> Vec<Case> {
    [ollama_cases::cases(), differences::all(differences::of_ollama(), &LISTS_OF_OLLAMA)].concat()
}

/// What the gateway serves, as its own list has it.
fn routes(server: ServerKind) -> BTreeSet<(String, String)> {
    let source = include_str!("../../src/gateway/routes.rs");
    let begin = match server {
        ServerKind::Ollama => "const OLLAMA: &[Row] = &[",
        ServerKind::LlamaServer => "const LLAMA_SERVER: &[Row] = &[",
    };
    let rows = source.split_once(begin).unwrap().1.split_once("];").unwrap().0;
    let words: Vec<Vec<&str>> = rows.lines().map(|line| line.split('"').collect()).collect();
    let rows = words.iter().filter(|words| words.len() > 3).map(|words| (words[1], words[3]));
    rows.flat_map(|(methods, path)| {
        methods.split(", ").map(move |method| (method.to_owned(), path.replace("{model}", asked::MODEL)))
    })
    .collect()
}
