//! Routes: method and path -> what the server may be asked for there, and in whose form.
//!
//! A list of what is allowed, so that what a server learns to do tomorrow stays closed until somebody has looked at it:
//! pulling, deleting, creating and loading models are all one POST away.

use http::Method;

use super::errors::{Failure, Family, Fault};
use crate::config::ServerKind;

/// What a route is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Uses a model for a reply.
    Inference,
    Embedding,
    Tokenize,
    /// Only tells something. Not counted and never held.
    Info,
    /// As `Info`; the list that OpenAI's clients check a model's name against.
    List,
    /// Ours: answered here.
    Health,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    pub family: Family,
    pub kind: Kind,
    /// Whether the gateway owns how the model is loaded there: Ollama takes it from its native routes' bodies.
    pub owned_options: bool,
}

struct Row {
    methods: &'static str,
    path: &'static str,
    family: Family,
    kind: Kind,
}

const fn row(methods: &'static str, path: &'static str, family: Family, kind: Kind) -> Row {
    Row { methods, path, family, kind }
}

const OLLAMA: &[Row] = &[
    row("POST", "/api/chat", Family::Ollama, Kind::Inference),
    row("POST", "/api/generate", Family::Ollama, Kind::Inference),
    row("POST", "/api/embed", Family::Ollama, Kind::Embedding),
    row("POST", "/api/embeddings", Family::Ollama, Kind::Embedding),
    row("GET, HEAD", "/api/tags", Family::Ollama, Kind::Info),
    row("GET, HEAD", "/api/ps", Family::Ollama, Kind::Info),
    row("GET, HEAD", "/api/version", Family::Ollama, Kind::Info),
    row("POST", "/api/show", Family::Ollama, Kind::Info),
    row("GET, HEAD", "/", Family::Ollama, Kind::Info),
    row("POST", "/v1/chat/completions", Family::OpenAi, Kind::Inference),
    row("POST", "/v1/completions", Family::OpenAi, Kind::Inference),
    row("POST", "/v1/responses", Family::Responses, Kind::Inference),
    row("POST", "/v1/embeddings", Family::OpenAi, Kind::Embedding),
    row("GET, HEAD", "/v1/models", Family::OpenAi, Kind::List),
    row("GET, HEAD", "/v1/models/{model}", Family::OpenAi, Kind::Info),
    row("POST", "/v1/messages", Family::Anthropic, Kind::Inference),
    row("GET, HEAD", "/health", Family::Ollama, Kind::Health),
];

const LLAMA_SERVER: &[Row] = &[
    row("POST", "/v1/chat/completions", Family::OpenAi, Kind::Inference),
    row("POST", "/chat/completions", Family::OpenAi, Kind::Inference),
    row("POST", "/v1/completions", Family::OpenAi, Kind::Inference),
    row("POST", "/v1/responses", Family::Responses, Kind::Inference),
    row("POST", "/v1/messages", Family::Anthropic, Kind::Inference),
    row("POST", "/v1/messages/count_tokens", Family::Anthropic, Kind::Tokenize),
    row("POST", "/completion", Family::LlamaServer, Kind::Inference),
    row("POST", "/completions", Family::LlamaServer, Kind::Inference),
    row("POST", "/infill", Family::LlamaServer, Kind::Inference),
    row("POST", "/v1/embeddings", Family::OpenAi, Kind::Embedding),
    row("POST", "/embedding", Family::LlamaServer, Kind::Embedding),
    row("POST", "/embeddings", Family::LlamaServer, Kind::Embedding),
    row("POST", "/rerank", Family::LlamaServer, Kind::Embedding),
    row("POST", "/v1/rerank", Family::LlamaServer, Kind::Embedding),
    row("POST", "/tokenize", Family::LlamaServer, Kind::Tokenize),
    row("POST", "/detokenize", Family::LlamaServer, Kind::Tokenize),
    row("POST", "/apply-template", Family::LlamaServer, Kind::Tokenize),
    row("GET, HEAD", "/props", Family::LlamaServer, Kind::Info),
    row("GET, HEAD", "/v1/models", Family::OpenAi, Kind::List),
    row("GET, HEAD", "/models", Family::OpenAi, Kind::List),
    row("GET, HEAD", "/health", Family::LlamaServer, Kind::Health),
];

/// The route, or why there is none here.
pub fn find(server: ServerKind, method: &Method, path: &str) -> Result<Route, Failure> {
    let (own, other, speaks) = match server {
        ServerKind::Ollama => (OLLAMA, LLAMA_SERVER, "Ollama"),
        ServerKind::LlamaServer => (LLAMA_SERVER, OLLAMA, "llama-server"),
    };
    if let Some(row) = own.iter().find(|row| matches(row.path, path)) {
        return match row.methods.split(", ").any(|allowed| allowed == method.as_str()) {
            true => Ok(Route { family: row.family, kind: row.kind, owned_options: owns(server, row) }),
            false => Err(Failure::new(
                Fault::MethodNotAllowed(row.methods),
                format!("`{path}` takes {}, not {method}", row.methods),
            )),
        };
    }
    let unspoken = path.starts_with("/api/") || other.iter().any(|row| matches(row.path, path));
    let message = match (unspoken, server) {
        (true, ServerKind::LlamaServer) if path.starts_with("/api/") => {
            format!("`{path}` is Ollama's API; the server behind this gateway is {speaks}: ask it by `/v1` instead")
        }
        (true, ServerKind::LlamaServer) => format!("{speaks}, the server behind this gateway, has no `{path}`"),
        (true, ServerKind::Ollama) if !path.starts_with("/api/") => {
            format!(
                "`{path}` is llama-server's API; the server behind this gateway is {speaks}: ask it by `/v1` instead"
            )
        }
        (true, ServerKind::Ollama) | (false, _) => format!("`{path}` is not served by this gateway"),
    };
    Err(Failure::new(Fault::NotFound, message))
}

/// Whose form an answer has on a path, whether or not there is a route.
pub fn family(server: ServerKind, path: &str) -> Family {
    let known = |rows: &[Row]| rows.iter().find(|row| matches(row.path, path)).map(|row| row.family);
    let (own, other) = match server {
        ServerKind::Ollama => (OLLAMA, LLAMA_SERVER),
        ServerKind::LlamaServer => (LLAMA_SERVER, OLLAMA),
    };
    known(own).or_else(|| known(other)).unwrap_or(match path {
        _ if path.starts_with("/api/") => Family::Ollama,
        _ if path.starts_with("/v1/messages") => Family::Anthropic,
        _ if path.starts_with("/v1/") => Family::OpenAi,
        _ => match server {
            ServerKind::Ollama => Family::Ollama,
            ServerKind::LlamaServer => Family::LlamaServer,
        },
    })
}

fn owns(server: ServerKind, row: &Row) -> bool {
    server == ServerKind::Ollama
        && row.family == Family::Ollama
        && matches!(row.kind, Kind::Inference | Kind::Embedding)
}

fn matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix("{model}") {
        None => pattern == path,
        Some(prefix) => path.strip_prefix(prefix).is_some_and(is_one_segment),
    }
}

/// A name and no way to another path, in plain or in disguise.
fn is_one_segment(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    !lower.is_empty() && !["/", "\\", "..", "%2f", "%5c", "%2e"].iter().any(|trick| lower.contains(trick))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(server: ServerKind, method: Method, path: &str) -> Fault {
        find(server, &method, path).unwrap_err().fault
    }

    #[test]
    fn nothing_that_changes_the_server_is_reachable() {
        for path in ["/api/pull", "/api/push", "/api/create", "/api/delete", "/api/copy", "/api/blobs/sha256:0"] {
            assert_eq!(fault(ServerKind::Ollama, Method::POST, path), Fault::NotFound, "{path}");
            assert_eq!(fault(ServerKind::Ollama, Method::DELETE, path), Fault::NotFound, "{path}");
        }
        for path in ["/models/load", "/models/unload", "/slots/0", "/lora-adapters", "/tools", "/metrics", "/slots"] {
            assert_eq!(fault(ServerKind::LlamaServer, Method::POST, path), Fault::NotFound, "{path}");
        }
        for path in ["/models", "/v1/models", "/props"] {
            assert_eq!(
                fault(ServerKind::LlamaServer, Method::POST, path),
                Fault::MethodNotAllowed("GET, HEAD"),
                "{path}"
            );
        }
        assert_eq!(fault(ServerKind::Ollama, Method::DELETE, "/api/chat"), Fault::MethodNotAllowed("POST"));
    }

    #[test]
    fn a_path_in_disguise_is_no_route() {
        for path in ["/api//chat", "/api/../api/pull", "//api/chat", "/API/chat", "/api/chat/", "/v1/models/"] {
            assert_eq!(fault(ServerKind::Ollama, Method::POST, path), Fault::NotFound, "{path}");
        }
        for path in ["/v1/models/../../api/ps", "/v1/models/..", "/v1/models/a%2Fb", "/v1/models/%2e%2e"] {
            assert_eq!(fault(ServerKind::Ollama, Method::GET, path), Fault::NotFound, "{path}");
        }
        assert!(find(ServerKind::Ollama, &Method::GET, "/v1/models/qwen3%3A4b").is_ok());
    }

    #[test]
    fn a_family_that_the_server_does_not_speak_is_named() {
        let failure = find(ServerKind::LlamaServer, &Method::POST, "/api/chat").unwrap_err();
        assert_eq!(failure.fault, Fault::NotFound);
        assert!(failure.message.contains("llama-server"), "{failure}");
        assert_eq!(family(ServerKind::LlamaServer, "/api/chat"), Family::Ollama);
        let failure = find(ServerKind::Ollama, &Method::POST, "/completion").unwrap_err();
        assert!(failure.message.contains("Ollama"), "{failure}");
        assert_eq!(family(ServerKind::Ollama, "/completion"), Family::LlamaServer);
        assert_eq!(family(ServerKind::Ollama, "/v1/nope"), Family::OpenAi);
    }

    #[test]
    fn only_ollamas_native_routes_have_their_options_owned() {
        let owned = |server, path| find(server, &Method::POST, path).unwrap().owned_options;
        assert!(owned(ServerKind::Ollama, "/api/chat"));
        assert!(owned(ServerKind::Ollama, "/api/embed"));
        assert!(!owned(ServerKind::Ollama, "/api/show"));
        assert!(!owned(ServerKind::Ollama, "/v1/chat/completions"));
        assert!(!owned(ServerKind::LlamaServer, "/v1/chat/completions"));
    }
}
