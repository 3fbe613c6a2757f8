//! Names: what a client calls a model -> whether that is the rung that serves, or a model of its own.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::config::ServerKind;
use crate::policy::Rung;

/// The aliases, and the names of the ladder's rungs and models.
pub struct Names {
    server: ServerKind,
    ours: BTreeSet<String>,
    pub ladder: Vec<Arc<Rung>>,
}

impl Names {
    pub fn new(server: ServerKind, alias: &[String], ladder: Vec<Arc<Rung>>) -> Self {
        let rungs = ladder.iter().flat_map(|rung| [&rung.name, &rung.model]);
        let ours = alias.iter().chain(rungs).map(|name| canonical(server, name).into_owned()).collect();
        Names { server, ours, ladder }
    }

    pub fn are_ours(&self, name: &str) -> bool {
        self.ours.contains(canonical(self.server, name).as_ref())
    }
}

/// One writing for all the ways in which a server lets the same model be written. A way that is missed here would let
/// a reply run that nobody counts.
fn canonical(server: ServerKind, name: &str) -> Cow<'_, str> {
    match server {
        ServerKind::LlamaServer => Cow::Borrowed(name),
        ServerKind::Ollama => {
            let lower = name.to_ascii_lowercase();
            let rest = lower.strip_prefix("https://").or_else(|| lower.strip_prefix("http://")).unwrap_or(&lower);
            let rest = rest.strip_prefix("registry.ollama.ai/").unwrap_or(rest);
            let rest = rest.strip_prefix("library/").unwrap_or(rest);
            Cow::Owned(rest.strip_suffix(":latest").unwrap_or(rest).to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_ours_however_the_server_lets_it_be_written() {
        let rung = Rung { name: "large".into(), model: "qwen3:14b".into(), context: None };
        let tagless = Rung { name: "small".into(), model: "tiny".into(), context: None };
        let ladder = vec![Arc::new(rung), Arc::new(tagless)];
        let ollama = Names::new(ServerKind::Ollama, &["mai".into()], ladder.clone());
        for name in ["mai", "mai:latest", "large", "qwen3:14b", "Qwen3:14B", "library/qwen3:14b", "tiny:latest"]
            .into_iter()
            .chain(["registry.ollama.ai/library/tiny", "https://registry.ollama.ai/library/tiny", "HTTP://tiny:latest"])
        {
            assert!(ollama.are_ours(name), "{name}");
        }
        for name in ["qwen3", "qwen3:latest", "nomic-embed-text", "", "other/tiny"] {
            assert!(!ollama.are_ours(name), "{name}");
        }
        let llama = Names::new(ServerKind::LlamaServer, &["mai".into()], ladder);
        assert!(llama.are_ours("tiny") && !llama.are_ours("Tiny") && !llama.are_ours("tiny:latest"));
    }
}
