//! Webhooks: what is written for each webhook, and the files of secrets that it names -> where to post, and as whom.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::address::webhook_fault;
use super::layers::Layers;
use super::rules::tell_of;
use super::settings::WebhookSettings;
use crate::policy::yaml::nearest;

/// Every kind of message, by the name that payloads and filters have for it. A test of `tell` holds it to the notices.
pub const EVENTS: [&str; 11] = [
    "downgraded",
    "handed_over",
    "resources_wanted",
    "suggested",
    "load_failed",
    "came_up_on_cpu",
    "memory_kept",
    "asleep",
    "contested",
    "stalled",
    "upgraded",
];
/// Standard Webhooks' bounds for a secret, in bytes.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
const SECRET_PREFIX: &str = "whsec_";
/// ntfy's limit for the name of a topic.
const TOPIC_LENGTH_MAX: usize = 64;

/// Where messages go.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookConfig {
    /// A secret: whoever knows it can post. Never logged.
    pub url: String,
    pub format: WebhookFormat,
    /// Whether it may be an address of this machine or of a private network.
    pub allow_private: bool,
    /// Only messages of these kinds; all of them when absent.
    pub events: Option<Vec<String>>,
    /// What generic messages are signed with, each of them: while a receiver changes over it knows either.
    pub secrets: Vec<SigningSecret>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WebhookFormat {
    Discord,
    Slack,
    Ntfy,
    Generic,
}

impl WebhookFormat {
    /// As configs and logs write it.
    pub fn name(self) -> &'static str {
        match self {
            WebhookFormat::Discord => "discord",
            WebhookFormat::Slack => "slack",
            WebhookFormat::Ntfy => "ntfy",
            WebhookFormat::Generic => "generic",
        }
    }
}

/// The bytes of a secret. They never show themselves.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningSecret(pub Vec<u8>);

impl WebhookConfig {
    /// All messages to a public address, unsigned.
    pub fn to(url: impl Into<String>, format: WebhookFormat) -> Self {
        WebhookConfig { url: url.into(), format, allow_private: false, events: None, secrets: Vec::new() }
    }
}

impl std::fmt::Debug for WebhookConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebhookConfig").field("url", &"<secret>").field("format", &self.format).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<secret>")
    }
}

impl std::str::FromStr for SigningSecret {
    type Err = &'static str;

    /// Reads `whsec_` and base64.
    fn from_str(written: &str) -> Result<Self, Self::Err> {
        let encoded = written.strip_prefix(SECRET_PREFIX).ok_or("a secret does not begin with `whsec_`")?;
        let bytes = STANDARD.decode(encoded).map_err(|_| "what follows `whsec_` is not base64")?;
        if SECRET_BYTES.contains(&bytes.len()) {
            Ok(SigningSecret(bytes))
        } else {
            Err("a secret is too short or too long")
        }
    }
}

/// The topic that an ntfy address names, as the last part of its path.
pub fn ntfy_topic(url: &Url) -> Option<&str> {
    let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let last = url.path_segments()?.next_back()?;
    (!last.is_empty() && last.len() <= TOPIC_LENGTH_MAX && last.chars().all(letter)).then_some(last)
}

/// The webhook that was written at this place of the list.
pub(super) fn webhook(index: usize, settings: WebhookSettings, layers: &mut Layers) -> Option<WebhookConfig> {
    let at = format!("tell.webhooks.{index}");
    let (key, url) = address(&at, &settings, layers)?;
    if let Some(fault) = webhook_fault(&url, settings.allow_private) {
        let help = "write `https://` before the host, or add `allow_private: true` for one of your own network";
        tell_of(layers, &key, fault, "this address", "an https URL", help);
        return None;
    }
    if settings.format == WebhookFormat::Ntfy && !Url::parse(&url).is_ok_and(|url| ntfy_topic(&url).is_some()) {
        let help = "write the topic after the host, as in `ntfy.sh/my-topic`";
        tell_of(layers, &key, "the address names no topic", "this address", "letters, digits, `-` or `_`", help);
        return None;
    }
    check_events(&at, settings.events.as_deref().unwrap_or_default(), layers);
    let secrets = settings.secret_file.as_deref().map(|path| secrets(path, &at, settings.format, layers));
    let (format, allow_private, events) = (settings.format, settings.allow_private, settings.events);
    Some(WebhookConfig { url, format, allow_private, events, secrets: secrets.unwrap_or_default() })
}

/// Where it is, and the key that says so.
fn address(at: &str, settings: &WebhookSettings, layers: &mut Layers) -> Option<(String, String)> {
    match (&settings.url, &settings.url_file) {
        (Some(url), None) => Some((format!("{at}.url"), url.0.clone())),
        (None, Some(path)) => {
            let key = format!("{at}.url_file");
            let url = lines(path, &key, "the webhook's URL", layers)?.remove(0);
            Some((key, url))
        }
        (Some(_), Some(_)) | (None, None) => {
            let (title, label) = ("a webhook has one address", "`url` and `url_file`, or neither");
            let help = "write `url_file: discord-url.txt` and nothing else for it";
            tell_of(layers, at, title, label, "exactly one of `url` and `url_file`", help);
            None
        }
    }
}

fn check_events(at: &str, events: &[String], layers: &mut Layers) {
    for (place, event) in events.iter().enumerate().filter(|(_, event)| !EVENTS.contains(&event.as_str())) {
        let near = nearest(event, EVENTS.iter().copied()).unwrap_or(EVENTS[0]);
        let (title, expected) = (format!("unknown event: `{event}`"), format!("some of {}", EVENTS.join(", ")));
        let key = format!("{at}.events.{place}");
        tell_of(layers, &key, &title, "no message is called so", &expected, &format!("write `{near}`"));
    }
}

/// The secrets in a file, one a line.
fn secrets(path: &Path, at: &str, format: WebhookFormat, layers: &mut Layers) -> Vec<SigningSecret> {
    let key = format!("{at}.secret_file");
    if format != WebhookFormat::Generic {
        let (expected, help) = ("`format: generic` beside it", "leave `secret_file` out");
        tell_of(layers, &key, "only generic messages are signed", "not for this format", expected, help);
        return Vec::new();
    }
    let lines = lines(path, &key, "a secret", layers).unwrap_or_default();
    let read: Result<Vec<SigningSecret>, _> = lines.iter().map(|line| line.parse()).collect();
    read.unwrap_or_else(|fault| {
        let expected = "`whsec_` and 24 to 64 bytes in base64 on each line";
        let help = format!("echo \"whsec_$(openssl rand -base64 32)\" > {}", path.display());
        tell_of(layers, &key, fault, "in this file", expected, &help);
        Vec::new()
    })
}

/// The lines of a file that holds a secret: at least one.
fn lines(path: &Path, key: &str, what: &str, layers: &mut Layers) -> Option<Vec<String>> {
    let help = format!("write {what} into `{}`", path.display());
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let lines: Vec<String> =
                text.lines().map(|line| line.trim().to_owned()).filter(|l| !l.is_empty()).collect();
            if lines.is_empty() {
                let expected = format!("{what} in its first line");
                tell_of(layers, key, "the file is empty", &format!("no {} in it", bare(what)), &expected, &help);
                return None;
            }
            Some(lines)
        }
        Err(error) => {
            let title = format!("the file cannot be read: {}: {error}", path.display());
            tell_of(layers, key, &title, "this file", "a readable file", &help);
            None
        }
    }
}

fn bare(what: &str) -> &str {
    what.rsplit(' ').next().unwrap_or(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_as_standard_webhooks_write_it_and_never_shown() {
        let secret: SigningSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap();
        assert_eq!(secret.0.len(), 24);
        assert_eq!(format!("{secret:?}"), "<secret>");
        for wrong in ["MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_", "whsec_****", "whsec_c2hvcnQ="] {
            assert!(wrong.parse::<SigningSecret>().is_err(), "{wrong}");
        }
    }
}
