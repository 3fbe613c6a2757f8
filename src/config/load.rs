//! Load: the config files, the environment and the flags -> one `Config`, and where each of its values came from.
//!
//! Mildest first: defaults, the system's file, the user's, the one that was named, variables, flags. All layers are
//! read before any complaint is made, so that one run shows everything.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::layers::{Form, KEYS, Layers, Place};
use super::settings::Settings;
use super::{Config, rules};
use crate::policy::diagnostic::Diagnostics;

/// Where the system's config lies.
pub const SYSTEM_FILE: &str = "/etc/tierkeeper/config.yaml";

/// Everything that a config is made of.
#[derive(Debug, Default)]
pub struct Sources {
    /// Read when it exists; mostly `SYSTEM_FILE`.
    pub system: Option<PathBuf>,
    /// Read when it exists; mostly what `user_file` finds.
    pub user: Option<PathBuf>,
    /// The one that `--config` names; it must exist.
    pub explicit: Option<PathBuf>,
    /// Only those that begin with `TIERKEEPER_` are looked at, and those must name settings: leave out what the
    /// command line has read itself.
    pub environment: Vec<(String, String)>,
    pub flags: Flags,
}

/// What flags can set, as it was written.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    pub server: Option<String>,
    pub policy: Option<String>,
    pub listen: Option<String>,
    pub admin_listen: Option<String>,
    pub pretend_memory: Option<String>,
}

/// A config that can be used.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    /// For each key (`gateway.listen`) the file, variable or flag that set it, or `default`.
    pub provenance: BTreeMap<&'static str, String>,
}

/// Why there is no config.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the config `{path}`: {source}")]
    Unreadable { path: PathBuf, source: io::Error },
    /// One for each file, variable or flag in which something is wrong.
    #[error("{}", rendered(.0, false))]
    Wrong(Vec<Diagnostics>),
}

impl ConfigError {
    /// As an operator reads it.
    pub fn render(&self, color: bool) -> String {
        match self {
            ConfigError::Unreadable { .. } => format!("error: {self}"),
            ConfigError::Wrong(each) => rendered(each, color),
        }
    }
}

fn rendered(each: &[Diagnostics], color: bool) -> String {
    each.iter().map(|one| one.render(color)).collect::<Vec<_>>().join("\n\n")
}

/// The user's config file: `$XDG_CONFIG_HOME/tierkeeper/config.yaml`, or the same under `~/.config`.
pub fn user_file(xdg_config_home: Option<&str>, home: Option<&str>) -> Option<PathBuf> {
    // The specification has relative paths ignored.
    let xdg = xdg_config_home.map(Path::new).filter(|path| path.is_absolute()).map(Path::to_owned);
    let folder = xdg.or_else(|| home.filter(|home| !home.is_empty()).map(|home| Path::new(home).join(".config")))?;
    Some(folder.join("tierkeeper/config.yaml"))
}

/// Where what was learned is kept when the config does not say: in the folder that systemd gives a service, else in
/// `$XDG_STATE_HOME/tierkeeper`, or the same under `~/.local/state`.
pub fn state_file(state_directory: Option<&str>, xdg_state_home: Option<&str>, home: Option<&str>) -> Option<PathBuf> {
    let absolute = |path: &str| Some(Path::new(path)).filter(|path| path.is_absolute()).map(Path::to_owned);
    // A service may be given several.
    let given = state_directory.and_then(|folders| absolute(folders.split(':').next()?));
    let xdg = || xdg_state_home.and_then(absolute).map(|folder| folder.join("tierkeeper"));
    let usual = || home.and_then(absolute).map(|home| home.join(".local/state/tierkeeper"));
    Some(given.or_else(xdg).or_else(usual)?.join("tierkeeper.db"))
}

/// The config that all sources together make.
pub fn load(sources: Sources) -> Result<Loaded, ConfigError> {
    let mut layers = Layers::new();
    for path in [sources.system, sources.user].into_iter().flatten() {
        match std::fs::read_to_string(&path) {
            Ok(text) => layers.file(&path, text),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(source) => return Err(ConfigError::Unreadable { path, source }),
        }
    }
    if let Some(path) = sources.explicit {
        let text = std::fs::read_to_string(&path);
        let text = text.map_err(|source| ConfigError::Unreadable { path: path.clone(), source })?;
        layers.file(&path, text);
    }
    layers.environment(sources.environment);
    let flags = sources.flags;
    let given = [
        ("server.url", "--server ", flags.server),
        ("policy", "--policy ", flags.policy),
        ("gateway.listen", "--listen ", flags.listen),
        ("admin.listen", "--admin-listen ", flags.admin_listen),
        ("pretend.memory", "--pretend-memory ", flags.pretend_memory),
    ];
    for (key, name, value) in given {
        let Some(value) = value else { continue };
        layers.word(key, Form::Text, Place::Word { kind: "command line", name: name.to_owned(), value });
    }
    finished(layers)
}

/// The config that one text makes on its own: what `check` asks.
pub fn check(path: &Path, text: String) -> Result<Loaded, ConfigError> {
    let mut layers = Layers::new();
    layers.file(path, text);
    finished(layers)
}

fn finished(mut layers: Layers) -> Result<Loaded, ConfigError> {
    if !layers.wrong.is_empty() {
        return Err(ConfigError::Wrong(layers.wrong));
    }
    // Every layer was read into this very type; together they can only be more of it.
    let settings: Settings = layers.figment.extract().expect("layers that are settings make settings");
    let config = rules::config(settings, &mut layers);
    if !layers.wrong.is_empty() {
        return Err(ConfigError::Wrong(layers.wrong));
    }
    let from = |key: &str| layers.place(key).map_or("default".to_owned(), Place::name);
    let provenance = KEYS.iter().map(|(key, _)| (*key, from(key))).collect();
    Ok(Loaded { config, provenance })
}
