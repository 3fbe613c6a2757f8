//! Listing: the router's list of its models -> the state, the context and the size of each.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::arguments::Arguments;
use super::files::{Found, found};
use super::heads;
use crate::footprint::Sizing;
use crate::footprint::cpu::Cpu;
use crate::footprint::purpose::Purpose;
use crate::units::Bytes;

#[derive(Debug, Deserialize)]
pub(super) struct Listing {
    pub(super) data: Vec<Model>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Model {
    pub(super) id: String,
    pub(super) status: Status,
    /// Only of a model that is loaded.
    #[serde(default)]
    meta: Option<Meta>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Status {
    pub(super) value: State,
    /// The command line of the process that has or would have the model.
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    pub(super) exit_code: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    Unloaded,
    Loading,
    Loaded,
    /// Its process is there and gave its memory back; the next request wakes it.
    Sleeping,
    /// A state of a newer version, such as a download.
    #[serde(other)]
    Other,
}

#[derive(Debug, Deserialize)]
pub(super) struct Meta {
    #[serde(default)]
    n_ctx: u32,
    #[serde(default)]
    size: u64,
}

/// The other models that it holds, or is about to.
pub(super) fn held_beside(listed: &[Model], model: &str) -> BTreeSet<String> {
    let held = listed.iter().filter(|other| other.id != model && other.status.value != State::Unloaded);
    held.map(|other| other.id.clone()).collect()
}

impl Model {
    pub(super) fn context(&self) -> Option<u32> {
        self.meta.as_ref().map(|meta| meta.n_ctx).filter(|tokens| *tokens > 0)
    }

    /// Whether nothing was wrong with it when it went.
    pub(super) fn went_in_order(&self) -> bool {
        self.status.value == State::Unloaded && self.status.exit_code.unwrap_or_default() == 0
    }

    pub(super) fn arguments(&self) -> Arguments<'_> {
        Arguments(&self.status.args)
    }

    /// By its metadata where its files are on this machine, else by the size of its files, or what it says of itself when
    /// it is loaded.
    pub(super) async fn sizing(&self, cpu: Cpu) -> (Option<Sizing>, Purpose) {
        let says = self.meta.as_ref().map(|meta| Bytes(meta.size)).filter(|size| size.0 > 0).map(Sizing::Files);
        let told = if self.arguments().embeds() { Purpose::Embedding } else { Purpose::Conversation };
        let Some(path) = self.arguments().model().map(str::to_owned) else { return (says, told) };
        let beside: Vec<String> = self.arguments().beside().into_iter().map(str::to_owned).collect();
        let (id, load) = (self.id.clone(), self.arguments().load());
        let looked = tokio::task::spawn_blocking(move || found((&id, cpu), &path, &beside, load)).await;
        match looked.expect("reading a model's head does not panic") {
            Found::Sizing(sizing, Purpose::Conversation) => (Some(sizing), told),
            Found::Sizing(sizing, purpose) => (Some(sizing), purpose),
            Found::NotHere => (says, told),
            Found::Unknown => (None, told),
        }
    }

    /// All files that it is read from, as the server names them.
    pub(super) fn files(&self) -> Option<Vec<String>> {
        let mut files = heads::parts(self.arguments().model()?);
        files.extend(self.arguments().beside().into_iter().map(str::to_owned));
        Some(files)
    }
}
