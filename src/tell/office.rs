//! Office: a message in words -> kept for each webhook that wants it, and put into that webhook's mailbox.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::delivery::{Label, Mailbox, Manners, deliver};
use super::digest::Voice;
use super::generic::Stamp;
use super::outbox::{Keeper, Outbox};
use super::post::HttpPost;
use super::words::shortened;
use super::{TellError, slack};
use crate::config::TellConfig;
use crate::config::webhooks::WebhookFormat;
use crate::letter::{Change, Contents, Left, Letter, Part};

/// The longest text of a message that is remembered for a digest, in characters.
const PART_LENGTH_MAX: usize = 200;

/// Every webhook, and what keeps its messages.
pub struct Office {
    outlets: Vec<Outlet>,
    keeper: Keeper,
}

/// Where messages go out, and which.
struct Outlet {
    format: WebhookFormat,
    events: Option<Vec<String>>,
    mailbox: Arc<Mailbox>,
}

/// The tasks that take messages to their receivers.
pub struct Carriers<'a> {
    pub tasks: &'a TaskTracker,
    /// Cancelled when nothing more is put into a mailbox.
    pub silent: &'a CancellationToken,
}

impl Office {
    /// Starts a task for each webhook; what an earlier run has left goes out first.
    pub fn open(
        config: &TellConfig,
        voice: &Voice,
        outbox: Arc<dyn Outbox>,
        left: &Left,
        carriers: &Carriers<'_>,
    ) -> Result<(Self, Vec<AbortHandle>), TellError> {
        let webhooks = config.webhooks.iter().enumerate();
        let posts = webhooks.map(|(at, webhook)| Ok((webhook, HttpPost::new(webhook, at + 1)?)));
        let posts = posts.collect::<Result<Vec<_>, TellError>>()?;

        let keeper = Keeper::new(outbox);
        let mailboxes = posts.iter().map(|(webhook, post)| {
            let label = Label { format: webhook.format, host: post.host(), name: post.name() };
            let manners = Manners { pace: pace(webhook.format), quiet_hours: config.quiet_hours };
            Arc::new(Mailbox::new(label, voice.clone(), manners, keeper.clone()))
        });
        let mailboxes: Vec<Arc<Mailbox>> = mailboxes.collect();
        let (mut outlets, mut aborts) = (Vec::new(), Vec::new());
        for (at, (webhook, post)) in posts.into_iter().enumerate() {
            let mailbox = Arc::clone(&mailboxes[at]);
            take_up(&mailbox, left);
            let mut others = mailboxes.clone();
            others.remove(at);
            let (format, events) = (webhook.format, webhook.events.clone());
            outlets.push(Outlet { format, events, mailbox: Arc::clone(&mailbox) });
            let delivering = deliver(mailbox, others, post, carriers.silent.clone());
            aborts.push(carriers.tasks.spawn(delivering).abort_handle());
        }
        Ok((Office { outlets, keeper }, aborts))
    }

    /// Sends a message on its way: as soon as it is kept, in one step with `beside`, or after a moment without that.
    /// Whether it was kept.
    pub async fn send(
        &self,
        stamp: &Stamp,
        event: &str,
        text: &str,
        body: impl Fn(WebhookFormat) -> String,
        beside: Change,
    ) -> bool {
        let text = shortened(text, PART_LENGTH_MAX);
        let part = Part { id: stamp.id.clone(), at_unix_ms: stamp.at_unix_ms, event: event.to_owned(), text };
        let wanting = self.outlets.iter().filter(|outlet| outlet.wants(event));
        let letters: Vec<(&Outlet, Letter)> = wanting
            .map(|outlet| {
                let kept = Letter {
                    webhook: outlet.mailbox.label.name.clone(),
                    id: stamp.id.clone(),
                    event: event.to_owned(),
                    told_unix_ms: stamp.at_unix_ms,
                    attempts: 0,
                    due_unix_ms: Some(stamp.at_unix_ms),
                    contents: Contents { parts: vec![part.clone()], left_out: 0 },
                    body: body(outlet.format),
                };
                (outlet, kept)
            })
            .collect();
        let mut change = beside;
        change.put.extend(letters.iter().map(|(_, kept)| kept.clone()));
        let kept = self.keep(change).await;
        letters.into_iter().for_each(|(outlet, kept)| outlet.mailbox.put(kept));
        kept
    }

    /// Keeps what is not on its way yet. Whether it could be.
    pub async fn keep(&self, change: Change) -> bool {
        change == Change::default() || self.keeper.change(change).await
    }

    pub fn mailboxes(&self) -> Vec<Arc<Mailbox>> {
        self.outlets.iter().map(|outlet| Arc::clone(&outlet.mailbox)).collect()
    }
}

impl Outlet {
    fn wants(&self, event: &str) -> bool {
        // Where replies are handed over, that is how it is told that it went down.
        let is_it = |wanted: &String| wanted == event || wanted == "downgraded" && event == "handed_over";
        let asked_for = |events: &Vec<String>| events.iter().any(is_it);
        self.events.as_ref().is_none_or(asked_for) && !self.mailbox.is_closed()
    }
}

fn take_up(mailbox: &Mailbox, left: &Left) {
    let Label { format, host, name } = &mailbox.label;
    if left.gone.contains(name) {
        let message =
            "A webhook has said in an earlier run that it is gone, and is not used; write its new URL into the config.";
        tracing::warn!(message, format = format.name(), host);
        return mailbox.close();
    }
    let mine: Vec<&Letter> = left.waiting.iter().filter(|kept| kept.webhook == *name).collect();
    if !mine.is_empty() {
        let message = "Messages of an earlier run have not arrived yet.";
        tracing::info!(message, format = format.name(), host, count = mine.len());
    }
    mine.into_iter().for_each(|kept| mailbox.put_left(kept.clone()));
}

/// What a service asks for between two messages, where it does not say so in its answers.
fn pace(format: WebhookFormat) -> Option<Duration> {
    match format {
        WebhookFormat::Slack => Some(slack::PACE),
        WebhookFormat::Discord | WebhookFormat::Ntfy | WebhookFormat::Generic => None,
    }
}
