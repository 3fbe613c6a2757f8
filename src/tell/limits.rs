//! Limits: a message in words -> the format that could not take it whole, if any.

use super::persona::Words;
use super::{discord, ntfy, slack};

/// A message that a format would have to cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong {
    pub format: &'static str,
    pub length: usize,
    pub length_max: usize,
    /// What is counted: services do not agree on what a character is.
    pub unit: &'static str,
}

/// Judges the text and the tip together, as each service gets them. They are dressed for Discord, and plain for the others.
pub fn too_long(for_discord: &Words, plain: &Words) -> Option<TooLong> {
    let content = discord::content(&for_discord.text, for_discord.tip.as_deref());
    let message = ntfy::message(plain);
    let counted = [
        ("Discord", content.encode_utf16().count(), discord::CONTENT_UNITS_MAX, "characters"),
        ("Slack", slack::units(&slack::text(plain)), slack::TEXT_UNITS_MAX, "characters, `&`, `<` and `>` as written"),
        ("ntfy", message.len(), ntfy::MESSAGE_BYTES_MAX, "bytes"),
        ("ntfy", ntfy::json_bytes(&message), ntfy::JSON_BYTES_MAX, "bytes of JSON"),
    ];
    let over = counted.into_iter().find(|(_, length, length_max, _)| length > length_max);
    over.map(|(format, length, length_max, unit)| TooLong { format, length, length_max, unit })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str, tip: Option<&str>) -> Words {
        Words { variant: String::new(), text: text.to_owned(), tip: tip.map(str::to_owned) }
    }

    /// Which format would cut it, and whether it does just then.
    fn judged(text: &str) -> Option<&'static str> {
        let words = said(text, Some("ok"));
        let found = too_long(&words, &words).map(|found| found.format);
        let sent = |body: String, key: &str| -> bool {
            let body: serde_json::Value = serde_json::from_str(&body).unwrap();
            body[key].as_str().unwrap().ends_with('…')
        };
        let cut = [
            (sent(discord::payload(&words, "Mai"), "content"), "Discord"),
            (sent(slack::payload(&words), "text"), "Slack"),
            (sent(ntfy::payload(&words, "Mai", super::super::generic::Severity::Info), "message"), "ntfy"),
        ];
        let first = cut.iter().find(|(is_cut, _)| *is_cut).map(|(_, format)| *format);
        assert_eq!(found, first, "{} of {:?}", text.len(), text.chars().next());
        found
    }

    #[test]
    fn what_a_service_would_cut_is_found_and_nothing_else_is() {
        for (text, format) in [
            ("x".repeat(1990), None),
            ("x".repeat(2000), Some("Discord")),
            // Five characters each for Slack.
            ("&".repeat(790), None),
            ("&".repeat(800), Some("Slack")),
            // Three bytes each for ntfy.
            ("字".repeat(1360), None),
            ("字".repeat(1366), Some("ntfy")),
        ] {
            assert_eq!(judged(&text), format, "{} bytes", text.len());
        }
    }
}
