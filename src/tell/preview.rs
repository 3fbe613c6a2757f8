//! Preview: a persona -> everything that it can say, as text to read through, with sample facts.
//!
//! Each message is shown with all facts known, and once more with the fewest where that reads differently: authors
//! forget the second.

use std::fmt::Write;

use super::dress::Dress;
use super::gone::called;
use super::news::News;
use super::persona::{Persona, SAY};
use super::samples::{events, samples};
use super::{digest, gone};
use crate::config::webhooks::WebhookFormat;

/// All events, moods and variants, each variant under its id.
pub fn preview(persona: &Persona) -> String {
    let mut shown = head(persona);
    for event in events() {
        shown += &format!("\n{event}\n");
        shown += &of_event(persona, event, &samples(event));
    }
    shown += &format!("\n{}\n    {}\n", digest::EVENT, persona.while_away());
    let gone = persona.webhook_gone().replacen("{}", called(WebhookFormat::Discord), 1);
    shown += &format!("\n{}\n    {gone}\n", gone::EVENT);
    shown
}

fn head(persona: &Persona) -> String {
    let knobs: Vec<String> = persona.knobs.iter().map(|(name, knob)| format!("{name} {knob}")).collect();
    let mood = persona.mood.as_ref().map(|mood| format!(", {mood}")).unwrap_or_default();
    let knobs = if knobs.is_empty() { String::new() } else { format!(", {}", knobs.join(", ")) };
    format!("{}, {}{mood}{knobs}\n", persona.name, persona.language)
}

fn of_event(persona: &Persona, event: &str, about: &[News]) -> String {
    let mut shown = String::new();
    let Some(sayings) = persona.sayings(event) else { return shown };
    let now = persona.variants(event);
    for (mood, variants) in &sayings.lists {
        if sayings.lists.len() > 1 {
            let mood = if mood == SAY { "in any other mood" } else { mood };
            let said_now = if variants.as_slice() == now { "  <- now" } else { "" };
            shown += &format!("  {mood}{said_now}\n");
        }
        for variant in variants {
            shown += &of_variant(persona, variant, about);
        }
    }
    let tips = about.iter().filter_map(|news| persona.say_as(now.first()?, news, Dress::Plain).tip);
    let tips = unique(tips);
    if !tips.is_empty() {
        shown += "  tip\n";
    }
    for tip in tips {
        writeln!(shown, "    {tip}").expect("text takes text");
    }
    shown
}

/// Each text once, in order.
fn unique(texts: impl Iterator<Item = String>) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    for text in texts {
        if !kept.contains(&text) {
            kept.push(text);
        }
    }
    kept
}

fn of_variant(persona: &Persona, variant: &str, about: &[News]) -> String {
    let texts = about.iter().map(|news| persona.say_as(variant, news, Dress::Plain).text);
    let texts = unique(texts);
    let id = variant.rsplit('/').next().unwrap_or(variant);
    let lines = texts.iter().enumerate().map(|(at, text)| {
        let id = if at == 0 { id } else { "" };
        format!("    {id:8}  {}\n", text.replace('\n', "\n              "))
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tell::persona::BUILT_IN;

    #[test]
    fn everything_that_can_be_said_is_shown_once_with_all_facts_and_once_with_the_fewest() {
        let text = "name: Test\nmood: sly\nknobs: { wit: 0.5 }\nmessages:\n  downgraded: { say: ['{{ to }} now', other], \
            in_mood: { sly: ['{% if missing %}{{ missing }} {% endif %}gone'] }, tip: 'why: {{ from }}' }\n  handed_over: { say: [j] }\n  \
            resources_wanted: { say: [a] }\n  suggested: { say: [b] }\n  load_failed: { say: [c] }\n  \
            came_up_on_cpu: { say: [d] }\n  memory_kept: { say: [e] }\n  asleep: { say: [f] }\n  \
            contested: { say: [g] }\n  stalled: { say: [h] }\n  upgraded: { say: [i] }\n";
        let persona = Persona::parse(text, "p.yaml").unwrap();
        insta::assert_snapshot!(preview(&persona));
    }

    #[test]
    fn what_is_built_in_is_shown_with_every_mood() {
        for (name, text) in BUILT_IN {
            let shown = preview(&Persona::parse(text, name).unwrap());
            let moods = ["sleepy", "grumpy", "helpful", "gremlin", "mentor"];
            assert!(name != "mai" || moods.iter().all(|mood| shown.contains(&format!("  {mood}"))), "{shown}");
            assert!(!shown.contains("/bare") && !shown.contains("{{"), "{shown}");
        }
    }
}
