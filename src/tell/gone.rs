//! Gone: a webhook that takes no messages any more -> one message about that for another one.
//!
//! Whoever reads nothing else than that webhook would take the silence for good news.

use super::delivery::Label;
use super::digest::Voice;
use super::generic::{self, Severity, Stamp};
use super::persona::Words;
use super::{discord, ntfy, slack};
use crate::config::webhooks::WebhookFormat;
use crate::letter::{Contents, Letter, Part};

/// The event of such a message.
pub const EVENT: &str = "webhook_gone";

/// The message for one webhook, that the one of this format takes nothing any more.
pub fn letter(to: &Label, voice: &Voice, gone: WebhookFormat, stamp: &Stamp) -> Letter {
    let text = voice.gone(called(gone));
    let words = Words { variant: String::new(), text: text.clone(), tip: None };
    let body = match to.format {
        WebhookFormat::Discord => discord::payload(&words, &voice.name),
        WebhookFormat::Slack => slack::payload(&words),
        WebhookFormat::Ntfy => ntfy::payload(&words, &voice.name, Severity::Warning),
        WebhookFormat::Generic => generic::gone(stamp, &text, voice, gone.name()),
    };
    let (id, at_unix_ms, event) = (stamp.id.clone(), stamp.at_unix_ms, EVENT.to_owned());
    let parts = vec![Part { id: id.clone(), at_unix_ms, event: event.clone(), text }];
    Letter {
        webhook: to.name.clone(),
        id,
        event,
        told_unix_ms: at_unix_ms,
        attempts: 0,
        due_unix_ms: Some(at_unix_ms),
        contents: Contents { parts, left_out: 0 },
        body,
    }
}

/// As people know the service.
pub fn called(format: WebhookFormat) -> &'static str {
    match format {
        WebhookFormat::Discord => "Discord",
        WebhookFormat::Slack => "Slack",
        WebhookFormat::Ntfy => "ntfy",
        WebhookFormat::Generic => "webhook",
    }
}
