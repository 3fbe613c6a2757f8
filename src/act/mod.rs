//! Act: commands for the model server -> its HTTP API -> what became of them.
//!
//! An answer of success is never proof: a load is done when the server's own list shows the model with its context, an
//! unload when the list no longer shows it. Nothing here decides anything; whoever calls it holds the deadlines of
//! loads, and dropping a load gives it up.

mod arguments;
pub mod changes;
pub mod cpu;
pub mod derived;
pub mod error;
mod files;
pub mod find;
mod heads;
mod http;
mod insist;
mod key;
mod listing;
pub mod llama_server;
pub mod marks;
mod names;
pub mod ollama;
pub mod probe;

use std::path::Path;

use self::changes::Changes;
use self::derived::Derived;
use self::error::ActError;
use self::llama_server::LlamaServer;
use self::ollama::Ollama;
use crate::config::ServerKind;
use crate::decide::input::{Placed, ServerFacts};
use crate::footprint::cpu::Cpu;
use crate::policy::Rung;

/// The server that is driven: one set of methods, and a file for what each server makes of them.
#[derive(Debug)]
pub enum Driver {
    Ollama(Ollama),
    LlamaServer(LlamaServer),
}

/// A model as the server lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resident {
    pub model: String,
    pub state: ResidentState,
    /// The context it was loaded with, in tokens, where the server tells.
    pub context: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResidentState {
    Loading,
    Loaded,
}

/// What a look at a rung that we hold has shown, and what was done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is held as it was asked for.
    AsAsked,
    /// Somebody had shortened its stay; it is held for ever again.
    Again,
    /// Somebody has had it loaded with another context. Its stay is for ever again; its context is left, for putting it
    /// back would load the model once more for every such request.
    OtherContext { served: u32 },
    /// It is not there.
    NotListed,
}

/// A model that the server has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    pub model: String,
    /// Why it can be no rung.
    pub unfit: Option<&'static str>,
    /// Its file, and that of its projector, where the server names them.
    pub file: Option<String>,
    pub projector: Option<String>,
}

impl Driver {
    /// The server there, which computes with the CPU of this machine.
    pub fn new(kind: ServerKind, url: &str) -> Result<Self, ActError> {
        Driver::on(kind, url, cpu::read(Path::new(cpu::CPUINFO)))
    }

    pub fn on(kind: ServerKind, url: &str, cpu: Cpu) -> Result<Self, ActError> {
        Ok(match kind {
            ServerKind::Ollama => Driver::Ollama(Ollama::new(url, cpu)?),
            ServerKind::LlamaServer => Driver::LlamaServer(LlamaServer::new(url, cpu)?),
        })
    }

    pub fn kind(&self) -> ServerKind {
        match self {
            Driver::Ollama(_) => ServerKind::Ollama,
            Driver::LlamaServer(_) => ServerKind::LlamaServer,
        }
    }

    pub fn url(&self) -> &str {
        match self {
            Driver::Ollama(server) => server.url(),
            Driver::LlamaServer(server) => server.url(),
        }
    }

    /// The name under which the server lists a model that people call `model`.
    pub fn listed_name(&self, model: &str) -> String {
        match self {
            Driver::Ollama(_) => names::listed_name(model),
            Driver::LlamaServer(_) => model.to_owned(),
        }
    }

    /// Whether a model of llama-server that was to have this context and has that one is as it was to be.
    pub fn serves_context(wanted: u32, served: u32) -> bool {
        llama_server::serves(wanted, served)
    }

    /// What is known of the server: its version, its models and how many it can hold. Embedding models are left out.
    pub async fn facts(&self) -> Result<ServerFacts, ActError> {
        match self {
            Driver::Ollama(server) => server.facts().await,
            Driver::LlamaServer(server) => server.facts().await,
        }
    }

    /// All of its models, also those that can be no rung.
    pub async fn offers(&self) -> Result<Vec<Offer>, ActError> {
        match self {
            Driver::Ollama(server) => server.offers().await,
            Driver::LlamaServer(server) => server.offers().await,
        }
    }

    /// What it lists as loaded or loading. `Silent` means that this is not known now, not that the server is down.
    pub async fn residents(&self) -> Result<Vec<Resident>, ActError> {
        match self {
            Driver::Ollama(server) => server.residents().await,
            Driver::LlamaServer(server) => server.residents().await,
        }
    }

    /// By what serves a rung that is to have its context on every route, as far as it is there. Nothing is changed.
    pub async fn derived(&self, rung: &Rung) -> Result<Derived, ActError> {
        match self {
            Driver::Ollama(server) => server.derived(rung).await,
            // A model has the context of its preset, whoever asks.
            Driver::LlamaServer(_) => Ok(Derived::Needless),
        }
    }

    /// Makes that model where it is not there, and names it; `None` where the rung's own model does.
    pub async fn derive(&self, rung: &Rung) -> Result<Option<String>, ActError> {
        match self {
            Driver::Ollama(server) => server.derive(rung).await,
            Driver::LlamaServer(_) => Ok(None),
        }
    }

    /// Loads the rung and keeps it; done when the server's list shows it with its context. Says where it is, by the
    /// server's word, if it has one. It waits without end: the caller drops it to give the load up, and then calls
    /// `unload`, which finds what came up all the same.
    pub async fn load(&self, rung: &Rung) -> Result<Option<Placed>, ActError> {
        match self {
            Driver::Ollama(server) => server.load(rung).await,
            // It says so only in its log.
            Driver::LlamaServer(server) => server.load(rung).await.map(|()| None),
        }
    }

    /// Unloads the rung; done when the server's list no longer shows it.
    pub async fn unload(&self, rung: &Rung) -> Result<(), ActError> {
        match self {
            Driver::Ollama(server) => server.unload(rung).await,
            Driver::LlamaServer(server) => server.unload(rung).await,
        }
    }

    /// Asks the rung for one token, and for the context that it serves.
    pub async fn check(&self, rung: &Rung) -> Result<(), ActError> {
        match self {
            Driver::Ollama(server) => server.check(rung).await,
            Driver::LlamaServer(server) => server.check(rung).await,
        }
    }

    /// Looks whether the rung is still held as it was loaded, and puts its stay right if not.
    pub async fn keep(&self, rung: &Rung) -> Result<Kept, ActError> {
        match self {
            Driver::Ollama(server) => server.keep(rung).await,
            Driver::LlamaServer(server) => server.keep(rung).await,
        }
    }

    /// Gives the rung back to the server's own care.
    pub async fn release(&self, rung: &Rung) -> Result<(), ActError> {
        match self {
            Driver::Ollama(server) => server.release(rung).await,
            // Nothing was changed that would have to be put back: it has no keep-alive.
            Driver::LlamaServer(_) => Ok(()),
        }
    }

    /// The server's name and version, cheaply: whether it is there at all.
    pub async fn alive(&self) -> Result<String, ActError> {
        match self {
            Driver::Ollama(server) => server.version().await,
            Driver::LlamaServer(server) => server.version().await,
        }
    }

    /// What the server tells by itself of loads, unloads and crashes. Ollama tells nothing.
    pub fn changes(&self) -> Changes {
        match self {
            Driver::Ollama(_) => Changes::silent(),
            Driver::LlamaServer(server) => server.changes(),
        }
    }
}
