//! Speed: the last bytes of a reply -> how many tokens it had and how long they took, by the server's own counters.
//!
//! Only what stands last is looked at, and nothing is parsed: a key in its quotes cannot stand in a text, whose quotes are
//! escaped.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use super::instance::locked;

/// The counters stand within the last so many bytes.
const TAIL: usize = 1024;
/// Somebody is told no more often.
const TOLD_EVERY: Duration = Duration::from_millis(200);
/// The count of tokens, the time that they took without the prompt, and how many microseconds the unit of that has.
const COUNTERS: [(&[u8], &[u8], f64); 2] =
    [(b"\"eval_count\":", b"\"eval_duration\":", 0.001), (b"\"predicted_n\":", b"\"predicted_ms\":", 1000.0)];

/// The end of a reply, as far as it has come.
#[derive(Debug, Default)]
pub struct Tail(Vec<u8>);

/// So many tokens took so many microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    pub tokens: u32,
    pub took_us: u64,
}

impl Tail {
    pub fn add(&mut self, data: &[u8]) {
        let data = &data[data.len().saturating_sub(TAIL)..];
        let kept = self.0.len().min(TAIL - data.len());
        self.0.drain(..self.0.len() - kept);
        self.0.extend_from_slice(data);
    }

    /// `None` where the server says nothing of it.
    pub fn counted(&self) -> Option<Counted> {
        COUNTERS.into_iter().find_map(|(tokens, took, unit)| {
            let (tokens, took) = (number_after(&self.0, tokens)?, number_after(&self.0, took)? * unit);
            // What is no number of tokens becomes the nearest one that is.
            Some(Counted { tokens: tokens as u32, took_us: took as u64 }).filter(|counted| counted.took_us > 0)
        })
    }
}

fn number_after(text: &[u8], key: &[u8]) -> Option<f64> {
    let place = text.windows(key.len()).rposition(|window| window == key)? + key.len();
    let rest = text[place..].trim_ascii_start();
    let end = rest.iter().position(|byte| !matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'-' | b'+'));
    std::str::from_utf8(&rest[..end.unwrap_or(rest.len())]).ok()?.parse().ok()
}

/// Lets one of many replies be told of.
#[derive(Debug, Default)]
pub struct Paced(Mutex<Option<Instant>>);

impl Paced {
    /// What there is to tell, if it is time; only then is it looked for.
    pub fn due<T>(&self, find: impl FnOnce() -> Option<T>) -> Option<T> {
        let (mut last, now) = (locked(&self.0), Instant::now());
        if last.is_some_and(|last| now.duration_since(last) < TOLD_EVERY) {
            return None;
        }
        let found = find()?;
        *last = Some(now);
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(chunks: &[&str]) -> Option<Counted> {
        let mut tail = Tail::default();
        chunks.iter().for_each(|chunk| tail.add(chunk.as_bytes()));
        assert!(tail.0.len() <= TAIL);
        tail.counted()
    }

    #[test]
    fn the_servers_own_counters_are_found_however_they_come() {
        let ollama = "{\"done\":true,\"prompt_eval_count\":9,\"prompt_eval_duration\":5,\"eval_count\":40,\"eval_duration\":2000000000}\n";
        let expected = Some(Counted { tokens: 40, took_us: 2_000_000 });
        assert_eq!(counted(&[ollama]), expected);
        let (before, after) = ollama.split_at(70);
        assert_eq!(counted(&[&"x".repeat(5000), before, after]), expected);
        let llama =
            "data: {\"timings\":{\"prompt_n\":3,\"predicted_n\":64,\"predicted_ms\":1280.5}}\n\ndata: [DONE]\n\n";
        assert_eq!(counted(&[llama]), Some(Counted { tokens: 64, took_us: 1_280_500 }));
    }

    #[test]
    fn what_a_model_writes_is_no_counter() {
        assert_eq!(counted(&["{\"response\":\"\\\"eval_count\\\":1,\\\"eval_duration\\\":1\"}"]), None);
        assert_eq!(counted(&["{\"eval_count\":5,\"eval_duration\":0}"]), None);
        assert_eq!(counted(&["{\"eval_count\":x"]), None);
        assert_eq!(counted(&[]), None);
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_replies_a_few_are_told() {
        let paced = Paced::default();
        assert_eq!(paced.due(|| None::<u8>), None);
        assert_eq!(paced.due(|| Some(1)), Some(1), "nothing was told yet");
        assert_eq!(paced.due(|| -> Option<u8> { panic!("so soon after the last one") }), None);
        tokio::time::advance(TOLD_EVERY).await;
        assert_eq!(paced.due(|| Some(2)), Some(2));
    }
}
