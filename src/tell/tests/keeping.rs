//! Keeping: an outbox that works, one that is full and one that hangs -> messages that arrive all the same.

use futures_util::future::BoxFuture;

use super::*;
use crate::letter::{Change, Contents, Letter, Part};
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
    assert_eq!(removed.remove, [(put.put[0].webhook.clone(), body["id"].as_str().unwrap().to_owned())]);
    assert!(!format!("{changes:?}").contains(TOKEN), "no secret is kept");
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
    let left = Left { waiting, gone: vec![name(&webhooks[1])] };
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
    let replaced = outbox.changes.lock().unwrap()[0].clone();
    assert_eq!((replaced.remove.len(), replaced.put.len()), (2, 1));
}
