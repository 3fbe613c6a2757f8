//! Persona file: the shape of a persona file -> its parts, each knowing where it stands, and what is wrong with its head.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::words;
use crate::decide::notice::Notice;
use crate::policy::diagnostic::Diagnostic;
use crate::policy::yaml::{self, Placed};

/// Who speaks, and how. `tierkeeper check FILE` says more of what is wrong than a schema can, and `tierkeeper persona preview
/// FILE` shows every message.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(title = "Persona"))]
#[serde(deny_unknown_fields)]
pub struct PersonaFile {
    /// The name of who speaks.
    #[cfg_attr(test, schemars(with = "String"))]
    pub name: Placed<String>,
    /// Of its messages, as a language tag such as `en`.
    pub language: Option<String>,
    /// The mood it is in: an `in_mood` list of that name is said instead of `say`.
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub mood: Option<Placed<String>>,
    /// Whether the technical part is told too.
    pub tips: Option<bool>,
    /// Numbers from 0 to 1 that templates can ask for by these names, such as `sarcasm_level`.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "BTreeMap<String, f64>"))]
    pub knobs: BTreeMap<String, Placed<f64>>,
    /// How facts are written in its language; what is left out is English.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "BTreeMap<String, String>"))]
    pub words: BTreeMap<String, Placed<String>>,
    pub messages: MessagesFile,
}

/// What is said of each kind of news.
// One field for each `Notice::event`, so that a missing or an unknown one is told like any other key.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(title = "Messages"))]
#[serde(deny_unknown_fields)]
pub struct MessagesFile {
    /// A smaller model has taken over.
    pub downgraded: EventFile,
    /// A smaller model has taken over, and goes on with replies that were being given.
    pub handed_over: EventFile,
    /// There is too little room to work properly.
    pub resources_wanted: EventFile,
    /// It has been less than it could be for a day.
    pub suggested: EventFile,
    /// A model could not be loaded.
    pub load_failed: EventFile,
    /// A model was loaded without the graphics card.
    pub came_up_on_cpu: EventFile,
    /// The model server kept the memory of a model that it had let go.
    pub memory_kept: EventFile,
    /// No model fits, and none answers.
    pub asleep: EventFile,
    /// Another program keeps loading what was unloaded.
    pub contested: EventFile,
    /// Requests have waited for long.
    pub stalled: EventFile,
    /// A better model is back; told only where `tell.upgrades` is set.
    pub upgraded: EventFile,
}

/// The ways to say it. They are templates: `{{ to }}` is filled in, and what is not always known is asked for first, as in
/// `{% if missing %}...{% endif %}`. config/personas/plain.yaml lists the variables.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(title = "Event"))]
#[serde(deny_unknown_fields)]
pub struct EventFile {
    /// One of these is said.
    #[cfg_attr(test, schemars(with = "Vec<String>", length(min = 1)))]
    pub say: Placed<Vec<Placed<String>>>,
    /// Said instead while the persona is in that mood.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "BTreeMap<String, Vec<String>>"))]
    pub in_mood: BTreeMap<String, Placed<Vec<Placed<String>>>>,
    /// The technical part, which alone may say `{{ reason }}`.
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub tip: Option<Placed<String>>,
}

impl MessagesFile {
    pub fn of(&self, notice: &Notice) -> &EventFile {
        match notice {
            Notice::Downgraded { .. } => &self.downgraded,
            Notice::HandedOver { .. } => &self.handed_over,
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

    pub fn all(&self) -> [&EventFile; 11] {
        [
            &self.downgraded,
            &self.handed_over,
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

#[cfg(test)]
mod tests {
    use schemars::generate::SchemaSettings;
    use serde_json::{Value, json};

    use super::*;
    use crate::tell::persona::{BUILT_IN, Persona};
    use crate::tell::vocabulary::Vocabulary;

    /// That of the types, and what they cannot say.
    fn schema() -> Value {
        let generator = SchemaSettings::draft2020_12().into_generator();
        let mut schema = serde_json::to_value(generator.into_root_schema_for::<PersonaFile>()).unwrap();
        schema["properties"]["name"]["minLength"] = 1.into();
        schema["properties"]["knobs"]["additionalProperties"] = json!({ "type": "number", "minimum": 0, "maximum": 1 });
        schema["$defs"]["EventFile"]["properties"]["in_mood"]["additionalProperties"]["minItems"] = 1.into();
        let words = &mut schema["properties"]["words"];
        words["additionalProperties"] = false.into();
        for (name, english) in Vocabulary::default().words() {
            words["properties"][name] = json!({ "type": "string", "default": english });
        }
        schema
    }

    /// `TIERKEEPER_WRITE_SCHEMA=1 cargo test the_schema` writes it anew.
    #[test]
    fn the_schema_is_that_of_what_is_read() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/schema/persona.json");
        let schema = format!("{}\n", serde_json::to_string_pretty(&schema()).unwrap());
        if std::env::var_os("TIERKEEPER_WRITE_SCHEMA").is_some() {
            std::fs::write(path, &schema).unwrap();
        }
        assert_eq!(
            std::fs::read_to_string(path).unwrap(),
            schema,
            "a persona file is read by other rules than its schema"
        );
    }

    #[test]
    fn the_shipped_personas_are_as_the_schema_has_them_and_what_it_refuses_is_refused() {
        let validator = jsonschema::draft202012::new(&schema()).unwrap();
        let errors = |text: &str| -> Vec<String> {
            let persona: Value = serde_yaml::from_str(text).unwrap();
            validator.iter_errors(&persona).map(|error| error.to_string()).collect()
        };
        for (name, text) in BUILT_IN {
            assert_eq!(errors(text), Vec::<String>::new(), "{name}");
        }
        let mai = BUILT_IN[2].1;
        for (right, wrong) in [
            ("name: Mai", "nam: Mai"),
            ("name: Mai", "name: ''"),
            ("tips: true", "tips: [1]"),
            ("sarcasm_level: 0.6", "sarcasm_level: 1.6"),
            ("while_away:", "while_gone:"),
            ("  stalled:", "  stolen:"),
            ("    in_mood:", "    in_moods:"),
            ("      sleepy:", "      empty: []\n      sleepy:"),
        ] {
            let text = mai.replacen(right, wrong, 1);
            assert!(text != mai && !errors(&text).is_empty(), "{wrong}");
            assert!(Persona::parse(&text, "p.yaml").is_err(), "{wrong}");
        }
    }
}
