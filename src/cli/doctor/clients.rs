//! Clients: the gateway's settings, and what a running sidecar says -> where clients ask, and whether all of them do.

use super::finding::Finding;
use crate::admin::status::StatusReport;
use crate::config::{Config, ServerKind};
use crate::run::unseen;

pub fn findings(config: &Config, kind: ServerKind, status: Option<&StatusReport>) -> Vec<Finding> {
    let address = format!("http://{}", config.gateway.listen);
    if config.gateway_off {
        let mend = format!("take `gateway: off` out of the config, and point clients at {address}");
        return vec![Finding::better("gateway", unseen::said(kind), mend)];
    }
    let round = status.and_then(|status| status.counters.get("went_round").copied());
    let names = config.gateway.alias.join(", ");
    let gateway = match status {
        Some(_) => Finding::fine("gateway", format!("{address}, for models called {names}")),
        None => Finding::absent("gateway", format!("no sidecar runs; clients will ask at {address}")),
    };
    let clients = round.map(|round| match round {
        0 => Finding::fine("clients", "none was seen to use the server past the gateway"),
        round => {
            let says = format!("the server was seen to be used past the gateway, {round} times since the start");
            Finding::better("clients", says, private(kind, &address))
        }
    });
    [gateway].into_iter().chain(clients).collect()
}

fn private(kind: ServerKind, address: &str) -> String {
    let (server, variable) = match kind {
        ServerKind::Ollama => ("OLLAMA_HOST=127.0.0.1:11500 ollama serve", format!("OLLAMA_HOST={address}")),
        ServerKind::LlamaServer => {
            ("llama-server --host 127.0.0.1 --port 8090", format!("OPENAI_BASE_URL={address}/v1"))
        }
    };
    format!("point them at the gateway: {variable}\nor make the server private: {server}")
}

#[cfg(test)]
mod tests {
    use super::super::finding::Mark;
    use super::*;
    use crate::config::load::{Sources, load};

    fn config(variable: Option<&str>) -> Config {
        let environment = variable.map(|value| ("TIERKEEPER_GATEWAY".to_owned(), value.to_owned()));
        load(Sources { environment: environment.into_iter().collect(), ..Sources::default() }).unwrap().config
    }

    fn status(round: u64) -> StatusReport {
        let mut status = crate::admin::status::tests::report();
        status.counters.insert("went_round".to_owned(), round);
        status
    }

    #[test]
    fn clients_that_go_round_are_mended_by_an_address() {
        let found = |round| findings(&config(None), ServerKind::Ollama, Some(&status(round)));
        assert_eq!(found(0)[1].mark, Mark::Fine);
        let round = &found(3)[1];
        assert_eq!(round.mark, Mark::Better);
        assert!(
            round.says.contains("3 times") && round.mend.as_ref().unwrap().contains("127.0.0.1:11435"),
            "{round:?}"
        );
        assert_eq!(findings(&config(None), ServerKind::Ollama, None).len(), 1, "nobody has looked");
    }

    #[test]
    fn without_a_gateway_it_says_what_is_weaker() {
        for kind in [ServerKind::Ollama, ServerKind::LlamaServer] {
            let found = findings(&config(Some("off")), kind, None);
            assert_eq!((found.len(), found[0].mark), (1, Mark::Better));
            assert!(found[0].says.contains("No request waits"), "{found:?}");
        }
    }
}
