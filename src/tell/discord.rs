//! Discord: a message in words -> the JSON that a Discord webhook takes, within its limits.
//!
//! Model names and server errors come from elsewhere: they can neither ping anybody nor dress up as markdown.

use serde::Serialize;

use super::persona::Words;

/// Discord's limit for `content`, in UTF-16 units.
pub const CONTENT_UNITS_MAX: usize = 2000;
/// Discord's limit for `username`.
const USERNAME_LENGTH_MAX: usize = 80;

#[derive(Serialize)]
struct Payload<'a> {
    content: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<String>,
    allowed_mentions: AllowedMentions<'a>,
}

#[derive(Serialize)]
struct AllowedMentions<'a> {
    parse: &'a [&'a str],
}

/// The body for this message; the words are dressed for Discord already.
pub fn payload(words: &Words, persona: &str) -> String {
    let content = content(&words.text, words.tip.as_deref());
    let allowed_mentions = AllowedMentions { parse: &[] };
    let payload = Payload { content: cut(content), username: username(persona), allowed_mentions };
    serde_json::to_string(&payload).expect("strings always become JSON")
}

/// The text, and the tip as Discord's small print.
pub fn content(text: &str, tip: Option<&str>) -> String {
    tip.map_or(text.to_owned(), |tip| format!("{text}\n-# {tip}"))
}

/// The name that is shown; absent (then the webhook's own is) where Discord would refuse the message for it.
fn username(persona: &str) -> Option<String> {
    let lower = persona.to_lowercase();
    let refused =
        ["discord", "clyde"].iter().any(|word| lower.contains(word)) || ["everyone", "here"].contains(&&*lower);
    (!refused && !lower.trim().is_empty()).then(|| persona.trim().chars().take(USERNAME_LENGTH_MAX).collect())
}

/// At most what Discord takes, cut between two characters.
fn cut(content: String) -> String {
    if content.encode_utf16().count() <= CONTENT_UNITS_MAX {
        return content;
    }
    let mut units = 0;
    let kept = content.chars().take_while(|c| {
        units += c.len_utf16();
        units < CONTENT_UNITS_MAX
    });
    let kept: String = kept.collect();
    // A backslash that lost what it stood for would eat the dots.
    format!("{}…", kept.trim_end_matches('\\'))
}

/// A value as Discord shows it letter by letter. Letters and the punctuation of model names stay as they are.
pub fn escaped(value: &str) -> String {
    let mut written = String::with_capacity(value.len() + 8);
    for (at, c) in value.char_indices() {
        let opens_line = at == 0 && matches!(c, '#' | '-' | '+');
        let opens_link = c == ':' && value[at..].starts_with("://");
        match c {
            '\\' | '*' | '_' | '~' | '`' | '|' | '>' | '<' | '[' | ']' => written.extend(['\\', c]),
            _ if opens_line || opens_link => written.extend(['\\', c]),
            // `allowed_mentions` keeps it from pinging; this keeps it from looking as if it had.
            '@' => written.extend(['@', '\u{200b}']),
            '\n' | '\r' => written.push(' '),
            _ => written.push(c),
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content_of(text: &str, tip: Option<&str>) -> String {
        let words = Words { variant: String::new(), text: text.to_owned(), tip: tip.map(str::to_owned) };
        let body: serde_json::Value = serde_json::from_str(&payload(&words, "Mai")).unwrap();
        assert_eq!(body["username"], "Mai");
        assert_eq!(body["allowed_mentions"], serde_json::json!({ "parse": [] }));
        body["content"].as_str().unwrap().to_owned()
    }

    #[test]
    fn a_long_message_is_cut_between_characters_within_the_limit() {
        for text in ["x".repeat(2001), "é".repeat(3000), "🦊".repeat(1001), format!("x{}", "🦊".repeat(1500))] {
            let content = content_of(&text, None);
            let units = content.encode_utf16().count();
            assert!((CONTENT_UNITS_MAX - 1..=CONTENT_UNITS_MAX).contains(&units), "{units}");
            assert!(content.ends_with('…'));
        }
        let fits = "🦊".repeat(1000);
        assert_eq!(content_of(&fits, None), fits);
    }

    #[test]
    fn the_tip_is_small_print() {
        assert_eq!(content_of("Hello.", Some("2 GiB")), "Hello.\n-# 2 GiB");
    }

    #[test]
    fn values_cannot_ping_or_dress_up() {
        assert_eq!(escaped("@everyone"), "@\u{200b}everyone");
        assert_eq!(escaped("<@1234>"), "\\<@\u{200b}1234\\>");
        assert_eq!(escaped("**a**_b_`c`||d||~e~"), "\\*\\*a\\*\\*\\_b\\_\\`c\\`\\|\\|d\\|\\|\\~e\\~");
        assert_eq!(escaped("[a](https://evil.example)"), "\\[a\\](https\\://evil.example)");
        assert_eq!(escaped("# big\n> quoted"), "\\# big \\> quoted");
        assert_eq!(escaped("qwen3:14b-q4.0"), "qwen3:14b-q4.0");
    }

    #[test]
    fn a_name_that_discord_refuses_is_left_out() {
        assert_eq!(username("Clyde"), None);
        assert_eq!(username("my discord bot"), None);
        assert_eq!(username(" Mai "), Some("Mai".to_owned()));
        assert_eq!(username(&"m".repeat(100)).unwrap().len(), USERNAME_LENGTH_MAX);
    }
}
