//! Rig: two models on the real llama-server -> a gateway before it that is driven by hand.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tierkeeper::act::Driver;
use tierkeeper::cli::demo::models;
use tierkeeper::config::{GatewayConfig, ServerKind};
use tierkeeper::gateway::{Event, Gateway, Server};
use tierkeeper::policy::{Policy, Rung};
use tierkeeper::units::Span;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::time::{sleep, timeout};

use super::llama::Llama;

pub const SOON: Duration = Duration::from_secs(30);
pub const SMALL: models::Shape =
    models::Shape { layers: 2, embedding: 256, heads: 4, kv_heads: 4, feed_forward: 512, context: 8192, seed: 1 };
pub const LARGE: models::Shape =
    models::Shape { layers: 6, embedding: 768, heads: 12, kv_heads: 12, feed_forward: 2048, context: 8192, seed: 2 };

/// The server with a large and a small model, and a gateway before it that is driven by hand.
pub struct Rig {
    pub url: String,
    driver: Driver,
    pub gateway: Gateway,
    pub address: SocketAddr,
    events: UnboundedReceiver<Event>,
    pub client: reqwest::Client,
    _server: Llama,
    models: TempDir,
}

pub fn rung(name: &str) -> Arc<Rung> {
    Arc::new(Rung { name: name.to_owned(), model: name.to_owned(), context: None })
}

impl Rig {
    pub async fn new() -> Self {
        Rig::with(LARGE, &["-c", "2048"], |_| {}).await
    }

    /// With this large model, these arguments of the server's, and what is done to the folder of models before it starts.
    pub async fn with(large: models::Shape, arguments: &[&str], prepare: impl FnOnce(&Path)) -> Self {
        let models = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        for (name, shape) in [("small", SMALL), ("large", large)] {
            models::write(&models.path().join(format!("{name}.gguf")), &shape).unwrap();
        }
        prepare(models.path());
        let folder = models.path().to_str().unwrap();
        // A prompt of which the server has a part already is computed in other steps, and so with other roundings. To say it
        // in the request is not enough: on `/v1/messages` the server does not read it.
        let always = ["--no-cache-prompt", "--cache-ram", "0", "--models-max", "2", "--models-dir", folder];
        let server = Llama::start(&[&always, arguments].concat());
        let url = server.url();
        let driver = Driver::new(ServerKind::LlamaServer, &url).unwrap();
        timeout(SOON, async {
            while driver.alive().await.is_err() {
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .expect("the router did not come up");
        let config = GatewayConfig { listen: ([127, 0, 0, 1], 0).into(), ..GatewayConfig::default() };
        let (told, events) = mpsc::unbounded_channel();
        let gateway = Gateway::new(&config, Server { kind: ServerKind::LlamaServer, url: url.clone() }, told).unwrap();
        let rungs = ["large", "small"].map(|name| (*rung(name)).clone());
        let policy = Policy::for_ladder(rungs.to_vec()).unwrap();
        gateway.follow(&policy, policy.ladder.clone());
        gateway.assessed();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(gateway.clone().serve(listener, std::future::pending(), Span::seconds(1)));
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Rig { url, driver, gateway, address, events, client, _server: server, models }
    }

    /// The folder of the models.
    pub fn models(&self) -> String {
        self.models.path().display().to_string()
    }

    pub async fn load(&self, name: &str) {
        timeout(SOON, self.driver.load(&rung(name))).await.unwrap().unwrap();
        self.driver.check(&rung(name)).await.unwrap();
    }

    pub async fn unload(&self, name: &str) {
        timeout(SOON, self.driver.unload(&rung(name))).await.unwrap().unwrap();
    }

    /// Until a model works on nothing: the server computes replies of which it knows nobody reads any more for a little
    /// while, and what it computes in one go has other roundings, which temperature 0 may show.
    pub async fn idle(&self, model: &str) {
        let url = format!("{}/slots?model={model}&autoload=false", self.url);
        timeout(SOON, async {
            loop {
                let slots: Value = self.client.get(&url).send().await.unwrap().json().await.unwrap();
                if slots.as_array().unwrap().iter().all(|slot| slot["is_processing"] == false) {
                    break;
                }
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .expect("it still works on something");
    }

    /// What a model says by itself.
    pub async fn direct(&self, path: &str, request: &Value, model: &str) -> Value {
        let mut request = request.clone();
        (request["model"], request["stream"]) = (json!(model), json!(false));
        let answer =
            self.client.post(format!("{}{path}?autoload=false", self.url)).json(&request).send().await.unwrap();
        answer.json().await.unwrap()
    }

    pub async fn event(&mut self) -> Event {
        loop {
            let event = timeout(SOON, self.events.recv()).await.expect("an event").unwrap();
            if !matches!(event, Event::Wanted | Event::Replied { .. }) {
                return event;
            }
        }
    }

    /// The hand-over's outcome; that nothing is left at the large rung comes with it.
    pub async fn handed_over(&mut self) -> (u32, u32) {
        let (mut drained, mut outcome) = (false, None);
        while !drained || outcome.is_none() {
            match self.event().await {
                Event::Drained { rung, .. } => drained |= rung == "large",
                Event::HandedOver { rung, moved, left } if rung == "large" => outcome = Some((moved, left)),
                other @ (Event::Wanted
                | Event::Replied { .. }
                | Event::HandedOver { .. }
                | Event::HandOverFailed { .. }
                | Event::UpstreamFailed { .. }) => panic!("{other:?}"),
            }
        }
        outcome.unwrap()
    }

    pub fn small_serves(&self) {
        self.gateway.publish(rung("small"));
        self.gateway.close("large");
    }
}
