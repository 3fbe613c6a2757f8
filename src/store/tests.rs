//! A file that is new, ours, somebody else's, of another version, broken, full or in use.

use std::path::PathBuf;

use rusqlite::Connection;
use tempfile::TempDir;

use super::speed::Speed;
use super::words::WordRow;
use super::*;
use crate::footprint::Footprint;
use crate::footprint::key::FootprintKey;
use crate::footprint::load::Held;
use crate::footprint::sightings::Sightings;
use crate::letter::{Contents, Known, Letter, Part};
use crate::units::{Bytes, Span};

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state/tierkeeper.db");
    (folder, path)
}

fn key(model: &str) -> FootprintKey {
    FootprintKey {
        server: "Ollama 0.33.1".to_owned(),
        model: model.to_owned(),
        digest: Some("a1b2".to_owned()),
        context: Some(8192),
        weights: Some(Held::Copied),
        ..FootprintKey::default()
    }
}

fn learned(model: &str, mib: &[u64]) -> Learned {
    let seen = |mib: &u64| Footprint { memory: Bytes::mib(*mib), vram: Bytes::mib(1) };
    Learned { key: key(model), sightings: Sightings::of(mib.iter().map(seen)) }
}

fn opened(path: &Path) -> Opened {
    Store::open(path).unwrap_or_else(|error| panic!("{error}"))
}

fn count(path: &Path, query: &str) -> i64 {
    Connection::open(path).unwrap().query_row(query, [], |row| row.get(0)).unwrap()
}

#[test]
fn what_was_learned_is_there_in_the_next_run() {
    let (_folder, path) = folder();
    let first = opened(&path);
    assert_eq!((first.learned, first.set_aside), (vec![], None));
    first.store.remember(learned("a", &[1]));
    first.store.remember(learned("b", &[7]));
    first.store.remember(learned("a", &[1, 2, 3]));
    assert_eq!(first.store.lost(), 0);
    drop(first.store);
    let second = opened(&path);
    assert_eq!(second.learned, [learned("a", &[1, 2, 3]), learned("b", &[7])]);
}

#[test]
fn a_lease_is_there_in_the_next_run_until_it_is_over() {
    let (_folder, path) = folder();
    let lease = |id, ends_unix_ms, renew_within| LeaseRow {
        id,
        memory: Bytes::gib(1),
        vram: Bytes::mib(5),
        others_memory: Bytes::gib(3),
        others_vram: Bytes::ZERO,
        ends_unix_ms,
        renew_within,
    };
    let first = opened(&path);
    assert_eq!(first.leases, []);
    let (timed, renewed) = (lease(1, Some(1_764_000_000_000), None), lease(2, None, Some(Span::seconds(30))));
    [timed, renewed, lease(3, None, None)].into_iter().for_each(|lease| first.store.keep_lease(lease));
    first.store.forget_lease(3);
    drop(first.store);
    let second = opened(&path);
    assert_eq!(second.leases, [timed, renewed]);
    second.store.forget_lease(1);
    drop(second.store);
    assert_eq!(opened(&path).leases, [renewed]);
}

#[test]
fn what_the_operator_has_said_is_there_in_the_next_run_and_what_he_took_back_is_not() {
    let (_folder, path) = folder();
    let row = |word: &str, rung: Option<&str>| WordRow {
        word: word.to_owned(),
        rung: rung.map(str::to_owned),
        ends_unix_ms: Some(1_764_000_000_000),
        rests_until_unix_ms: None,
    };
    let first = opened(&path);
    assert_eq!(first.words, []);
    first.store.keep_words(vec![row("sleep", None), row("pin", Some("small"))]);
    drop(first.store);
    let second = opened(&path);
    assert_eq!(second.words, [row("pin", Some("small")), row("sleep", None)]);
    second.store.keep_words(vec![row("sleep", None)]);
    drop(second.store);
    assert_eq!(opened(&path).words, [row("sleep", None)]);
}

#[test]
fn it_can_be_asked_by_hand_in_words_and_units() {
    let (_folder, path) = folder();
    let store = opened(&path).store;
    store.remember(learned("qwen3:4b", &[3000, 2900]));
    let speed = Speed { load_ms: Some(Span::ms(1200)), predicted_tokens_per_second: Some(41.27), ..Speed::default() };
    store.remember_speed(Measured { key: key("qwen3:4b"), speed });
    drop(store);
    let database = Connection::open(&path).unwrap();
    let query =
        "SELECT model, context_tokens, sightings, memory_mib, load_ms, predicted_tokens_per_second FROM learned";
    let row = database
        .query_row(query, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?)));
    let row: (String, u32, u32, f64, u32, f64) = row.unwrap();
    assert_eq!(row, ("qwen3:4b".to_owned(), 8192, 2, 3000.0, 1200, 41.3));
    assert_eq!(count(&path, "PRAGMA user_version"), file::VERSION);
}

#[test]
fn whether_a_model_goes_on_with_a_reply_is_there_in_the_next_run_and_keeps_what_was_measured() {
    let (_folder, path) = folder();
    let first = opened(&path);
    assert_eq!(first.continuing, []);
    let speed = Speed { load_ms: Some(Span::ms(1200)), first_token_ms: Some(Span::ms(7)), ..Speed::default() };
    first.store.remember_speed(Measured { key: key("a"), speed });
    for (model, continues) in [("a", false), ("a", true), ("b", false)] {
        first.store.continuing().keep(key(model), continues);
    }
    drop(first.store);
    assert_eq!(count(&path, "SELECT load_ms + first_token_ms FROM speeds WHERE continues_reply"), 1207);
    let second = opened(&path);
    assert_eq!(second.continuing, [(key("a"), true), (key("b"), false)]);
    // Whoever measures everything has the last word on all of it, and on what it could not tell.
    let speed = Speed { load_ms: Some(Span::ms(30)), ..Speed::default() };
    second.store.remember_speed(Measured { key: key("a"), speed });
    drop(second.store);
    assert_eq!(count(&path, "SELECT count(*) FROM speeds WHERE load_ms = 30 AND first_token_ms IS NULL"), 1);
    assert_eq!(opened(&path).continuing, [(key("b"), false)]);
}

#[test]
fn a_file_of_a_newer_version_is_left_as_it_is() {
    let (_folder, path) = folder();
    drop(opened(&path));
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 9).unwrap();
    let before = std::fs::read(&path).unwrap();
    let refused = Store::open(&path).unwrap_err();
    assert!(matches!(refused, StoreError::Newer { found: 9, known: file::VERSION, .. }), "{refused}");
    assert!(refused.to_string().contains("store: PATH"), "{refused}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn the_database_of_another_program_is_left_as_it_is() {
    let (_folder, path) = folder();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (a); INSERT INTO theirs VALUES (1)").unwrap();
    let refused = Store::open(&path).unwrap_err();
    assert!(matches!(refused, StoreError::NotOurs { .. }), "{refused}");
    assert_eq!(count(&path, "SELECT count(*) FROM theirs"), 1);
}

#[test]
fn a_broken_file_is_set_aside_and_kept_and_a_new_one_begun() {
    let (_folder, path) = folder();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, b"this was never a database, and it is long enough to be looked at as one").unwrap();
    let first = opened(&path);
    let aside = first.set_aside.unwrap();
    assert!(std::fs::read(&aside).unwrap().starts_with(b"this was never"), "{}", aside.display());
    first.store.remember(learned("a", &[1]));
    drop(first.store);
    // A page of a whole database is overwritten.
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[4096..8192].fill(0xA5);
    std::fs::write(&path, bytes).unwrap();
    let second = opened(&path);
    assert_eq!(second.learned, []);
    assert_ne!(second.set_aside.unwrap(), aside, "the one before is still there");
}

#[test]
fn a_place_that_cannot_be_written_says_what_to_do() {
    let (folder, _path) = folder();
    let file = folder.path().join("a-file");
    std::fs::write(&file, b"").unwrap();
    let refused = Store::open(&file.join("tierkeeper.db")).unwrap_err();
    assert!(matches!(refused, StoreError::Unwritable { .. }), "{refused}");
    assert!(refused.to_string().contains("store: PATH"), "{refused}");
    let refused = Store::open(folder.path()).unwrap_err();
    assert!(matches!(refused, StoreError::Unwritable { .. }), "a folder is no file: {refused}");
}

#[test]
fn a_file_that_another_holds_is_written_when_it_lets_go_and_nobody_waits_for_it() {
    let (_folder, path) = folder();
    let store = opened(&path).store;
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let most = WAITING_MAX as u64;
    for mib in 0..most + 100 {
        store.remember(learned("a", &[mib]));
    }
    // One may be with the writer, who waits.
    let lost = store.lost();
    assert!((99..=100).contains(&lost), "{lost}");
    other.execute_batch("COMMIT").unwrap();
    drop(store);
    assert_eq!(opened(&path).learned, [learned("a", &[most + 99])], "the newest is kept");
}

#[test]
fn two_instances_share_a_file() {
    let (_folder, path) = folder();
    let (one, other) = (opened(&path).store, opened(&path).store);
    for mib in 0..50 {
        one.remember(learned("a", &[mib]));
        other.remember(learned("b", &[mib]));
    }
    drop(one);
    drop(other);
    assert_eq!(opened(&path).learned, [learned("a", &[49]), learned("b", &[49])]);
}

#[test]
fn models_that_were_seen_longest_ago_are_forgotten_beyond_a_number() {
    let (_folder, path) = folder();
    drop(opened(&path));
    let add = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 600)
               INSERT INTO models (key, server, model, seen_unix_seconds)
               SELECT 'server=s model=' || i, 's', i, i FROM n";
    Connection::open(&path).unwrap().execute_batch(add).unwrap();
    drop(opened(&path));
    assert_eq!(count(&path, "SELECT count(*) FROM models"), 500);
    assert_eq!(count(&path, "SELECT min(seen_unix_seconds) FROM models"), 101);
}

fn message(webhook: &str, id: &str) -> Letter {
    let (webhook, id, event) = (webhook.to_owned(), id.to_owned(), "downgraded".to_owned());
    let told_unix_ms = 4_000_000_000_000;
    let part = Part { id: id.clone(), at_unix_ms: 5, event: event.clone(), text: "Tch.".to_owned() };
    let (contents, body) = (Contents { parts: vec![part], left_out: 2 }, "{}".to_owned());
    Letter { webhook, id, event, told_unix_ms, attempts: 0, due_unix_ms: Some(told_unix_ms), contents, body }
}

fn known(event: &str, told_unix_ms: u64) -> Known {
    Known { event: event.to_owned(), told_unix_ms, notice: "{}".to_owned() }
}

fn put(letters: &[Letter]) -> Change {
    Change { put: letters.to_vec(), ..Change::default() }
}

#[test]
fn messages_that_have_not_arrived_are_there_in_the_next_run_and_who_is_gone_too() {
    let (_folder, path) = folder();
    let store = opened(&path).store;
    let messages = store.messages();
    let again = Letter { attempts: 3, due_unix_ms: None, ..message("w", "b") };
    let changes = [
        put(&[message("w", "a"), message("w", "b"), message("v", "a"), message("x", "a")]),
        Change { remove: vec![("w".to_owned(), "a".to_owned())], put: vec![again.clone()], ..Change::default() },
        Change { gone: Some(("x".to_owned(), 404)), ..Change::default() },
        Change { known: vec![known("asleep", 5), known("stalled", 6)], ..Change::default() },
        Change { known: vec![known("asleep", 7)], ..Change::default() },
    ];
    for change in changes {
        assert_eq!(messages.change(change).blocking_recv(), Ok(true));
    }
    drop(store);
    assert!(messages.change(put(&[message("w", "late")])).blocking_recv().is_err(), "nothing is written any more");
    let left = opened(&path).outbox;
    let known = vec![known("asleep", 7), known("stalled", 6)];
    assert_eq!(left, Left { waiting: vec![message("v", "a"), again], gone: vec!["x".to_owned()], known });
    assert_eq!(count(&path, "SELECT count(*) FROM waiting WHERE next_utc IS NULL"), 1);
    Connection::open(&path).unwrap().execute_batch("UPDATE outbox SET told_unix_ms = 1 WHERE webhook = 'v'").unwrap();
    assert_eq!(opened(&path).outbox.waiting.len(), 1, "nobody has asked for it in a month");
}

#[test]
fn a_message_is_safe_while_others_hold_the_file_and_what_was_learned_makes_room() {
    let (_folder, path) = folder();
    let store = opened(&path).store;
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let told = store.messages().change(put(&[message("w", "a")]));
    for mib in 0..WAITING_MAX as u64 * 2 {
        store.remember(learned("a", &[mib]));
    }
    assert!(store.lost() >= WAITING_MAX as u64 - 1);
    other.execute_batch("COMMIT").unwrap();
    assert_eq!(told.blocking_recv(), Ok(true));
    drop(store);
    assert_eq!(opened(&path).outbox.waiting, [message("w", "a")]);
}

#[test]
fn on_a_full_disk_whoever_asks_hears_of_it_and_when_there_is_room_it_goes_on() {
    let (_folder, path) = folder();
    drop(opened(&path));
    let mut file = File::open(&path).unwrap();
    let pages = count(&path, "PRAGMA page_count");
    file.limit_pages(pages + 8);
    let change = |number: u32| put(&[Letter { body: "x".repeat(4096), ..message("w", &number.to_string()) }]);
    let written = (0..20).take_while(|number| file.write_messages(&change(*number)).is_ok()).count();
    assert!((1..20).contains(&written), "{written}");
    let remove = (0..20).map(|number: u32| ("w".to_owned(), number.to_string())).collect();
    file.write_messages(&Change { remove, ..Change::default() }).unwrap();
    file.write_messages(&change(30)).unwrap();
    drop(file);
    let left = opened(&path).outbox.waiting;
    assert_eq!(left.iter().map(|row| row.id.as_str()).collect::<Vec<_>>(), ["30"]);
}

#[test]
fn what_was_asked_is_counted_by_variant_and_what_somebody_has_seen_too() {
    use super::suggestions::{Outcome, Suggestion, What, ack, read};
    let (_folder, path) = folder();
    assert_eq!((read(&path).unwrap(), ack(&path, None).unwrap()), (vec![], None), "there is no file yet");
    let store = opened(&path).store;
    assert_eq!(ack(&path, None).unwrap(), None);
    for (number, (variant, text)) in
        [("a", Some("old")), ("a", Some("new")), ("b", Some("b")), ("b", None)].iter().enumerate()
    {
        store.suggestions().asked(Suggestion {
            id: format!("id-{number}"),
            asked_unix_ms: number as u64,
            event: "suggested".to_owned(),
            persona: "Mai".to_owned(),
            variant: (*variant).to_owned(),
            text: text.map(str::to_owned),
        });
    }
    for (id, what) in [("id-0", What::Room), ("id-0", What::Nothing), ("id-1", What::Nothing), ("id-3", What::Program)]
    {
        store.suggestions().came(Outcome { id: id.to_owned(), what, after_ms: 7 });
    }
    let acked = [Some("id-3"), None].map(|id| store.suggestions().ack(id.map(str::to_owned)));
    drop(store);
    let acked = acked.map(|told| told.blocking_recv().unwrap());
    assert_eq!(acked, [None, Some("id-2".to_owned())], "in the run itself, after what was asked before");
    assert_eq!(ack(&path, None).unwrap().as_deref(), Some("id-2"), "the last one that was told");
    assert_eq!(ack(&path, Some("id-2")).unwrap().as_deref(), Some("id-2"), "twice is once");
    assert_eq!(ack(&path, Some("id-3")).unwrap(), None, "nobody can have seen what was withheld");
    assert_eq!(ack(&path, Some("id-9")).unwrap(), None);
    let tallies = opened(&path).suggestions;
    assert_eq!(tallies, read(&path).unwrap());
    let counts: Vec<_> = tallies
        .iter()
        .map(|one| (one.variant.as_deref(), one.text.as_deref(), [one.asked, one.known, one.followed, one.acked]))
        .collect();
    let expected =
        [(Some("a"), Some("new"), [2, 2, 1, 0]), (Some("b"), Some("b"), [1, 0, 0, 1]), (None, None, [1, 1, 1, 0])];
    assert_eq!(counts, expected);
}

#[test]
fn the_last_decisions_are_kept_and_can_be_asked_by_hand() {
    let (_folder, path) = folder();
    let store = opened(&path).store;
    let kept = |id: u64, why: &str| {
        let record = format!(
            "{{\"unix_ms\":1795712968000,\"kind\":\"down\",\"from\":\"large\",\"to\":\"small\",\"text\":\"{why}\"}}"
        );
        Kept { id, record }
    };
    let most = decision::KEPT_MAX as u64;
    for id in 1..=most + 5 {
        store.keep_decision(kept(id, "first"));
    }
    store.keep_decision(kept(most + 5, "later"));
    drop(store);
    let decisions = opened(&path).decisions;
    assert_eq!((decisions.len() as u64, decisions[0].id), (most, 6));
    assert_eq!(decisions.last(), Some(&kept(most + 5, "later")), "one under an id takes the place of the one before");
    let query = "SELECT at_utc, from_rung, to_rung, because FROM decided ORDER BY id DESC LIMIT 1";
    let row: (String, String, String, String) = Connection::open(&path)
        .unwrap()
        .query_row(query, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .unwrap();
    let row = [row.0, row.1, row.2, row.3];
    assert_eq!(row, ["2026-11-26 17:09:28", "large", "small", "later"].map(str::to_owned));
}
