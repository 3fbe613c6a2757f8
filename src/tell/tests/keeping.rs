//! Keeping: an outbox that works, one that is full and one that hangs -> messages that arrive all the same.

use futures_util::future::BoxFuture;

use super::*;
use crate::letter::{Change, Contents, Known, Letter, Part, UNSAID};
use crate::tell::outbox::Outbox;
use crate::tell::post::HttpPost;

/// Notes what it is asked for, and answers as told.
#[derive(Clone, Default)]
struct Noting {
    changes: Arc<Mutex<Vec<Change>>>,
    answer: Option<bool>,
}

impl Outbox for Noting {
    fn change(&self, change: Change) -> BoxFuture<'static, bool> {
        self.changes.lock().unwrap().push(change);
        match self.answer {
            Some(answer) => Box::pin(std::future::ready(answer)),
            None => Box::pin(std::future::pending()),
        }
    }
}

fn teller(webhooks: Vec<WebhookConfig>, outbox: &Noting, left: &Left) -> Teller {
    let config = TellConfig { webhooks, ..TellConfig::default() };
    let memory = Memory { outbox: Arc::new(outbox.clone()), left: left.clone(), ..Memory::none() };
    Teller::with_memory(&config, Persona::plain(), memory).unwrap()
}

fn working() -> Noting {
    Noting { answer: Some(true), ..Noting::default() }
}

#[tokio::test]
async fn a_message_is_kept_before_it_is_posted_and_let_go_when_it_has_arrived() {
    let outbox = working();
    let seen = outbox.clone();
    let mut receiver = Receiving::start(move |_, headers, _| {
        let changes = seen.changes.lock().unwrap();
        let kept = changes.first().is_some_and(|change| change.put[0].id == headers["webhook-id"].to_str().unwrap());
        if kept { StatusCode::OK.into_response() } else { StatusCode::BAD_REQUEST.into_response() }
    })
    .await;
    let teller = teller(vec![receiver.webhook(WebhookFormat::Generic)], &outbox, &Left::default());
    teller.notify(News::of(load_failed("large"), Reason::Stopping));
    let body = receiver.next().await.body;
    teller.flush(GRACE).await;
    let changes = outbox.changes.lock().unwrap().clone();
    let [put, removed] = changes.as_slice() else { panic!("{changes:?}") };
    assert_eq!((put.put.len(), put.put[0].event.as_str()), (1, "load_failed"));
    assert_eq!(put.known[0].event, "load_failed", "in the same step");
    assert_eq!(removed.remove, [(put.put[0].webhook.clone(), body["id"].as_str().unwrap().to_owned())]);
    assert!(!format!("{changes:?}").contains(TOKEN), "no secret is kept");
}

/// All that is kept after these changes, and what is known.
fn shelf(outbox: &Noting) -> (Vec<Letter>, Vec<Known>) {
    let (mut letters, mut known) = (Vec::<Letter>::new(), Vec::<Known>::new());
    for Change { remove, put, known: told, gone: _ } in outbox.changes.lock().unwrap().clone() {
        letters.retain(|one| !remove.contains(&(one.webhook.clone(), one.id.clone())));
        letters.retain(|one| put.iter().all(|new| (&new.webhook, &new.id) != (&one.webhook, &one.id)));
        letters.extend(put);
        known.retain(|one| told.iter().all(|new| new.event != one.event));
        known.extend(told);
    }
    (letters, known)
}

/// Two hours around now in which nobody is to be disturbed.
fn quiet_now() -> QuietHours {
    let now = ZonedDateTime::now();
    let minute = u16::from(now.hour().unsigned_abs()) * 60 + u16::from(now.minute().unsigned_abs());
    QuietHours { from: (minute + 23 * 60) % 1440, to: (minute + 60) % 1440 }
}

fn quiet(webhook: WebhookConfig, outbox: &Noting, quiet_hours: Option<QuietHours>, left: Left) -> Teller {
    let config = TellConfig { webhooks: vec![webhook], quiet_hours, ..TellConfig::default() };
    let memory = Memory { outbox: Arc::new(outbox.clone()), left, ..Memory::none() };
    Teller::with_memory(&config, Persona::plain(), memory).unwrap()
}

#[tokio::test]
async fn what_waits_for_the_end_of_the_quiet_hours_is_told_by_a_later_run_under_its_id() {
    let (mut receiver, outbox) = (Receiving::always(StatusCode::OK).await, working());
    let hook = receiver.webhook(WebhookFormat::Generic);
    let teller = quiet(hook.clone(), &outbox, Some(quiet_now()), Left::default());
    teller.notify(News::of(load_failed("large"), Reason::Stopping));
    teller.notify(News::of(load_failed("medium"), Reason::Stopping));
    teller.notify(News::of(downgraded("large", "small"), Reason::Stopping));
    teller.flush(GRACE).await;
    assert!(receiver.requests.try_recv().is_err(), "it is quiet");
    let (waiting, known) = shelf(&outbox);
    let ids: Vec<(&str, &str)> = waiting.iter().map(|one| (one.webhook.as_str(), one.event.as_str())).collect();
    assert_eq!(ids, [(UNSAID, "load_failed"), (UNSAID, "downgraded")], "one of each kind");

    let left = Left { waiting: waiting.clone(), known, ..Left::default() };
    let teller = quiet(hook, &outbox, None, left);
    for _ in 0..2 {
        let Received { headers, body, .. } = receiver.next().await;
        let kept = waiting.iter().find(|one| one.event == body["event"]).unwrap();
        assert_eq!(headers["webhook-id"].to_str().unwrap(), kept.id);
        assert_eq!(body["at_unix_ms"], kept.told_unix_ms, "it tells of then");
    }
    teller.flush(GRACE).await;
    let (waiting, known) = shelf(&outbox);
    assert_eq!((waiting, known.len()), (vec![], 2));
}

#[tokio::test]
async fn what_waits_for_its_minute_is_kept_and_what_a_run_before_has_told_is_not_told_again() {
    let (mut receiver, outbox) = (Receiving::always(StatusCode::OK).await, working());
    let hook = receiver.webhook(WebhookFormat::Generic);
    // It is never told to end, and so says nothing more: as if it was killed.
    let killed = quiet(hook.clone(), &outbox, None, Left::default());
    killed.notify(News::of(load_failed("large"), Reason::Stopping));
    killed.notify(News::of(load_failed("medium"), Reason::Stopping));
    assert_eq!(receiver.next().await.body["facts"]["rung"], "large");
    until(|| matches!(shelf(&outbox).0.as_slice(), [one] if one.webhook == UNSAID)).await;
    let (waiting, known) = shelf(&outbox);
    let left = Left { waiting: waiting.clone(), known, ..Left::default() };
    let teller = quiet(hook, &outbox, None, left);
    teller.notify(News::of(load_failed("medium"), Reason::Stopping));
    teller.flush(GRACE).await;
    let told = receiver.next().await;
    let unsaid = waiting.iter().find(|one| one.webhook == UNSAID).unwrap();
    assert_eq!(
        (&told.body["facts"]["rung"], told.headers["webhook-id"].to_str().unwrap()),
        (&json!("medium"), &*unsaid.id)
    );
    let known = shelf(&outbox).1;
    let teller = quiet(receiver.webhook(WebhookFormat::Generic), &outbox, None, Left { known, ..Left::default() });
    teller.notify(News::of(load_failed("medium"), Reason::Stopping));
    teller.flush(GRACE).await;
    assert!(receiver.requests.try_recv().is_err(), "it is known");
}

#[tokio::test]
async fn what_is_held_for_the_names_of_programs_is_kept_until_it_is_told() {
    let (mut receiver, outbox) = (Receiving::always(StatusCode::OK).await, working());
    let teller = quiet(receiver.webhook(WebhookFormat::Generic), &outbox, None, Left::default());
    let news = News::of(downgraded("large", "small"), Reason::Stopping);
    let held = teller.hold(news.clone());
    until(|| shelf(&outbox).0.len() == 1).await;
    assert!(receiver.requests.try_recv().is_err(), "not yet");
    let id = shelf(&outbox).0[0].id.clone();
    let programs = vec![Program { name: "Firefox".to_owned(), memory: Bytes::gib(3), vram: Bytes::ZERO }];
    teller.notify_held(held, News { programs, ..news });
    let Received { headers, body, .. } = receiver.next().await;
    let closable = &body["facts"]["programs"][0]["name"];
    assert_eq!((headers["webhook-id"].to_str().unwrap(), closable), (&*id, &json!("Firefox")));
    teller.flush(GRACE).await;
    assert_eq!(shelf(&outbox).0, []);
}

#[tokio::test]
async fn what_got_better_in_the_quiet_hours_is_not_kept_any_more() {
    let (receiver, outbox) = (Receiving::always(StatusCode::OK).await, working());
    let teller = quiet(receiver.webhook(WebhookFormat::Generic), &outbox, Some(quiet_now()), Left::default());
    teller.notify(News::of(downgraded("large", "small"), Reason::Stopping));
    until(|| shelf(&outbox).0.len() == 1).await;
    let up = Notice::Upgraded { from: Some("small".to_owned()), to: "large".to_owned(), is_best: true };
    teller.notify(News::of(up, Reason::Stopping));
    teller.flush(GRACE).await;
    assert_eq!(shelf(&outbox).0, []);
}

/// Waits for what another task does, not for a time.
async fn until(holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), waiting).await.expect("it never came");
}

#[tokio::test]
async fn the_topic_of_ntfy_is_not_kept() {
    let (outbox, receiver) = (working(), Receiving::always(StatusCode::OK).await);
    let teller = teller(vec![receiver.webhook(WebhookFormat::Ntfy)], &outbox, &Left::default());
    teller.notify(News::of(load_failed("large"), Reason::Stopping));
    teller.flush(GRACE).await;
    let changes = outbox.changes.lock().unwrap().clone();
    assert!(!changes.is_empty() && !format!("{changes:?}").contains(TOKEN), "{changes:?}");
}

#[tokio::test]
async fn a_full_disk_keeps_no_message_back_and_is_told_once() {
    let (log, _guard) = Log::start();
    let mut receiver = Receiving::always(StatusCode::OK).await;
    let outbox = Noting { answer: Some(false), ..Noting::default() };
    let teller = teller(vec![receiver.webhook(WebhookFormat::Discord)], &outbox, &Left::default());
    teller.notify(News::of(load_failed("large"), Reason::Stopping));
    teller.notify(News::of(downgraded("large", "small"), Reason::Stopping));
    receiver.next().await;
    receiver.next().await;
    teller.flush(GRACE).await;
    assert_eq!(log.text().matches("Messages cannot be kept").count(), 1, "{}", log.text());
}

#[tokio::test]
async fn a_disk_that_hangs_keeps_no_message_back_for_long_and_whoever_notifies_not_at_all() {
    let mut receiver = Receiving::always(StatusCode::OK).await;
    let teller = teller(vec![receiver.webhook(WebhookFormat::Discord)], &Noting::default(), &Left::default());
    let start = tokio::time::Instant::now();
    teller.notify(News::of(load_failed("large"), Reason::Stopping));
    assert!(start.elapsed().as_millis() < 500);
    receiver.next().await;
    teller.flush(Span::ms(100)).await;
}

#[tokio::test]
async fn what_an_earlier_run_left_arrives_with_its_own_id_and_who_was_gone_is_not_called() {
    let (mut here, mut gone) = (Receiving::always(StatusCode::OK).await, Receiving::always(StatusCode::OK).await);
    let webhooks = vec![here.webhook(WebhookFormat::Generic), gone.webhook(WebhookFormat::Discord)];
    let name = |hook: &WebhookConfig| HttpPost::new(hook, 1).unwrap().name();
    let kept = |id: &str, told_unix_ms: u64, webhook: String| {
        let part =
            Part { id: id.to_owned(), at_unix_ms: told_unix_ms, event: "downgraded".to_owned(), text: id.to_owned() };
        let contents = Contents { parts: vec![part], left_out: 0 };
        let (id, event, body) = (id.to_owned(), "downgraded".to_owned(), json!({ "kept": id }).to_string());
        Letter { webhook, id, event, told_unix_ms, attempts: 1, due_unix_ms: Some(0), contents, body }
    };
    let now = Stamp::now().at_unix_ms;
    let waiting = vec![
        kept("old-1", 1_700_000_000_000, name(&webhooks[0])),
        kept("new", now, name(&webhooks[0])),
        kept("old-2", 1_700_000_060_000, name(&webhooks[0])),
        kept("other", now, name(&webhooks[1])),
    ];
    let left = Left { waiting, gone: vec![name(&webhooks[1])], ..Left::default() };
    let outbox = working();
    let teller = teller(webhooks, &outbox, &left);
    let digest = here.next().await.body;
    assert_eq!(digest["event"], "digest");
    assert_eq!(
        (&digest["facts"]["messages"][0]["id"], &digest["facts"]["messages"][1]["id"]),
        (&json!("old-1"), &json!("old-2"))
    );
    let Received { headers, body, .. } = here.next().await;
    assert_eq!((headers["webhook-id"].to_str().unwrap(), &body["kept"]), ("new", &json!("new")));
    teller.notify(News::of(load_failed("large"), Reason::Stopping));
    assert_eq!(here.next().await.body["event"], "load_failed");
    teller.flush(GRACE).await;
    assert!(gone.requests.try_recv().is_err());
    // The digest took the place of both in one step.
    let replaced = outbox.changes.lock().unwrap().iter().find(|change| !change.remove.is_empty()).unwrap().clone();
    assert_eq!((replaced.remove.len(), replaced.put.len()), (2, 1));
}
