//! Persona file: the shape of a persona file -> its parts, each knowing where it stands, and what is wrong with its head.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::words;
use crate::decide::notice::Notice;
use crate::policy::diagnostic::Diagnostic;
use crate::policy::yaml::{self, Placed};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PersonaFile {
    pub name: Placed<String>,
    pub language: Option<String>,
    pub mood: Option<Placed<String>>,
    pub tips: Option<bool>,
    #[serde(default)]
    pub knobs: BTreeMap<String, Placed<f64>>,
    /// How facts are written in its language.
    #[serde(default)]
    pub words: BTreeMap<String, Placed<String>>,
    pub messages: MessagesFile,
}

/// One field for each `Notice::event`, so that a missing or an unknown one is told like any other key.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MessagesFile {
    pub downgraded: EventFile,
    pub resources_wanted: EventFile,
    pub suggested: EventFile,
    pub load_failed: EventFile,
    pub came_up_on_cpu: EventFile,
    pub memory_kept: EventFile,
    pub asleep: EventFile,
    pub contested: EventFile,
    pub stalled: EventFile,
    pub upgraded: EventFile,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventFile {
    pub say: Placed<Vec<Placed<String>>>,
    /// Said instead while the persona is in that mood.
    #[serde(default)]
    pub in_mood: BTreeMap<String, Placed<Vec<Placed<String>>>>,
    pub tip: Option<Placed<String>>,
}

impl MessagesFile {
    pub fn of(&self, notice: &Notice) -> &EventFile {
        match notice {
            Notice::Downgraded { .. } => &self.downgraded,
            Notice::ResourcesWanted { .. } => &self.resources_wanted,
            Notice::Suggested { .. } => &self.suggested,
            Notice::LoadFailed { .. } => &self.load_failed,
            Notice::CameUpOnCpu { .. } => &self.came_up_on_cpu,
            Notice::MemoryKept { .. } => &self.memory_kept,
            Notice::Asleep { .. } => &self.asleep,
            Notice::Contested { .. } => &self.contested,
            Notice::Stalled { .. } => &self.stalled,
            Notice::Upgraded { .. } => &self.upgraded,
        }
    }

    pub fn all(&self) -> [&EventFile; 10] {
        [
            &self.downgraded,
            &self.resources_wanted,
            &self.suggested,
            &self.load_failed,
            &self.came_up_on_cpu,
            &self.memory_kept,
            &self.asleep,
            &self.contested,
            &self.stalled,
            &self.upgraded,
        ]
    }
}

/// What is wrong outside of the templates.
pub fn check_head(file: &PersonaFile) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    if file.name.value.trim().is_empty() {
        found.push(Diagnostic::new(file.name.span.clone(), "the persona has no name", "empty").help("`name: Mai`"));
    }
    let facts: BTreeSet<&str> = Notice::examples().iter().flat_map(words::known).copied().collect();
    for (name, knob) in &file.knobs {
        if !(0.0..=1.0).contains(&knob.value) {
            let title = format!("a knob goes from 0 to 1: `{name}`");
            found.push(Diagnostic::new(knob.span.clone(), title, "out of range").help(format!("`{name}: 0.5`")));
        }
        if facts.contains(name.as_str()) || ["name", "language", "mood", words::ONLY_IN_TIPS].contains(&name.as_str()) {
            let title = format!("this name is taken by a variable of every message: `{name}`");
            found.push(Diagnostic::new(knob.key.clone(), title, "taken").help(format!("`{name}_level: 0.5`")));
        }
    }
    let written: BTreeSet<&str> =
        file.messages.all().into_iter().flat_map(|event| event.in_mood.keys()).map(String::as_str).collect();
    if let Some(mood) = &file.mood
        && !written.is_empty()
        && !written.contains(mood.value.as_str())
    {
        let moods: Vec<&str> = written.into_iter().collect();
        let nearest = yaml::nearest(&mood.value, moods.iter().copied()).unwrap_or(moods[0]);
        found.push(
            Diagnostic::new(
                mood.span.clone(),
                format!("no message is written for this mood: `{}`", mood.value),
                "unknown",
            )
            .expected(format!("one that stands under an `in_mood`: {}", moods.join(", ")))
            .help(format!("`mood: {nearest}`")),
        );
    }
    found
}
