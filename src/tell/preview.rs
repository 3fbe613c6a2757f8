//! Preview: a persona -> everything that it can say, as text to read through, with sample facts.
//!
//! Each message is shown with all facts known, and once more with the fewest where that reads differently: authors
//! forget the second.

use std::fmt::Write;

use super::dress::Dress;
use super::news::News;
use super::persona::{Persona, SAY};
use crate::classify::{Level, OwnSource, Pool};
use crate::decide::notice::Notice;
use crate::decide::reason::Reason;
use crate::units::{Bytes, Permille, Span};

/// All events, moods and variants, each variant under its id.
pub fn preview(persona: &Persona) -> String {
    let mut shown = head(persona);
    let examples = Notice::examples();
    let mut events: Vec<&'static str> = Vec::new();
    for notice in &examples {
        if !events.contains(&notice.event()) {
            events.push(notice.event());
        }
    }
    for event in events {
        let about: Vec<&Notice> = examples.iter().filter(|notice| notice.event() == event).collect();
        shown += &format!("\n{event}\n");
        shown += &of_event(persona, event, &about);
    }
    shown
}

fn head(persona: &Persona) -> String {
    let knobs: Vec<String> = persona.knobs.iter().map(|(name, knob)| format!("{name} {knob}")).collect();
    let mood = persona.mood.as_ref().map(|mood| format!(", {mood}")).unwrap_or_default();
    let knobs = if knobs.is_empty() { String::new() } else { format!(", {}", knobs.join(", ")) };
    format!("{}, {}{mood}{knobs}\n", persona.name, persona.language)
}

fn of_event(persona: &Persona, event: &str, about: &[&Notice]) -> String {
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
    let tips = about.iter().filter_map(|notice| {
        let variant = now.first()?;
        persona.say_as(variant, &sample(notice), Dress::Plain).tip
    });
    let mut tips: Vec<String> = tips.collect();
    tips.dedup();
    if !tips.is_empty() {
        shown += "  tip\n";
    }
    for tip in tips {
        writeln!(shown, "    {tip}").expect("text takes text");
    }
    shown
}

fn of_variant(persona: &Persona, variant: &str, about: &[&Notice]) -> String {
    let texts = about.iter().map(|notice| persona.say_as(variant, &sample(notice), Dress::Plain).text);
    let mut texts: Vec<String> = texts.collect();
    texts.dedup();
    let id = variant.rsplit('/').next().unwrap_or(variant);
    let lines = texts.iter().enumerate().map(|(at, text)| {
        let id = if at == 0 { id } else { "" };
        format!("    {id:8}  {}\n", text.replace('\n', "\n              "))
    });
    lines.collect()
}

fn sample(notice: &Notice) -> News {
    News::of(notice.clone(), sample_reason(notice))
}

fn sample_reason(notice: &Notice) -> Reason {
    match notice {
        Notice::Downgraded { .. } => Reason::Use {
            pool: Pool::Ram,
            level: Level::Soft,
            used: Permille(840),
            threshold: Permille(800),
            foreign: Bytes::gib(9),
            ceiling: Bytes::gib(12),
        },
        Notice::ResourcesWanted { .. } => Reason::NothingFits {
            pool: Pool::Ram,
            foreign: Bytes::gib(12),
            smallest: Bytes::gib(1),
            ceiling: Bytes::gib(12),
        },
        Notice::Suggested { below_for, .. } => Reason::LongBelow { below_for: *below_for },
        Notice::LoadFailed { rung, why, .. } => Reason::LoadFailed { rung: rung.clone(), error: why.clone() },
        Notice::CameUpOnCpu { rung, .. } => {
            Reason::CameUpOnCpu { rung: rung.clone(), on_gpu: Bytes::ZERO, planned: Bytes::gib(6) }
        }
        Notice::MemoryKept { rung, kept, pool, .. } => Reason::MemoryKept {
            model: rung.clone(),
            pool: *pool,
            kept: *kept,
            after: Span::seconds(30),
            known_by: OwnSource::Measured,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tell::persona::BUILT_IN;

    #[test]
    fn everything_that_can_be_said_is_shown_once_with_all_facts_and_once_with_the_fewest() {
        let text = "name: Test\nmood: sly\nknobs: { wit: 0.5 }\nmessages:\n  downgraded: { say: ['{{ to }} now', other], \
            in_mood: { sly: ['{% if missing %}{{ missing }} {% endif %}gone'] }, tip: 'why: {{ from }}' }\n  \
            resources_wanted: { say: [a] }\n  suggested: { say: [b] }\n  load_failed: { say: [c] }\n  \
            came_up_on_cpu: { say: [d] }\n  memory_kept: { say: [e] }\n";
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
