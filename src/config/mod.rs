//! Config: files, environment and flags -> `Config`, the settings of every room.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use self::webhooks::WebhookConfig;
use crate::units::{Bytes, Permille, Span};

pub mod load;
pub mod settings;
pub mod webhooks;
mod address;
mod layers;
mod rules;
#[cfg(test)]
mod tests;

/// Which server is driven. Each speaks an API of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServerKind {
    Ollama,
    LlamaServer,
}

/// Everything that is set from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub server: ServerConfig,
    pub ollama: OllamaConfig,
    pub gateway: GatewayConfig,
    /// Clients ask the server itself; it is only driven.
    pub gateway_off: bool,
    pub admin: AdminConfig,
    /// The policy file; without one a ladder is made of what the server has.
    pub policy: Option<PathBuf>,
    pub tell: TellConfig,
    pub sampling: SamplingConfig,
    /// The file of what was learned; where the system wants such files when absent.
    pub store: Option<PathBuf>,
    pub pretend: Option<Pretend>,
    /// A dry run: decide and tell, and touch nothing.
    pub observe: bool,
    /// How long replies in flight may take to finish when we are asked to stop.
    pub stop_grace: Span,
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ServerConfig {
    /// Where it listens; looked for on this machine when absent.
    pub url: Option<String>,
    /// What it is; asked of the server when absent.
    pub kind: Option<ServerKind>,
}

/// What is done with an Ollama that is done with no other server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct OllamaConfig {
    /// Whether a rung with a context gets a model of its own that has it by itself, so that it holds on every route.
    pub derive_models: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayConfig {
    pub listen: SocketAddr,
    /// The names under which clients ask for whatever rung serves.
    pub alias: Vec<String>,
    /// Whether everybody who can reach the listener may call it (a compose network); needed beyond loopback when there
    /// is no token.
    pub trusted_network: bool,
    /// A file whose first line callers must send as bearer token.
    pub token_file: Option<PathBuf>,
    /// Host names accepted beside the loopback ones.
    pub hosts: Vec<String>,
    pub hold: HoldConfig,
    /// The largest request body.
    pub body_max: Bytes,
    pub in_band: InBand,
}

/// What is said in answers themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InBand {
    /// The last message, in a header of every reply while it is true.
    pub header: bool,
    /// A chat reply in the persona's words while nothing fits.
    pub asleep: bool,
}

/// Bounds on requests that wait for a switch to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldConfig {
    pub count_max: u32,
    pub bytes_max: Bytes,
    pub age_max: Span,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminConfig {
    pub listen: SocketAddr,
    pub token_file: Option<PathBuf>,
    pub hosts: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct TellConfig {
    /// The persona file; the plain built-in one when absent.
    pub persona: Option<PathBuf>,
    /// Whether it is told too when a better model serves again.
    pub upgrades: bool,
    pub quiet_hours: Option<QuietHours>,
    pub privacy: Privacy,
    pub webhooks: Vec<WebhookConfig>,
    pub experiments: ExperimentConfig,
}

/// When nobody is to be disturbed, in minutes of the local day. `from` may be after `to`: a night.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuietHours {
    pub from: u16,
    pub to: u16,
}

/// What messages may say of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Privacy {
    /// Which programs are large, by their names.
    #[default]
    ProgramNames,
    NoProgramNames,
}

/// How it is found out which words work. The default withholds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ExperimentConfig {
    /// How many suggestions are not told, to see how often room comes by itself.
    pub withhold: Permille,
    /// What comes later has not come of it.
    pub within: Span,
    /// Whether what works is told more often.
    pub favour: bool,
}

/// How the machine is read.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct SamplingConfig {
    /// NVIDIA's library; the system's when absent.
    pub nvml: Option<PathBuf>,
}

/// Treat the machine as one of this size on which nothing else ran at the start; what is absent is as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Pretend {
    pub memory: Option<Bytes>,
    pub vram: Option<Bytes>,
}
