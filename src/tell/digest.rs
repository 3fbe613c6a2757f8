//! Digest: messages that come too late to be news -> one that says what there was.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::generic::{self, Severity, Stamp};
use super::persona::Words;
use super::{discord, ntfy, slack};
use crate::config::webhooks::WebhookFormat;
use crate::letter::{Contents, Letter, Part};

/// What is older than this is no news.
pub const NEWS_MAX: Duration = Duration::from_secs(15 * 60);
/// The event of such a message.
pub const EVENT: &str = "digest";
/// How many messages are told of one by one, and how many bytes they may take: with both, what a generic receiver gets
/// stays below Standard Webhooks' 20 kB.
const PARTS_MAX: usize = 50;
const PARTS_BYTES_MAX: usize = 12_000;
/// What stands around the text of one.
const PART_FRAME_BYTES: usize = 130;
/// What the lines of a digest may take, in bytes: less than every service takes.
const LINES_BYTES_MAX: usize = 1800;
/// The longest text of one message in it, in characters.
const PART_LENGTH_MAX: usize = 200;

/// Who speaks, and how what is not about a notice is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Voice {
    pub name: String,
    pub language: String,
    /// How a digest begins.
    pub away: String,
    /// That a webhook is gone, with `{}` for the service.
    pub gone: String,
}

impl Voice {
    /// That this service takes no messages any more.
    pub fn gone(&self, service: &str) -> String {
        self.gone.replacen("{}", service, 1)
    }
}

/// One message in place of all these, the oldest first.
pub fn digest(webhook: &str, format: WebhookFormat, voice: &Voice, all: &[Letter]) -> Letter {
    let contents = together(all.iter().map(|kept| &kept.contents));
    let stamp = Stamp::now();
    let told_unix_ms = contents.parts.first().map_or(stamp.at_unix_ms, |part| part.at_unix_ms);
    Letter {
        webhook: webhook.to_owned(),
        id: stamp.id.clone(),
        event: EVENT.to_owned(),
        told_unix_ms,
        attempts: all.iter().map(|kept| kept.attempts).max().unwrap_or_default(),
        due_unix_ms: None,
        body: body(format, voice, &stamp, &contents),
        contents,
    }
}

fn together<'a>(all: impl Iterator<Item = &'a Contents>) -> Contents {
    let mut whole = Contents::default();
    for one in all {
        whole.parts.extend(one.parts.iter().cloned());
        whole.left_out += one.left_out;
    }
    whole.parts.sort_by_key(|part| part.at_unix_ms);
    let mut bytes = 0;
    let room = whole.parts.iter().rev().take(PARTS_MAX).take_while(|part| {
        bytes += part.text.len() + PART_FRAME_BYTES;
        bytes <= PARTS_BYTES_MAX
    });
    let over = whole.parts.len() - room.count();
    whole.parts.drain(..over);
    whole.left_out += over as u64;
    whole
}

fn body(format: WebhookFormat, voice: &Voice, stamp: &Stamp, contents: &Contents) -> String {
    let words = |text| Words { variant: String::new(), text, tip: None };
    match format {
        WebhookFormat::Discord => {
            let time = |part: &Part| format!("<t:{}:f>", part.at_unix_ms / 1000);
            discord::payload(&words(text(&voice.away, contents, time, discord::escaped)), &voice.name)
        }
        WebhookFormat::Slack => slack::payload(&words(text(&voice.away, contents, utc, str::to_owned))),
        WebhookFormat::Ntfy => {
            ntfy::payload(&words(text(&voice.away, contents, utc, str::to_owned)), &voice.name, Severity::Info)
        }
        WebhookFormat::Generic => {
            generic::digest(stamp, &text(&voice.away, contents, utc, str::to_owned), voice, contents)
        }
    }
}

/// The newest that have room, in the order in which they were told, a line each.
fn text(away: &str, contents: &Contents, time: impl Fn(&Part) -> String, escaped: impl Fn(&str) -> String) -> String {
    let mut lines = Vec::new();
    let mut bytes = 0;
    for part in contents.parts.iter().rev() {
        let line = format!("{}: {}", time(part), escaped(&super::words::shortened(&part.text, PART_LENGTH_MAX)));
        bytes += line.len() + 1;
        if bytes > LINES_BYTES_MAX {
            break;
        }
        lines.push(line);
    }
    let earlier = contents.left_out + (contents.parts.len() - lines.len()) as u64;
    if earlier > 0 {
        lines.push(format!("(+ {earlier})"));
    }
    lines.push(away.to_owned());
    lines.reverse();
    lines.join("\n")
}

/// Day and time, as everybody reads them.
fn utc(part: &Part) -> String {
    let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(part.at_unix_ms));
    // `Sun, 06 Nov 1994 08:49:37 GMT`
    let (day, time) = (date.get(5..11).unwrap_or_default(), date.get(17..22).unwrap_or_default());
    format!("{day} {time} UTC")
}

/// Whether it is too old to be news, by the wall's clock or by ours: either may have stood still or jumped.
pub fn is_old(told_unix_ms: u64, at_least: Duration) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    at_least.max(now.saturating_sub(Duration::from_millis(told_unix_ms))) >= NEWS_MAX
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn voice() -> Voice {
        let [name, language, away, gone] = ["Mai", "en", "While you were away:", "{} is gone"].map(str::to_owned);
        Voice { name, language, away, gone }
    }

    fn kept(number: u64, text: &str) -> Letter {
        let (id, event) = (format!("id-{number}"), "downgraded".to_owned());
        let at_unix_ms = 1_700_000_000_000 + number * 60_000;
        let part = Part { id: id.clone(), at_unix_ms, event: event.clone(), text: text.to_owned() };
        let contents = Contents { parts: vec![part], left_out: 0 };
        let (webhook, body) = ("w".to_owned(), String::new());
        Letter { webhook, id, event, told_unix_ms: at_unix_ms, attempts: 2, due_unix_ms: Some(0), contents, body }
    }

    fn sent(format: WebhookFormat, all: &[Letter]) -> Value {
        serde_json::from_str(&digest("w", format, &voice(), all).body).unwrap()
    }

    #[test]
    fn it_says_what_there_was_and_when_in_the_order_in_which_it_was_told() {
        let all = [kept(1, "small answers now"), kept(0, "@everyone <b> & large could not be loaded")];
        let expected = "While you were away:\n14 Nov 22:13 UTC: @everyone <b> & large could not be loaded\n14 Nov 22:14 UTC: small answers now";
        assert_eq!(sent(WebhookFormat::Generic, &all)["text"], expected);
        assert_eq!(sent(WebhookFormat::Ntfy, &all)["message"], expected);
        assert_eq!(sent(WebhookFormat::Slack, &all)["text"], slack::escaped(expected));
        let discord = sent(WebhookFormat::Discord, &all);
        let content = discord["content"].as_str().unwrap();
        assert!(content.contains("<t:1700000000:f>: @\u{200b}everyone \\<b\\>"), "{content}");
        let messages = &sent(WebhookFormat::Generic, &all)["facts"]["messages"];
        assert_eq!((&messages[0]["id"], &messages[1]["id"]), (&json!("id-0"), &json!("id-1")));
    }

    #[test]
    fn a_digest_of_digests_tells_each_once_and_counts_what_has_no_room() {
        let many: Vec<Letter> = (0..40).map(|number| kept(number, "a rather short text")).collect();
        let first = digest("w", WebhookFormat::Generic, &voice(), &many);
        assert_eq!((first.contents.parts.len(), first.attempts, first.told_unix_ms), (40, 2, 1_700_000_000_000));
        let more: Vec<Letter> = (40..60).map(|number| kept(number, "later")).chain([first]).collect();
        let second = digest("w", WebhookFormat::Generic, &voice(), &more);
        assert_eq!((second.contents.parts.len(), second.contents.left_out), (PARTS_MAX, 10));
        assert_eq!(second.contents.parts[0].id, "id-10");
        let long: Vec<Letter> = (0..40).map(|number| kept(number, &"é".repeat(300))).collect();
        let third = digest("w", WebhookFormat::Generic, &voice(), &long);
        assert!(third.body.len() < 20_000, "{}", third.body.len());
        assert_eq!(third.contents.parts.len() as u64 + third.contents.left_out, 40);
        let more: Vec<Letter> = more.into_iter().chain(long).collect();
        for format in [WebhookFormat::Discord, WebhookFormat::Slack, WebhookFormat::Ntfy, WebhookFormat::Generic] {
            let sent = sent(format, &more);
            let text = ["content", "text", "message"].iter().find_map(|key| sent[*key].as_str()).unwrap();
            assert!(text.encode_utf16().count() <= discord::CONTENT_UNITS_MAX, "{}", text.len());
            assert!(text.lines().nth(1).unwrap().starts_with("(+ "), "{text}");
            assert!(text.contains(": later"), "{text}");
        }
    }
}
