//! Compose: what stands in compose/ -> settings, a policy and a persona that tierkeeper takes, as the containers see them.
//!
//! Whether compose takes the files is checked by tests/compose.sh.
#![cfg(feature = "shell")]

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_yaml::Value;
use tierkeeper::config::ServerKind;
use tierkeeper::config::load::{Loaded, Sources, load};
use tierkeeper::config::webhooks::WebhookFormat;
use tierkeeper::policy::parse::parse;
use tierkeeper::tell::Teller;
use tierkeeper::tell::persona::Persona;
use tierkeeper::units::Span;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("compose")
}

fn text(name: &str) -> String {
    fs::read_to_string(folder().join(name)).expect("the file is in the repository")
}

/// Our service in this compose file.
fn service(name: &str) -> Value {
    let file: Value = serde_yaml::from_str(&text(name)).expect("a compose file is YAML");
    file["services"]["tierkeeper"].clone()
}

/// The variables that it gives us, as they are when the shell sets none.
fn environment(name: &str) -> Vec<(String, String)> {
    let variables = service(name)["environment"].clone();
    let each = variables.as_mapping().expect("a mapping").iter().map(|(name, value)| {
        let value = value.as_str().expect("text");
        let default = value.strip_prefix("${").and_then(|value| value.split_once(":-")?.1.strip_suffix('}'));
        (name.as_str().expect("text").to_owned(), default.unwrap_or(value).to_owned())
    });
    each.collect()
}

fn loaded(environment: Vec<(String, String)>) -> Loaded {
    let explicit = Some(folder().join("config/tierkeeper.yaml"));
    load(Sources { explicit, environment, ..Sources::default() }).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn the_settings_are_those_that_the_compose_file_counts_on() {
    let config = loaded(environment("ollama.yaml")).config;
    assert_eq!(config.server.url.as_deref(), Some("http://ollama:11434"));
    assert_eq!(config.server.kind, Some(ServerKind::Ollama));
    assert_eq!(config.gateway.listen, SocketAddr::from(([0, 0, 0, 0], 11434)));
    assert!(config.gateway.trusted_network);
    assert!(config.admin.listen.ip().is_loopback());
    assert_eq!(config.admin.listen.port(), 11436);
    assert!(config.tell.webhooks.is_empty());
    // Compose kills us after 75 s.
    assert!(config.stop_grace < Span::seconds(75));
    assert_eq!(service("ollama.yaml")["stop_grace_period"].as_str(), Some("75s"));
}

#[test]
fn the_policy_beside_the_settings_is_valid() {
    let path = loaded(environment("ollama.yaml")).config.policy.expect("the settings name a policy");
    assert_eq!(path, folder().join("config/policy.yaml"));
    let policy = parse(&text("config/policy.yaml"), "policy.yaml").unwrap_or_else(|wrong| panic!("{wrong}"));
    assert_eq!(policy.ladder.len(), 3);
    assert_eq!(policy.tests.len(), 1);
}

#[test]
fn what_was_learned_is_kept_in_a_volume_that_our_user_may_write() {
    let store = loaded(environment("ollama.yaml")).config.store.expect("the settings say where");
    let folder = store.parent().expect("a folder").display().to_string();
    let file: Value = serde_yaml::from_str(&text("ollama.yaml")).expect("a compose file is YAML");
    let mounts = service("ollama.yaml")["volumes"].clone();
    let mounted = |mount: &Value| mount.as_str()?.strip_suffix(&format!(":{folder}")).map(str::to_owned);
    let volume =
        mounts.as_sequence().expect("a list").iter().find_map(mounted).expect("it is mounted, and not read-only");
    assert!(file["volumes"].get(&volume).is_some(), "a volume of this name");
    let made = text("Dockerfile").lines().position(|line| line == format!("RUN install -d -o 65532 -g 65532 {folder}"));
    let user = text("Dockerfile").lines().position(|line| line == "USER 65532:65532");
    assert!(made.is_some() && made < user, "made by root, for our user");
}

#[test]
fn the_persona_is_one_that_the_image_carries() {
    let path = loaded(environment("ollama.yaml")).config.tell.persona.expect("the compose file names a persona");
    let carried = path.strip_prefix("/usr/share/tierkeeper/personas").expect("in the image's folder");
    assert!(text("Dockerfile").contains("/src/config/personas /usr/share/tierkeeper/personas"));
    let persona = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/personas").join(carried);
    assert_eq!(Persona::load(Some(&persona)).unwrap_or_else(|error| panic!("{error}")).name, "Mai");
}

#[tokio::test]
async fn the_webhook_file_gives_us_a_webhook_whose_url_is_a_secret() {
    let secrets = tempfile::tempdir().expect("a folder");
    let url = secrets.path().join("webhook_url");
    fs::write(&url, "https://discord.com/api/webhooks/1/s3cr3t\n").expect("a file");
    let environment = environment("webhook.yaml").into_iter();
    let here = |value: String| value.replace("/run/secrets/webhook_url", &url.display().to_string());
    let config = loaded(environment.map(|(name, value)| (name, here(value))).collect()).config;
    assert_eq!(config.tell.webhooks.len(), 1);
    assert_eq!(config.tell.webhooks[0].format, WebhookFormat::Discord);
    assert!(!format!("{config:?}").contains("s3cr3t"));
    let teller = Teller::new(&config.tell, Persona::plain()).expect("a webhook that may be called");
    teller.flush(Span::seconds(1)).await;
}
