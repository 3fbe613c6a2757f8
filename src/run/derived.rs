//! Derived: a policy -> the same, with each rung served by a model that has its context as its own, where that is wanted.
//!
//! Clients go on asking by the names of the policy. Two rungs of one model are one process in Ollama, whatever they are
//! called there, so those keep it. Whatever cannot be made is told, and the rung keeps its own model.

use std::sync::Arc;

use crate::act::Driver;
use crate::config::{Config, ServerKind};
use crate::gateway::Gateway;
use crate::policy::{Policy, Rung};

/// A policy as the server is asked for it.
#[derive(Clone, Debug)]
pub struct Served {
    pub policy: Policy,
    /// The same as its file has it.
    pub written: Policy,
    /// The models that others stand in for, as the policy writes them: names that clients may ask for.
    pub bases: Vec<String>,
}

/// Makes what is wanted and not there.
pub async fn served(config: &Config, driver: &Driver, policy: Policy) -> Served {
    let mut served = Served { written: policy.clone(), policy, bases: Vec::new() };
    if !is_wanted(config, driver.kind()) {
        return served;
    }
    let ladder = served.policy.ladder.clone();
    for (at, rung) in ladder.iter().enumerate() {
        match derive(driver, &ladder, rung).await {
            Ok(Some(model)) => {
                tracing::info!(message = "A rung is served by a model of its own.", rung = %rung.name, %model, context = rung.context);
                served.bases.push(rung.model.clone());
                served.policy.ladder[at] = Arc::new(Rung { model, ..(**rung).clone() });
            }
            Ok(None) => {}
            Err(why) => tracing::warn!(
                message = "No model is made for a rung; its own is used, which /v1 loads with another context.",
                rung = %rung.name, %why
            ),
        }
    }
    served
}

impl Served {
    /// The gateway goes by it from now on.
    pub fn follow(&self, gateway: &Gateway, config: &Config) {
        gateway.also_called(self.bases.clone());
        gateway.follow(&self.policy, super::passed_on(config, &self.policy));
    }
}

fn is_wanted(config: &Config, kind: ServerKind) -> bool {
    if config.ollama.derive_models && kind == ServerKind::LlamaServer {
        tracing::warn!(
            message =
                "`ollama.derive_models` is for Ollama, and a llama-server is driven: contexts come from its preset."
        );
    }
    // In a dry run nothing is touched.
    config.ollama.derive_models && kind == ServerKind::Ollama && !config.observe
}

async fn derive(driver: &Driver, ladder: &[Arc<Rung>], rung: &Rung) -> Result<Option<String>, String> {
    if rung.context.is_none() {
        return Ok(None);
    }
    if let Some(why) = conflict(driver, ladder, rung) {
        return Err(why);
    }
    driver.derive(rung).await.map_err(|error| error.to_string())
}

/// Why this rung must keep its own model, whatever the server says.
pub fn conflict(driver: &Driver, ladder: &[Arc<Rung>], rung: &Rung) -> Option<String> {
    let others = || ladder.iter().filter(|other| other.name != rung.name);
    let model = driver.listed_name(&rung.model);
    if others().any(|other| driver.listed_name(&other.model) == model) {
        return Some(format!("`{}` is the model of two rungs, and Ollama holds it only once", rung.model));
    }
    let name = crate::act::derived::name(&rung.name);
    let taken = others().any(|other| crate::act::derived::name(&other.name) == name);
    taken.then(|| "another rung's model would be called the same".to_owned())
}
