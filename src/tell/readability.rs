//! Readability: every message of the shipped personas -> whether somebody who never heard of models can read it.
//!
//! Flesch's reading ease (Amstad's for German) with syllables counted as runs of vowels, the longest sentence, and words
//! that only we understand. Tips are left out: they are for those who want to know.

use std::collections::BTreeSet;

use super::dress::Dress;
use super::persona::{BUILT_IN, Persona, SAY};
use super::samples::{events, samples};

const SENTENCE_WORDS_MAX: usize = 20;
const TEXT_LENGTH: std::ops::RangeInclusive<usize> = 10..=280;
/// "Plain": what a pupil of 13 to 15 reads. One message may be somewhat harder, for a name weighs much in it.
const EASE_MIN: f64 = 60.0;
const EASE_MIN_ON_AVERAGE: f64 = 75.0;

const JARGON: &str = "ram vram cpu gpu context token tokens quant quantized quantised swap swapped swapping unload \
    unloaded threshold psi rung rungs ladder tier cgroup footprint inference llm daemon kernel cache buffer oom latency \
    throughput pid evict evicted reclaim drain drained keep-alive pool foreign reserve ceiling severity api http config \
    vramverbrauch kontext schwellwert auslagern entladen prozess kernel";

/// How a text reads.
#[derive(Debug)]
struct Read {
    sentence_words_max: usize,
    ease: f64,
}

fn read(text: &str, language: &str) -> Read {
    let sentences = sentences(text);
    let counted: Vec<usize> = sentences.iter().map(|sentence| words(sentence).count()).collect();
    let count = words(text).count().max(1) as f64;
    let syllables: usize = words(text).map(syllables).sum();
    let per_sentence = count / counted.len().max(1) as f64;
    let per_word = syllables as f64 / count;
    let ease = match language {
        "de" => 180.0 - per_sentence - 58.5 * per_word,
        _ => 206.835 - 1.015 * per_sentence - 84.6 * per_word,
    };
    Read { sentence_words_max: counted.into_iter().max().unwrap_or(0), ease }
}

/// Cut after what ends a sentence, but not within `2.1` or after an ellipsis that goes on.
fn sentences(text: &str) -> Vec<String> {
    let mut found = vec![String::new()];
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        found.last_mut().expect("one was put in").push(c);
        let ends = matches!(c, '.' | '!' | '?' | ':') && rest.peek().is_none_or(|next| next.is_whitespace());
        if ends {
            found.push(String::new());
        }
    }
    found.retain(|sentence| words(sentence).next().is_some());
    found
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    let inside = |c: char| c.is_alphabetic() || c == '\'' || c == '-';
    text.split(move |c| !inside(c)).map(|word| word.trim_matches(['-', '\''])).filter(|word| !word.is_empty())
}

fn syllables(word: &str) -> usize {
    let vowel = |c: char| "aeiouyäöü".contains(c);
    let lower = word.to_lowercase();
    let mut runs = 0;
    let mut before = false;
    for c in lower.chars() {
        runs += usize::from(vowel(c) && !before);
        before = vowel(c);
    }
    // The silent e of "like" and "room" has none; "table" has.
    let silent = lower.ends_with('e') && !lower.ends_with("le") && runs > 1;
    (runs - usize::from(silent)).max(1)
}

/// (persona, every text that it can say, its tips left out)
fn everything_said() -> Vec<(Persona, Vec<String>)> {
    let parsed = BUILT_IN.map(|(name, text)| Persona::parse(text, name).unwrap_or_else(|wrong| panic!("{wrong}")));
    let said = parsed.into_iter().map(|persona| {
        let mut texts = BTreeSet::new();
        for event in events() {
            let sayings = persona.sayings(event).unwrap();
            assert!(sayings.lists.contains_key(SAY));
            for news in samples(event) {
                let said = |variant: &String| persona.say_as(variant, &news, Dress::Plain).text;
                texts.extend(sayings.lists.values().flatten().map(said));
            }
        }
        texts.insert(persona.while_away().to_owned());
        texts.insert(persona.webhook_gone().replacen("{}", "Discord", 1));
        (persona, texts.into_iter().collect())
    });
    said.collect()
}

#[test]
fn the_shipped_personas_are_read_with_ease() {
    for (persona, texts) in everything_said() {
        let read: Vec<Read> = texts.iter().map(|text| read(text, &persona.language)).collect();
        for (text, read) in texts.iter().zip(&read) {
            let easy = read.ease >= EASE_MIN && read.sentence_words_max <= SENTENCE_WORDS_MAX;
            assert!(easy, "{}: {text} {read:?}", persona.name);
        }
        let average = read.iter().map(|one| one.ease).sum::<f64>() / read.len() as f64;
        assert!(average >= EASE_MIN_ON_AVERAGE, "{} in {}: {average:.0}", persona.name, persona.language);
    }
}

#[test]
fn the_shipped_personas_use_no_word_that_only_we_understand() {
    let jargon: BTreeSet<&str> = JARGON.split_whitespace().collect();
    for (persona, texts) in everything_said() {
        for text in texts {
            let found = words(&text).find(|word| jargon.contains(word.to_lowercase().as_str()));
            assert_eq!(found, None, "{}: {text}", persona.name);
            assert!(TEXT_LENGTH.contains(&text.chars().count()), "{text}");
            assert!(!text.contains("  ") && !text.contains("0 B") && !text.ends_with(" ."), "{text}");
        }
    }
}

#[test]
fn a_hard_text_is_told_from_an_easy_one() {
    let easy = read("I am small now. You have room.", "en");
    let hard = read(
        "Insufficient addressable accelerator memory necessitates immediate substitution of the inference configuration.",
        "en",
    );
    assert!(easy.ease > 90.0 && hard.ease < 20.0, "{easy:?} {hard:?}");
    assert_eq!(sentences("It needs 2.1 GiB. Well... yes!").len(), 3);
}
