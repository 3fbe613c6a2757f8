//! Contexts: the contexts that a policy gives its rungs, and those that the server has -> where they differ, and what mends it.
//!
//! llama-server gives a model the context of its preset, whatever the policy says, and a rung that has another one is never
//! served. Ollama gives a model the policy's on its own routes, and on `/v1` the one that is the model's own.

use super::doctor::finding::Finding;
use crate::act::derived::Derived;
use crate::act::{Driver, Resident};
use crate::config::ServerKind;
use crate::decide::input::{ModelFacts, ServerFacts};
use crate::footprint::Sizing;
use crate::footprint::formula::Plan;
use crate::footprint::load::Cells;
use crate::policy::{Policy, Rung};
use crate::run::derived::conflict;

/// Whether models are made for rungs of Ollama.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deriving {
    On,
    Off,
}

pub(super) async fn findings(
    policy: &Policy,
    driver: &Driver,
    facts: &ServerFacts,
    deriving: Deriving,
) -> Vec<Finding> {
    let with: Vec<(&Rung, u32)> = policy.ladder.iter().filter_map(|rung| Some((&**rung, rung.context?))).collect();
    match driver.kind() {
        ServerKind::LlamaServer => {
            // What is loaded says it better than the command line of what is not.
            let residents = driver.residents().await.unwrap_or_default();
            let differ = with.iter().filter_map(|(rung, wanted)| of_llama_server(rung, *wanted, facts, &residents));
            let differ: Vec<Finding> = differ.collect();
            if differ.is_empty() && !with.is_empty() {
                return vec![Finding::fine("contexts", "those that the server has")];
            }
            differ
        }
        ServerKind::Ollama => {
            let mut found = Vec::new();
            for (rung, wanted) in with {
                found.extend(of_ollama(policy, driver, (rung, wanted), facts, deriving).await);
            }
            found
        }
    }
}

fn of_llama_server(rung: &Rung, wanted: u32, facts: &ServerFacts, residents: &[Resident]) -> Option<Finding> {
    let known = facts.models.get(&rung.model)?;
    let loaded = residents.iter().find(|resident| resident.model == rung.model).and_then(|resident| resident.context);
    let served = loaded.or_else(|| by_its_command_line(known))?;
    if Driver::serves_context(wanted, served) {
        return None;
    }
    let says = format!("its context is {wanted} in the policy and {served} at the server, so it cannot be served");
    let mend = format!(
        "in the file of llama-server's --models-preset: [{}] and below it: ctx-size = {}; no -c on its command line\n\
         or write `context: {served}` into the policy",
        rung.model,
        wanted.saturating_mul(plan(known).map_or(1, parts))
    );
    Some(Finding::wrong(&rung.name, says, mend))
}

fn plan(facts: &ModelFacts) -> Option<&Plan> {
    match &facts.sizing {
        Some(Sizing::Formula(plan)) => Some(plan),
        Some(Sizing::Files(_) | Sizing::Exact(_)) | None => None,
    }
}

/// What a conversation has of it.
fn by_its_command_line(facts: &ModelFacts) -> Option<u32> {
    let plan = plan(facts)?;
    Some(plan.load.context.tokens(plan.shape.context, plan.vram) / parts(plan))
}

/// How many conversations part what it is loaded with.
pub(super) fn parts(plan: &Plan) -> u32 {
    match plan.load.cells {
        Cells::Shared | Cells::Multiplied => 1,
        Cells::EachSlot => plan.load.slots.max(1),
    }
}

async fn of_ollama(
    policy: &Policy,
    driver: &Driver,
    (rung, wanted): (&Rung, u32),
    facts: &ServerFacts,
    deriving: Deriving,
) -> Option<Finding> {
    // A model that is not there is told of elsewhere.
    let known = facts.models.get(&driver.listed_name(&rung.model))?;
    let own = plan(known).map(|plan| plan.load.context.tokens(plan.shape.context, plan.vram));
    let name = &rung.name;
    if deriving == Deriving::On {
        if let Some(why) = conflict(driver, &policy.ladder, rung) {
            let mend = "give each rung a model of its own, or leave `context` out";
            return Some(Finding::better(name, format!("no model is made for it: {why}"), mend));
        }
        return match driver.derived(rung).await {
            Ok(Derived::Needless) => None,
            Ok(Derived::There(model)) => {
                Some(Finding::fine(name, format!("{model} serves it, with a context of {wanted} on every route")))
            }
            Ok(Derived::Missing(model)) => Some(Finding::better(
                name,
                format!("{model} is not there, so its own model is used; /v1 loads that with another context"),
                "start `tierkeeper run`, or have it `reload`: that makes it, or says why it cannot",
            )),
            Err(error) => Some(Finding::better(
                name,
                format!("whether a model was made for it is not known: {error}"),
                "see the server's log",
            )),
        };
    }
    if own == Some(wanted) {
        return None;
    }
    let own = own.map_or_else(|| "its default".to_owned(), |own| format!("its default of {own}"));
    let says =
        format!("its context of {wanted} holds on Ollama's own routes; a request on /v1 loads it anew with {own}");
    let mend = format!(
        "if your clients use /v1, write into the settings: ollama: {{ derive_models: true }}\n\
         or make the model yourself, and name it in the policy: \
         printf 'FROM {}\\nPARAMETER num_ctx {wanted}\\n' | ollama create {name}-{wanted} -f -",
        rung.model
    );
    Some(Finding::better(name, says, mend))
}
