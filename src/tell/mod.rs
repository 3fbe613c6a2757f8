//! Tell: a notice -> the persona's words -> each webhook's format, delivered.
//!
//! Nothing here can delay the one who decides: `notify` puts the notice into a bounded queue and returns. One task puts
//! notices into words, one for each webhook takes them there. Only getting less is told, and never twice in a row.

pub mod address;
pub mod coalesce;
pub mod delivery;
pub mod digest;
pub mod discord;
pub mod dress;
pub mod experiment;
mod faults;
pub mod generic;
pub mod gone;
pub mod in_band;
mod limits;
pub mod news;
pub mod ntfy;
pub mod office;
pub mod outbox;
pub mod persona;
mod persona_file;
pub mod post;
pub mod preview;
mod private;
mod quiet;
mod samples;
pub mod suggest;
mod unsaid;
mod vocabulary;
pub mod sign;
pub mod slack;
pub mod words;
#[cfg(test)]
mod readability;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::ZonedDateTime;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use self::address::AddressRefused;
use self::coalesce::{Coalescer, Pending, QuietUntil};
use self::delivery::Mailbox;
use self::digest::Voice;
use self::dress::Dress;
use self::experiment::{Asked, Choice, Chooser, NoNotebook, Notebook, Tally};
use self::generic::Stamp;
use self::in_band::InBand;
use self::news::News;
use self::office::{Carriers, Office};
use self::outbox::{Nowhere, Outbox};
use self::persona::{Persona, Words};
use self::private::without_places;
use self::unsaid::Unsaid;
use crate::config::webhooks::WebhookFormat;
use crate::config::{QuietHours, TellConfig};
use crate::decide::notice::Notice;
use crate::letter::Left;
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
    #[error("webhook {number} names no topic: expected a `url` such as `https://ntfy.sh/my-topic`")]
    NoTopic { number: usize },
    #[error("webhook {number} is plain `http`, which needs `allow_private: true`, at host: {host}")]
    PlainHttp { number: usize, host: String },
    #[error("webhook {number} is refused: {why}, at host: {host}")]
    Address { number: usize, host: String, why: AddressRefused },
}

/// Tells people. Dropping it ends its tasks after one last attempt for what waits.
pub struct Teller {
    heard: Sender<Heard>,
    in_band: watch::Receiver<InBand>,
    closing: CancellationToken,
    mailboxes: Vec<Arc<Mailbox>>,
    tasks: TaskTracker,
    aborts: Vec<AbortHandle>,
}

impl Teller {
    /// Keeps nothing over the end of the process. Starts the tasks, so it must be called within a tokio runtime.
    pub fn new(config: &TellConfig, persona: Persona) -> Result<Self, TellError> {
        Teller::with_memory(config, persona, Memory::none())
    }

    /// The same, and what is on its way and what comes of it is kept.
    pub fn with_memory(config: &TellConfig, persona: Persona, memory: Memory) -> Result<Self, TellError> {
        let Memory { outbox, left, notebook, tallies } = memory;
        let (tasks, closing) = (TaskTracker::new(), CancellationToken::new());
        // Cancelled by the speaker when it has said its last, so that nothing is put into a mailbox that nobody empties.
        let silent = CancellationToken::new();
        let carriers = Carriers { tasks: &tasks, silent: &silent };
        let (office, mut aborts) = Office::open(config, &voice(&persona), outbox, &left, &carriers)?;
        let mailboxes = office.mailboxes();
        let (heard, hears) = channel(HEARD_MAX);
        let (in_band, in_band_heard) = watch::channel(InBand::default());
        let chooser = Chooser::new(config.experiments, tallies, StdRng::from_rng(&mut rand::rng()));
        let mut coalescer = Coalescer::default();
        let unsaid = Unsaid::new(&left, &mut coalescer);
        let speaker = Speaker {
            persona,
            upgrades: config.upgrades,
            quiet_hours: config.quiet_hours,
            office,
            coalescer,
            held: Vec::new(),
            unsaid,
            in_band,
            chooser,
            notebook,
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
        self.hear(Heard::Now(Pending { stamp: Stamp::now(), news }));
    }

    /// Takes in what is to be told in a moment, when more is known of it. It is kept meanwhile. Never waits.
    pub fn hold(&self, news: News) -> Held {
        let stamp = Stamp::now();
        self.hear(Heard::Soon(Pending { stamp: stamp.clone(), news }));
        Held(stamp)
    }

    /// Takes in what was held, with all that is known of it now; never waits.
    pub fn notify_held(&self, Held(stamp): Held, news: News) {
        self.hear(Heard::Now(Pending { stamp, news }));
    }

    fn hear(&self, heard: Heard) {
        let (Heard::Soon(Pending { news, .. }) | Heard::Now(Pending { news, .. })) = &heard;
        let event = news.notice.event();
        if self.heard.try_send(heard).is_err() {
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

fn voice(persona: &Persona) -> Voice {
    let (name, language) = (persona.name.clone(), persona.language.clone());
    Voice { name, language, away: persona.while_away().to_owned(), gone: persona.webhook_gone().to_owned() }
}

/// What goes to the speaking task.
enum Heard {
    /// It will come once more, with more in it.
    Soon(Pending),
    Now(Pending),
}

/// Something that is held until more is known of it.
#[derive(Debug)]
pub struct Held(Stamp);

/// What is known of earlier runs, and what is for later ones.
pub struct Memory {
    pub outbox: Arc<dyn Outbox>,
    pub left: Left,
    pub notebook: Arc<dyn Notebook>,
    /// What came of each variant so far.
    pub tallies: BTreeMap<String, Tally>,
}

impl Memory {
    /// Nothing, of either.
    pub fn none() -> Self {
        let (outbox, notebook) = (Arc::new(Nowhere), Arc::new(NoNotebook));
        Memory { outbox, left: Left::default(), notebook, tallies: BTreeMap::new() }
    }
}

/// What the speaking task holds.
struct Speaker {
    persona: Persona,
    /// Whether it is told too when it got better.
    upgrades: bool,
    quiet_hours: Option<QuietHours>,
    office: Office,
    coalescer: Coalescer,
    /// What will come once more.
    held: Vec<Pending>,
    unsaid: Unsaid,
    in_band: watch::Sender<InBand>,
    chooser: Chooser<StdRng>,
    notebook: Arc<dyn Notebook>,
}

async fn speak(
    mut speaker: Speaker,
    mut hears: Receiver<Heard>,
    closing: CancellationToken,
    _silent_at_end: DropGuard,
) {
    let start = Instant::now();
    let now = || unsaid::moment(start.elapsed());
    loop {
        let quiet = speaker.quiet_until(now());
        let next = speaker.coalescer.next(quiet).map(|next| start + unsaid::elapsed(next));
        // Clocks are set, and a machine sleeps: what waits for the end of a night looks at the time now and then.
        let next = next.map(|next| if quiet.is_some() { next.min(Instant::now() + LOOK_AT_THE_TIME) } else { next });
        tokio::select! {
            biased;
            heard = hears.recv() => match heard {
                Some(Heard::Soon(pending)) => speaker.hold(pending).await,
                Some(Heard::Now(pending)) => speaker.hear(now(), pending).await,
                None => break,
            },
            () = tokio::time::sleep_until(next.unwrap_or(start)), if next.is_some() => speaker.speak_due(now()).await,
            // What was heard before is still in the queue; `None` comes after it.
            () = closing.cancelled() => hears.close(),
        }
    }
    // What waits for the end of a night is kept for the next run.
    if speaker.quiet_until(now()).is_none() {
        while let Some(pending) = speaker.coalescer.rest(now()) {
            speaker.tell(pending).await;
        }
    }
}

impl Speaker {
    async fn hold(&mut self, pending: Pending) {
        self.held.push(pending);
        self.keep().await;
    }

    async fn hear(&mut self, now: Moment, Pending { stamp, news }: Pending) {
        self.held.retain(|held| held.stamp.id != stamp.id);
        let text = self.persona.say(&news, 0, Dress::Plain).text;
        self.in_band.send_modify(|in_band| in_band.hear(&news.notice, &text));
        if matches!(news.notice, Notice::Upgraded { .. }) && !self.upgrades {
            self.coalescer.ease(&news.notice);
            return self.keep().await;
        }
        let (quiet, notice) = (self.quiet_until(now), news.notice.clone());
        if let Some(pending) = self.coalescer.offer(now, quiet, news, stamp) {
            return self.tell(pending).await;
        }
        self.keep().await;
        if let Some(waits) = self.coalescer.waiting_like(&notice) {
            let event = waits.news.notice.event();
            tracing::info!(message = "A message waits for its time.", event, id = waits.stamp.id);
        }
    }

    /// Keeps what waits, and what people know.
    async fn keep(&mut self) {
        let (change, shelf) = self.unsaid.update(&self.coalescer, &self.held);
        if self.office.keep(change).await {
            self.unsaid.kept(shelf);
        }
    }

    fn quiet_until(&self, now: Moment) -> QuietUntil {
        Some(now + quiet::left(self.quiet_hours?, &ZonedDateTime::now())?)
    }

    async fn speak_due(&mut self, now: Moment) {
        let quiet = self.quiet_until(now);
        while let Some(pending) = self.coalescer.due(now, quiet) {
            self.tell(pending).await;
        }
    }

    async fn tell(&mut self, Pending { stamp, news }: Pending) {
        let (news, event) = (&news, news.notice.event());
        let choice = self.chooser.choose(&news.notice, self.persona.variants(event));
        let (Choice::Tell(variant) | Choice::Withhold(variant)) = choice;
        let stamp = self.unsaid.told_as_of(stamp);
        let words = self.say(variant, news, Dress::Plain);
        if let Choice::Withhold(variant) = choice {
            let message = "A suggestion was withheld, to see whether room comes by itself.";
            tracing::info!(message, event, variant, id = stamp.id);
            self.note(news, &stamp, variant, None);
            return self.keep().await;
        }
        self.note(news, &stamp, variant, Some(words.text.clone()));
        tracing::info!(
            message = "A message was sent.",
            event,
            variant = words.variant,
            text = words.text,
            tip = words.tip,
            id = stamp.id
        );
        let body = |format| match format {
            WebhookFormat::Discord => discord::payload(&self.say(variant, news, Dress::Discord), &self.persona.name),
            WebhookFormat::Slack => slack::payload(&words),
            WebhookFormat::Ntfy => ntfy::payload(&words, &self.persona.name, generic::severity(&news.notice)),
            WebhookFormat::Generic => generic::payload(&stamp, &words, &self.persona, news),
        };
        let (beside, shelf) = self.unsaid.update(&self.coalescer, &self.held);
        if self.office.send(&stamp, event, &words.text, body, beside).await {
            self.unsaid.kept(shelf);
        }
    }

    fn say(&self, variant: &str, news: &News, dress: Dress) -> Words {
        let words = self.persona.say_as(variant, news, dress);
        Words { text: without_places(&words.text), tip: words.tip.as_deref().map(without_places), ..words }
    }

    /// Notes what was asked of people, where something was.
    fn note(&self, news: &News, stamp: &Stamp, variant: &str, text: Option<String>) {
        let Some(room) = experiment::asked_for(news) else { return };
        self.notebook.asked(Asked {
            id: stamp.id.clone(),
            at_unix_ms: stamp.at_unix_ms,
            event: news.notice.event(),
            persona: self.persona.name.clone(),
            variant: variant.to_owned(),
            text,
            room,
        });
    }
}
