//! Settings: the shape of a config file, of the environment and of the flags -> what layers are merged of.
//!
//! Every value is optional in every layer; only the merged whole is made into a `Config`.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::webhooks::WebhookFormat;
use super::{Privacy, QuietHours, ServerKind};
use crate::policy::yaml::{Quantity, complaint};
use crate::units::{Bytes, Permille, Span};

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a config, such as `server: { url: \"http://127.0.0.1:11434\" }`")]
pub struct Settings {
    pub server: ServerSettings,
    pub ollama: OllamaSettings,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<GatewayChoice>,
    pub admin: AdminSettings,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<PathBuf>,
    pub tell: TellSettings,
    pub sampling: SamplingSettings,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<PathBuf>,
    pub pretend: PretendSettings,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observe: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_grace: Option<Quantity<Span>>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a mapping with `url` and `kind`")]
pub struct ServerSettings {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<ServerUrl>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<ServerKind>,
}

/// How the gateway is set, or that there is to be none.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum GatewayChoice {
    On(Box<GatewaySettings>),
    Off(Off),
}

/// The word for it.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Off {
    Off,
}

/// As they are below, for whoever misspells one.
const GATEWAY_KEYS: &[&str] =
    &["listen", "alias", "trusted_network", "token_file", "hosts", "hold", "body_max", "in_band"];

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a mapping, such as `{ derive_models: true }`")]
pub struct OllamaSettings {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub derive_models: Option<bool>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a mapping, such as `{ listen: \"127.0.0.1:11435\" }`")]
pub struct GatewaySettings {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<Listen>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alias: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trusted_network: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Vec<String>>,
    pub hold: HoldSettings,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_max: Option<Quantity<Bytes>>,
    pub in_band: InBandSettings,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a mapping, such as `{ header: true, asleep: true }`")]
pub struct InBandSettings {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asleep: Option<bool>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a mapping, such as `{ count: 64, bytes: 64MiB, age: 60s }`")]
pub struct HoldSettings {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Quantity<Bytes>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age: Option<Quantity<Span>>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a mapping, such as `{ listen: \"127.0.0.1:11436\" }`")]
pub struct AdminSettings {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<Listen>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Vec<String>>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a mapping with `persona` and `webhooks`")]
pub struct TellSettings {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persona: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upgrades: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quiet_hours: Option<Hours>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub privacy: Option<Privacy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhooks: Option<Vec<WebhookSettings>>,
    pub experiments: ExperimentSettings,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a mapping, such as `{ withhold: 10%, within: 30m, favour: false }`")]
pub struct ExperimentSettings {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub withhold: Option<Quantity<Permille>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub within: Option<Quantity<Span>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub favour: Option<bool>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a webhook, such as `{ url_file: discord-url.txt, format: discord }`")]
pub struct WebhookSettings {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url_file: Option<PathBuf>,
    pub format: WebhookFormat,
    #[serde(default)]
    pub allow_private: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a mapping, such as `{ nvml: /opt/nvidia/libnvidia-ml.so.1 }`")]
pub struct SamplingSettings {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nvml: Option<PathBuf>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a mapping, such as `{ memory: 4GiB }`")]
pub struct PretendSettings {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Quantity<Bytes>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vram: Option<Quantity<Bytes>>,
}

/// Where to listen: address and port.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(transparent)]
pub struct Listen(pub SocketAddr);

/// Where the server listens, in any of the forms that `OLLAMA_HOST` has.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct ServerUrl(pub String);

/// A part of every day, as it is written: `22:00-07:30`.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct Hours(String);

impl Hours {
    pub fn quiet(&self) -> Option<QuietHours> {
        let (from, to) = self.0.split_once('-')?;
        let hours = QuietHours { from: minute(from)?, to: minute(to)? };
        (hours.from != hours.to).then_some(hours)
    }
}

/// `22:00` or `7` as a minute of the day.
fn minute(written: &str) -> Option<u16> {
    let (hour, minute) = written.trim().split_once(':').unwrap_or((written.trim(), "0"));
    let (hour, minute): (u16, u16) = (hour.parse().ok()?, minute.parse().ok()?);
    (hour < 24 && minute < 60).then_some(hour * 60 + minute)
}

impl<'de> Deserialize<'de> for Hours {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let hours = Hours(String::deserialize(deserializer)?);
        match hours.quiet() {
            Some(_) => Ok(hours),
            None => {
                let title = format!("not a part of the day: `{}`", hours.0);
                Err(complaint(&title, "when it begins and when it ends, in local time", "\"22:00-07:30\""))
            }
        }
    }
}

/// Text that never shows itself.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

impl<'de> Deserialize<'de> for GatewayChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_struct("GatewaySettings", GATEWAY_KEYS, ReadChoice)
    }
}

struct ReadChoice;

impl<'de> Visitor<'de> for ReadChoice {
    type Value = GatewayChoice;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping, such as `{ listen: \"127.0.0.1:11435\" }`, or `off`")
    }

    fn visit_str<E: Error>(self, word: &str) -> Result<Self::Value, E> {
        match word {
            "off" => Ok(GatewayChoice::Off(Off::Off)),
            _ => Err(E::invalid_value(Unexpected::Str(word), &self)),
        }
    }

    /// What some readers make of the word.
    fn visit_bool<E: Error>(self, on: bool) -> Result<Self::Value, E> {
        match on {
            false => Ok(GatewayChoice::Off(Off::Off)),
            true => Err(E::invalid_value(Unexpected::Bool(true), &self)),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        GatewaySettings::deserialize(MapAccessDeserializer::new(map))
            .map(|settings| GatewayChoice::On(Box::new(settings)))
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = String::deserialize(deserializer)?;
        let wrong = |title: &str, fix: &str| {
            Err(D::Error::custom(format_args!(
                "{title}: `{written}`\nan address and a port, such as `127.0.0.1:11435`\n{fix}"
            )))
        };
        match (written.parse::<SocketAddr>(), written.trim_start_matches(':').parse::<u16>()) {
            (Ok(address), _) => Ok(Listen(address)),
            (Err(_), Ok(port)) => wrong("a port without its address", &format!("\"127.0.0.1:{port}\"")),
            (Err(_), Err(_)) => match written.strip_prefix("localhost:").and_then(|port| port.parse::<u16>().ok()) {
                Some(port) => wrong("a name is no address", &format!("\"127.0.0.1:{port}\"")),
                None => wrong("not an address to listen on", "\"127.0.0.1:11435\""),
            },
        }
    }
}

impl<'de> Deserialize<'de> for ServerUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = String::deserialize(deserializer)?;
        match super::address::server_url(&written, None) {
            Ok(_) => Ok(ServerUrl(written)),
            Err(why) => {
                let title = format!("{why}: `{written}`");
                Err(complaint(&title, "where the server listens", "\"http://127.0.0.1:11434\""))
            }
        }
    }
}

impl Settings {
    /// Paths in a file are meant from where the file lies.
    pub(super) fn based_on(mut self, folder: &Path) -> Self {
        let token_file = match &mut self.gateway {
            Some(GatewayChoice::On(gateway)) => &mut gateway.token_file,
            Some(GatewayChoice::Off(_)) | None => &mut None,
        };
        let paths = [
            &mut self.policy,
            token_file,
            &mut self.admin.token_file,
            &mut self.tell.persona,
            &mut self.sampling.nvml,
            &mut self.store,
        ];
        let hooks = self.tell.webhooks.iter_mut().flatten();
        let hooks = hooks.flat_map(|hook| [&mut hook.url_file, &mut hook.secret_file]);
        for path in paths.into_iter().chain(hooks).flatten() {
            *path = folder.join(&*path);
        }
        self
    }
}
