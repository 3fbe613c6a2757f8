//! Tell: a notice -> the persona's words -> each webhook's format, delivered.
//!
//! Nothing here can delay the one who decides: `notify` puts the notice into a bounded queue and returns. One task puts
//! notices into words, one for each webhook takes them there. Only getting less is told, and never twice in a row.

pub mod address;
pub mod coalesce;
pub mod delivery;
pub mod discord;
pub mod dress;
mod faults;
pub mod generic;
pub mod in_band;
mod limits;
pub mod news;
pub mod persona;
mod persona_file;
pub mod post;
pub mod preview;
mod quiet;
mod samples;
pub mod suggest;
mod vocabulary;
pub mod words;
#[cfg(test)]
mod readability;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::ZonedDateTime;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use self::address::AddressRefused;
use self::coalesce::{Coalescer, QuietUntil};
use self::delivery::{Label, Mailbox, deliver};
use self::dress::Dress;
use self::generic::Stamp;
use self::in_band::InBand;
use self::news::News;
use self::persona::Persona;
use self::post::{HttpPost, Outgoing};
use crate::config::{QuietHours, TellConfig, WebhookFormat};
use crate::decide::notice::Notice;
use crate::units::{Moment, Span};

/// How many notices may wait to be put into words; that takes microseconds, so more means that something is broken.
const HEARD_MAX: usize = 64;
/// How often it is looked whether the quiet hours are over, while something waits for that.
const LOOK_AT_THE_TIME: std::time::Duration = std::time::Duration::from_secs(60);

/// Why a webhook cannot be used. Its URL is a secret, so it is named by its place in the list and its host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TellError {
    #[error("webhook {number} has no valid `url`: expected one such as `https://discord.com/api/webhooks/...`")]
    NotAUrl { number: usize },
    #[error("webhook {number} has a `url` of another scheme than `https`")]
    Scheme { number: usize },
    #[error("webhook {number} is plain `http`, which needs `allow_private: true`, at host: {host}")]
    PlainHttp { number: usize, host: String },
    #[error("webhook {number} is refused: {why}, at host: {host}")]
    Address { number: usize, host: String, why: AddressRefused },
}

/// Tells people. Dropping it ends its tasks after one last attempt for what waits.
pub struct Teller {
    heard: Sender<News>,
    in_band: watch::Receiver<InBand>,
    closing: CancellationToken,
    mailboxes: Vec<Arc<Mailbox>>,
    tasks: TaskTracker,
    aborts: Vec<AbortHandle>,
}

impl Teller {
    /// Starts the tasks, so it must be called within a tokio runtime.
    pub fn new(config: &TellConfig, persona: Persona) -> Result<Self, TellError> {
        let webhooks = config.webhooks.iter().enumerate();
        let posts = webhooks.map(|(at, webhook)| Ok((webhook.format, HttpPost::new(webhook, at + 1)?)));
        let posts = posts.collect::<Result<Vec<_>, TellError>>()?;

        let (tasks, closing) = (TaskTracker::new(), CancellationToken::new());
        // Cancelled by the speaker when it has said its last, so that nothing is put into a mailbox that nobody empties.
        let silent = CancellationToken::new();
        let (heard, hears) = channel(HEARD_MAX);
        let (in_band, in_band_heard) = watch::channel(InBand::default());
        let (mut outlets, mut aborts) = (Vec::new(), Vec::new());
        for (format, post) in posts {
            let mailbox = Arc::new(Mailbox::new(Label { format: format_name(format), host: post.host() }));
            outlets.push((format, Arc::clone(&mailbox)));
            aborts.push(tasks.spawn(deliver(mailbox, post, silent.clone())).abort_handle());
        }
        let mailboxes = outlets.iter().map(|(_, mailbox)| Arc::clone(mailbox)).collect();
        let speaker = Speaker {
            persona,
            upgrades: config.upgrades,
            quiet_hours: config.quiet_hours,
            outlets,
            coalescer: Coalescer::default(),
            in_band,
            turns: BTreeMap::new(),
            told: 0,
        };
        aborts.push(tasks.spawn(speak(speaker, hears, closing.clone(), silent.drop_guard())).abort_handle());
        tasks.close();
        Ok(Teller { heard, in_band: in_band_heard, closing, mailboxes, tasks, aborts })
    }

    /// What may be said in answers now.
    pub fn in_band(&self) -> InBand {
        self.in_band.borrow().clone()
    }

    /// Takes a notice in; never waits.
    pub fn notify(&self, news: News) {
        let event = news.notice.event();
        if self.heard.try_send(news).is_err() {
            tracing::warn!(message = "A notice was dropped, for too many wait or we are ending.", event);
        }
    }

    /// Ends: what waits is told and tried once more, for at most `grace`. Later notices are dropped.
    pub async fn flush(&self, grace: Span) {
        self.closing.cancel();
        if tokio::time::timeout(grace.duration(), self.tasks.wait()).await.is_err() {
            self.aborts.iter().for_each(AbortHandle::abort);
            let waiting: usize = self.mailboxes.iter().map(|mailbox| mailbox.waiting()).sum();
            tracing::warn!(message = "The grace was over before every message was delivered.", %grace, waiting);
        }
    }
}

fn format_name(format: WebhookFormat) -> &'static str {
    match format {
        WebhookFormat::Discord => "discord",
        WebhookFormat::Generic => "generic",
    }
}

/// What the speaking task holds.
struct Speaker {
    persona: Persona,
    /// Whether it is told too when it got better.
    upgrades: bool,
    quiet_hours: Option<QuietHours>,
    outlets: Vec<(WebhookFormat, Arc<Mailbox>)>,
    coalescer: Coalescer,
    in_band: watch::Sender<InBand>,
    /// How many messages of each kind were told: whose turn it is among the variants.
    turns: BTreeMap<&'static str, usize>,
    told: u64,
}

async fn speak(mut speaker: Speaker, mut hears: Receiver<News>, closing: CancellationToken, _silent_at_end: DropGuard) {
    let start = Instant::now();
    let now = || Moment(u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX));
    loop {
        let quiet = speaker.quiet_until(now());
        let next = speaker.coalescer.next(quiet).map(|next| start + Span(next.0).duration());
        // Clocks are set, and a machine sleeps: what waits for the end of a night looks at the time now and then.
        let next = next.map(|next| if quiet.is_some() { next.min(Instant::now() + LOOK_AT_THE_TIME) } else { next });
        tokio::select! {
            biased;
            heard = hears.recv() => match heard {
                Some(news) => speaker.hear(now(), news),
                None => break,
            },
            () = tokio::time::sleep_until(next.unwrap_or(start)), if next.is_some() => speaker.speak_due(now()),
            // What was heard before is still in the queue; `None` comes after it.
            () = closing.cancelled() => hears.close(),
        }
    }
    let quiet = speaker.quiet_until(now());
    for news in speaker.coalescer.rest() {
        if quiet.is_none() {
            speaker.tell(&news);
        }
    }
}

impl Speaker {
    fn hear(&mut self, now: Moment, news: News) {
        let text = self.persona.say(&news, 0, Dress::Plain).text;
        self.in_band.send_modify(|in_band| in_band.hear(&news.notice, &text));
        if matches!(news.notice, Notice::Upgraded { .. }) && !self.upgrades {
            return self.coalescer.ease(&news.notice);
        }
        let quiet = self.quiet_until(now);
        match self.coalescer.offer(now, quiet, news) {
            Some(news) => self.tell(&news),
            None if quiet.is_some() => tracing::info!(message = "A message may wait for the end of the quiet hours."),
            None => {}
        }
    }

    fn quiet_until(&self, now: Moment) -> QuietUntil {
        Some(now + quiet::left(self.quiet_hours?, &ZonedDateTime::now())?)
    }

    fn speak_due(&mut self, now: Moment) {
        let quiet = self.quiet_until(now);
        while let Some(news) = self.coalescer.due(now, quiet) {
            self.tell(&news);
        }
    }

    fn tell(&mut self, news: &News) {
        let event = news.notice.event();
        let turns = self.turns.entry(event).or_default();
        let turn = *turns;
        *turns += 1;
        self.told += 1;
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at_unix_ms = u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX);
        let stamp = Stamp { id: format!("tierkeeper-{at_unix_ms}-{}", self.told), at_unix_ms };
        let words = self.persona.say(news, turn, Dress::Plain);
        tracing::info!(
            message = "A message was sent.",
            event,
            variant = words.variant,
            text = words.text,
            tip = words.tip,
            id = stamp.id
        );
        for (format, mailbox) in &self.outlets {
            let body = match format {
                WebhookFormat::Discord => {
                    discord::payload(&self.persona.say(news, turn, Dress::Discord), &self.persona.name)
                }
                WebhookFormat::Generic => generic::payload(&stamp, &words, &self.persona, &news.notice, &news.reason),
            };
            mailbox.put(Outgoing { event, stamp: stamp.clone(), body });
        }
    }
}
