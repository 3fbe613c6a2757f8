//! Words: what there is to tell -> the variables that a persona's templates are filled with.
//!
//! They are words and not numbers, so that a template cannot get a unit wrong. What is not known is absent, and a
//! template that prints it all the same is refused when the persona is read, not when it has something to say.

use std::collections::BTreeMap;

use super::news::News;
use super::suggest::{Suggestion, suggest};
use super::vocabulary::Vocabulary;
use crate::classify::Pool;
use crate::decide::notice::Notice;
use crate::units::Bytes;

/// The longest value that is put into a message, in characters: a server's error may be a page.
const VALUE_LENGTH_MAX: usize = 200;
/// The same for `reason`, which is a sentence of ours around such a value.
const REASON_LENGTH_MAX: usize = 600;
/// The same for the programs that could be closed.
const PROGRAMS_LENGTH_MAX: usize = 240;

/// Only the tip may be technical.
pub const ONLY_IN_TIPS: &str = "reason";

/// The variables of one message.
pub type Variables = BTreeMap<&'static str, String>;

/// What a template may say about this notice.
pub fn variables(news: &News, vocabulary: &Vocabulary) -> Variables {
    let News { notice, reason, .. } = news;
    let mut words = Variables::from([(ONLY_IN_TIPS, shortened(&reason.to_string(), REASON_LENGTH_MAX))]);
    let mut put = |name, value: &str| {
        words.insert(name, shortened(value, VALUE_LENGTH_MAX));
    };
    match notice {
        Notice::Downgraded { from, to, missing, pool } => {
            put_way_down(&mut put, from, to, vocabulary);
            put_missing(&mut put, *missing, *pool, vocabulary);
        }
        Notice::HandedOver { from, to, replies, missing, pool } => {
            put_way_down(&mut put, from, to, vocabulary);
            put("replies", &replies.to_string());
            put_missing(&mut put, *missing, *pool, vocabulary);
        }
        Notice::ResourcesWanted { serving, wanted, missing, pool } => {
            put_serving(&mut put, serving.as_deref());
            put("wanted", wanted);
            put("suggestion", &vocabulary.using(wanted));
            put_missing(&mut put, *missing, *pool, vocabulary);
        }
        Notice::Suggested { serving, wanted, missing, pool, below_for } => {
            put_serving(&mut put, serving.as_deref());
            put("wanted", wanted);
            put("suggestion", &vocabulary.using_again(wanted));
            put("below_for", &vocabulary.time(*below_for));
            put_missing(&mut put, *missing, *pool, vocabulary);
        }
        Notice::LoadFailed { rung, why: _, serving } => {
            put_serving(&mut put, serving.as_deref());
            put("wanted", rung);
            put("suggestion", &vocabulary.using(rung));
        }
        Notice::CameUpOnCpu { rung, serving } => {
            put_serving(&mut put, serving.as_deref());
            put("wanted", rung);
            put("suggestion", &vocabulary.using(rung));
        }
        Notice::Asleep { wanted, missing, pool } => {
            put("wanted", wanted);
            put("suggestion", &vocabulary.using_again(wanted));
            put_missing(&mut put, *missing, *pool, vocabulary);
        }
        Notice::Contested { rung, serving } => {
            put_serving(&mut put, serving.as_deref());
            put("other", rung);
        }
        Notice::Stalled { waiting, waited } => {
            put("waiting", &waiting.to_string());
            put("waited", &vocabulary.time(*waited));
        }
        Notice::Upgraded { from, to, is_best: _ } => {
            put("to", to);
            if let Some(from) = from {
                put("from", from);
            }
        }
        Notice::MemoryKept { rung, kept, pool, serving } => {
            put_serving(&mut put, serving.as_deref());
            put("from", rung);
            put_missing(&mut put, *kept, *pool, vocabulary);
        }
    }
    if let Some(Suggestion { close, enough_for }) = suggest(news) {
        words.insert("close", shortened(&vocabulary.programs(&close), PROGRAMS_LENGTH_MAX));
        words.extend(enough_for.map(|rung| ("enough_for", shortened(&rung, VALUE_LENGTH_MAX))));
    }
    words
}

/// Every variable that messages about this kind of notice may name, whether or not it is always known.
pub fn known(notice: &Notice) -> &'static [&'static str] {
    match notice {
        Notice::Downgraded { .. } => &["from", "to", "serving", "missing", "pool", "suggestion", "close", "enough_for"],
        Notice::HandedOver { .. } => {
            &["from", "to", "serving", "replies", "missing", "pool", "suggestion", "close", "enough_for"]
        }
        Notice::ResourcesWanted { .. } => {
            &["serving", "wanted", "missing", "pool", "suggestion", "close", "enough_for"]
        }
        Notice::Suggested { .. } => {
            &["serving", "wanted", "missing", "pool", "below_for", "suggestion", "close", "enough_for"]
        }
        Notice::LoadFailed { .. } | Notice::CameUpOnCpu { .. } => &["serving", "wanted", "suggestion"],
        Notice::Asleep { .. } => &["wanted", "missing", "pool", "suggestion", "close", "enough_for"],
        Notice::Contested { .. } => &["other", "serving"],
        Notice::Stalled { .. } => &["waiting", "waited"],
        Notice::Upgraded { .. } => &["from", "to"],
        Notice::MemoryKept { .. } => &["from", "serving", "missing", "pool"],
    }
}

fn put_way_down(put: &mut impl FnMut(&'static str, &str), from: &str, to: &str, vocabulary: &Vocabulary) {
    put("from", from);
    put("to", to);
    put("serving", to);
    put("suggestion", &vocabulary.using_again(from));
}

fn put_serving(put: &mut impl FnMut(&'static str, &str), serving: Option<&str>) {
    if let Some(serving) = serving {
        put("serving", serving);
    }
}

/// What was not about bytes (stalls, say) misses none, and "0 B are missing" would be nonsense.
fn put_missing(put: &mut impl FnMut(&'static str, &str), missing: Bytes, pool: Pool, vocabulary: &Vocabulary) {
    put("pool", vocabulary.pool(pool));
    if missing > Bytes::ZERO {
        put("missing", &vocabulary.amount(missing));
    }
}

/// One line of at most so many characters.
pub fn shortened(text: &str, length_max: usize) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.chars().count() <= length_max {
        return line;
    }
    line.chars().take(length_max - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::reason::Reason;
    use crate::units::Span;

    fn notice(fields: serde_json::Value) -> Notice {
        serde_json::from_value(fields).unwrap()
    }

    fn said(notice: Notice, reason: Reason) -> Variables {
        variables(&News::of(notice, reason), &Vocabulary::default())
    }

    #[test]
    fn amounts_and_times_are_words_and_what_is_unknown_is_absent() {
        let suggested = |serving: Option<&str>, missing: u64, below_for: Span| {
            let (event, wanted, pool) = ("suggested", "large", "vram");
            notice(serde_json::json!({ "event": event, "serving": serving, "wanted": wanted, "missing": missing,
                "pool": pool, "below_for": below_for }))
        };
        let words = said(suggested(Some("small"), 2_254_857_830, Span::hours(26)), Reason::Stopping);
        assert_eq!(words["missing"], "2.1 GiB");
        assert_eq!(words["pool"], "graphics memory");
        assert_eq!(words["below_for"], "a day");
        assert_eq!(words["serving"], "small");
        let words = said(suggested(None, 0, Span::hours(50)), Reason::Stopping);
        assert!(!words.contains_key("missing") && !words.contains_key("serving"), "{words:?}");
        assert_eq!(words["below_for"], "2 days");
    }

    #[test]
    fn values_are_one_short_line() {
        let long = said(
            notice(serde_json::json!({ "event": "load_failed", "rung": "a\nb".repeat(500), "why": "" })),
            Reason::LoadFailed { rung: "r".to_owned(), error: "é".repeat(5000) },
        );
        assert_eq!(long["wanted"].chars().count(), VALUE_LENGTH_MAX);
        assert!(!long["wanted"].contains('\n'));
        assert_eq!(long["reason"].chars().count(), REASON_LENGTH_MAX);
    }
}
