//! Slack: a message in words -> the JSON that a Slack webhook takes, within its limits.
//!
//! Slack's formatting is off, so a value cannot dress up. What is left of its syntax are three characters, and they are
//! escaped: there is no mention in what we send, and no link that Slack would look up.

use std::time::Duration;

use serde_json::json;

use super::persona::Words;

/// What Slack advises for `text`, in UTF-16 units; it cuts at ten times as many.
pub const TEXT_UNITS_MAX: usize = 4000;
/// Slack takes one message a second.
pub const PACE: Duration = Duration::from_secs(1);

/// The body for this message.
pub fn payload(words: &Words) -> String {
    json!({ "text": escaped(&text(words)), "mrkdwn": false, "unfurl_links": false, "unfurl_media": false }).to_string()
}

/// The text and the tip.
pub fn text(words: &Words) -> String {
    match &words.tip {
        None => words.text.clone(),
        Some(tip) => format!("{}\n{tip}", words.text),
    }
}

/// How long it is as Slack counts, with what is escaped in it.
pub fn units(text: &str) -> usize {
    text.chars().map(|c| escape(c).map_or(c.len_utf16(), str::len)).sum()
}

fn escape(c: char) -> Option<&'static str> {
    match c {
        '&' => Some("&amp;"),
        '<' => Some("&lt;"),
        '>' => Some("&gt;"),
        _ => None,
    }
}

/// The text as Slack wants it, cut between two characters where it is too long.
pub fn escaped(text: &str) -> String {
    let is_long = units(text) > TEXT_UNITS_MAX;
    let mut written = String::with_capacity(text.len() + 8);
    let mut length = 0;
    for c in text.chars() {
        let escape = escape(c);
        length += escape.map_or(c.len_utf16(), str::len);
        if is_long && length >= TEXT_UNITS_MAX {
            written.push('…');
            break;
        }
        match escape {
            Some(escape) => written.push_str(escape),
            None => written.push(c),
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_of_slacks_syntax() {
        assert_eq!(
            escaped("<!channel> & <https://evil.example|a>"),
            "&lt;!channel&gt; &amp; &lt;https://evil.example|a&gt;"
        );
        assert_eq!(escaped("qwen3:14b *sigh*"), "qwen3:14b *sigh*");
    }

    #[test]
    fn a_long_text_is_cut_between_characters_and_never_in_an_escape() {
        for text in ["x".repeat(5000), "🦊".repeat(3000), "&".repeat(1000), format!("x{}", "<".repeat(2000))] {
            let written = escaped(&text);
            assert!(written.encode_utf16().count() <= TEXT_UNITS_MAX, "{}", written.len());
            let plain = written.replace("&amp;", "").replace("&lt;", "");
            assert!(written.ends_with('…') && !plain.contains('&'), "{written}");
        }
    }
}
