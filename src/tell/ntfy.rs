//! Ntfy: a message in words -> the JSON that ntfy publishes, within its limits.
//!
//! The topic is what a stranger would need to read and write along, so it is not in here: it goes in when the message is
//! posted. JSON, because a title in a header may not be of all letters.

use serde_json::{Value, json};

use super::generic::Severity;
use super::persona::Words;

/// ntfy's limit for a message, in bytes; what is longer becomes a file.
pub const MESSAGE_BYTES_MAX: usize = 4096;
/// A title is one line on a telephone.
const TITLE_LENGTH_MAX: usize = 80;
/// ntfy reads twice its limit as JSON; this leaves room for what stands around the message.
pub const JSON_BYTES_MAX: usize = 2 * MESSAGE_BYTES_MAX - 1024;

/// The body for this message, still without its topic.
pub fn payload(words: &Words, title: &str, severity: Severity) -> String {
    let (priority, tag) = match severity {
        Severity::Info => (2, "bulb"),
        Severity::Warning => (3, "warning"),
        Severity::Error => (4, "rotating_light"),
    };
    let title: String = title.chars().take(TITLE_LENGTH_MAX).collect();
    json!({ "title": title, "message": cut(message(words)), "priority": priority, "tags": [tag] }).to_string()
}

/// The text and the tip.
pub fn message(words: &Words) -> String {
    match &words.tip {
        None => words.text.clone(),
        Some(tip) => format!("{}\n\n{tip}", words.text),
    }
}

/// The body with its topic, if there is one.
pub fn addressed(body: &str, topic: Option<&str>) -> String {
    let Some(topic) = topic else { return body.to_owned() };
    match serde_json::from_str::<Value>(body) {
        Ok(Value::Object(mut fields)) => {
            fields.insert("topic".to_owned(), topic.into());
            Value::Object(fields).to_string()
        }
        // None of ours; the receiver says so.
        Ok(_) | Err(_) => body.to_owned(),
    }
}

fn cut(message: String) -> String {
    if message.len() <= MESSAGE_BYTES_MAX && json_bytes(&message) <= JSON_BYTES_MAX {
        return message;
    }
    let (mut bytes, mut in_json) = (0, 0);
    let dots = '…'.len_utf8();
    let kept = message.chars().take_while(|c| {
        bytes += c.len_utf8();
        in_json += json_length(*c);
        bytes + dots <= MESSAGE_BYTES_MAX && in_json + dots <= JSON_BYTES_MAX
    });
    let kept: String = kept.collect();
    format!("{kept}…")
}

/// How many bytes it takes within a JSON string.
pub fn json_bytes(message: &str) -> usize {
    message.chars().map(json_length).sum()
}

fn json_length(c: char) -> usize {
    match c {
        '"' | '\\' | '\n' | '\r' | '\t' => 2,
        _ if c.is_ascii_control() => 6,
        _ => c.len_utf8(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(text: &str) -> Value {
        let words = Words { variant: String::new(), text: text.to_owned(), tip: None };
        let body = addressed(&payload(&words, "Mai", Severity::Error), Some("mai-7"));
        assert!(body.len() <= 2 * MESSAGE_BYTES_MAX, "{}", body.len());
        serde_json::from_str(&body).unwrap()
    }

    #[test]
    fn a_message_has_its_topic_title_priority_and_tag() {
        let expected =
            json!({ "topic": "mai-7", "title": "Mai", "message": "Hé", "priority": 4, "tags": ["rotating_light"] });
        assert_eq!(body("Hé"), expected);
    }

    #[test]
    fn a_long_message_is_cut_between_characters_within_both_limits() {
        for text in ["x".repeat(4097), "é".repeat(3000), "🦊".repeat(2000), "\n".repeat(4096), "\"".repeat(9000)] {
            let body = body(&text);
            let message = body["message"].as_str().unwrap();
            assert!(message.ends_with('…') && message.len() <= MESSAGE_BYTES_MAX, "{}", message.len());
            assert!(message.len() > 3000, "{}", message.len());
        }
        assert_eq!(body(&"x".repeat(4096))["message"].as_str().unwrap().len(), 4096);
    }
}
