//! Sides: a server -> its own address, and that of the program before it, which serves its larger model.

use tempfile::TempDir;
use tierkeeper::cli::demo::models;

use super::asked::{Case, Seen};
use super::fake_ollama::{FakeOllama, setup};
use super::llama::Llama;
use super::sidecar::{Plan, Sidecar};

/// A machine larger than the real one, so that nothing else that runs here matters.
const MACHINE_MIB: u64 = 64 << 10;
/// What is shown of a request and of its answers when these differ.
const SHOWN_MAX: usize = 3000;
/// What the larger model is called at the server.
pub(crate) const AT_SERVER: &str = "model-a";
/// What it may be called by those who ask the gateway.
pub(crate) const NAMES: [&str; 5] = ["mai", "auto", "large", "model-a", "model-b"];
/// Tokens that a generated model has no use for stand for the edges of a gap, so that it can be asked to fill one.
const TO_FILL_GAPS: &str = "override-kv = tokenizer.ggml.fim_pre_token_id=int:400,\
    tokenizer.ggml.fim_suf_token_id=int:401,tokenizer.ggml.fim_mid_token_id=int:402\n";
/// The context that both are loaded with, which is also what Ollama's `/v1` asks for by itself.
const CONTEXT: u32 = 2048;

/// Both ways to the same server.
pub(crate) struct Sides {
    pub(crate) server: String,
    pub(crate) sidecar: Sidecar,
    _llama: Option<(Llama, TempDir)>,
}

/// What is done with replies that run when their time is up: the second keeps what it has sent of each.
pub(crate) const AT_DEADLINE: [&str; 2] = ["[wait]", "[hand_over, wait]"];

fn plan(server: String, kind: &'static str, at_deadline: &str) -> Plan {
    plan_with(CONTEXT, server, kind, at_deadline)
}

fn plan_with(context: u32, server: String, kind: &'static str, at_deadline: &str) -> Plan {
    let rung = |name: &str, model: &str| format!("  - {{ name: {name}, model: {model}, context: {context} }}\n");
    let policy = format!(
        "version: 1\nat_deadline: {at_deadline}\nladder:\n{}{}",
        rung("large", AT_SERVER),
        rung("small", "model-b")
    );
    Plan { server, kind: Some(kind), policy: Some(policy), pretend_mib: Some(MACHINE_MIB), ..Plan::default() }
}

pub(crate) async fn before_llama_server(at_deadline: &str) -> Sides {
    program_before_llama_server(llama_server(), at_deadline).await
}

pub(crate) async fn program_before_llama_server(server: (Llama, TempDir), at_deadline: &str) -> Sides {
    let sidecar = Sidecar::start(&plan(server.0.url(), "llama-server", at_deadline));
    sidecar.until_serves("large").await;
    Sides { server: server.0.url(), sidecar, _llama: Some(server) }
}

/// The real one, with one place for a reply, so that two who ask for the same find the same there. Beside the models of
/// the ladder it has one that only embeds and one that only ranks.
pub(crate) fn llama_server() -> (Llama, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let mut presets = String::from("version = 1\n");
    for (seed, (name, started_for)) in (1..).zip([
        (AT_SERVER, TO_FILL_GAPS),
        ("model-b", ""),
        ("embeds", "embeddings = true\npooling = mean\n"),
        ("ranks", "reranking = true\n"),
    ]) {
        let tiny =
            models::Shape { layers: 2, embedding: 256, heads: 4, kv_heads: 4, feed_forward: 512, context: 4096, seed };
        let file = at(&format!("{name}.gguf"));
        models::write(file.as_ref(), &tiny).unwrap();
        presets += &format!("\n[{name}]\nmodel = {file}\n{started_for}");
    }
    std::fs::write(at("presets.ini"), presets).unwrap();
    let context = CONTEXT.to_string();
    let fixed = ["-c", &context, "-np", "1", "--cache-ram", "64", "--models-max", "4", "--models-preset"];
    let server = Llama::start(&[&fixed[..], &[&at("presets.ini")]].concat());
    (server, folder)
}

pub(crate) async fn before_ollama() -> (Sides, FakeOllama) {
    let server = ollama().await;
    (program_before_ollama(&server, plan(server.url(""), "ollama", AT_DEADLINE[1])).await, server)
}

/// With rungs whose context is not their models' own, and which have models made for them.
pub(crate) async fn before_ollama_with_derived_models() -> (Sides, FakeOllama) {
    let server = ollama().await;
    let plan = plan_with(CONTEXT / 2, server.url(""), "ollama", AT_DEADLINE[1]);
    (program_before_ollama(&server, Plan { derive_models: true, ..plan }).await, server)
}

async fn ollama() -> FakeOllama {
    let size = |gib: u64| gib << 30;
    let model = |name: &str, size| setup::Model { size, reply_tokens: 8, ..setup::Model::new(name) };
    let models = vec![model(AT_SERVER, size(38)), model("model-b", size(30))];
    FakeOllama::start(setup::Config::new(models)).await
}

async fn program_before_ollama(server: &FakeOllama, plan: Plan) -> Sides {
    let sidecar = Sidecar::start(&plan);
    sidecar.until_serves("large").await;
    Sides { server: server.url(""), sidecar, _llama: None }
}

impl Sides {
    pub(crate) async fn straight(&self, case: &Case) -> Seen {
        case.ask(&self.server, AT_SERVER).await
    }

    /// Each case calls the model by another of its names.
    pub(crate) async fn through(&self, case: &Case, number: usize) -> Seen {
        case.ask(&self.sidecar.gateway, NAMES[number % NAMES.len()]).await
    }

    /// How many went well; that all are the same both ways has been asserted then.
    pub(crate) async fn agree_on(&self, cases: &[Case]) -> usize {
        let (mut went_well, mut differ) = (0, Vec::new());
        for (number, case) in cases.iter().enumerate() {
            // What the server keeps of a prompt is then the same for both.
            self.straight(case).await;
            let straight = self.straight(case).await.lasting();
            let through = self.through(case, number).await.lasting();
            went_well += usize::from(straight.status == 200);
            if straight != through {
                let [case, straight, through] =
                    [format!("{case:?}"), format!("{straight:?}"), format!("{through:?}")].map(|text| shortened(&text));
                differ.push(format!("{case}\nstraight: {straight}\nthrough:  {through}"));
            }
        }
        assert!(differ.is_empty(), "{} of {} differ:\n{}", differ.len(), cases.len(), differ.join("\n\n"));
        went_well
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(SHOWN_MAX).collect()
}
