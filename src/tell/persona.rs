//! Persona: the text of a persona file -> somebody who can put a notice into words, or diagnostics at the line.
//!
//! Everything that can go wrong in a template goes wrong here, when the file is read: each one is tried on every kind
//! of notice that it may meet, with all facts known and with the fewest. Variants take turns by a counter that the
//! caller holds, so that a replay says the same words.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, Value};
use serde::Deserialize;

use super::discord;
use super::faults;
use super::words::{self, Variables};
use crate::decide::notice::Notice;
use crate::decide::reason::Reason;
use crate::policy::diagnostic::{Diagnostic, Diagnostics};
use crate::policy::yaml::{self, Placed};

/// What a template may cost: some thousand times what a message needs, and far from what would be felt.
const FUEL: u64 = 20_000;
/// The longest text, in characters; above every receiver's own limit, below what would be a burden.
const TEXT_LENGTH_MAX: usize = 4_000;
/// The largest persona file.
const FILE_LENGTH_MAX: u64 = 256 * 1024;

const PLAIN: &str = include_str!("../../config/personas/plain.yaml");

/// Who speaks, and how.
pub struct Persona {
    pub name: String,
    /// The language of its messages, as a BCP 47 tag.
    pub language: String,
    pub mood: Option<String>,
    knobs: BTreeMap<String, f64>,
    variants: BTreeMap<&'static str, Variants>,
    templates: Environment<'static>,
}

/// The names of an event's templates.
#[derive(Debug, Default)]
struct Variants {
    texts: Vec<String>,
    tip: Option<String>,
}

/// How values are written into a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dress {
    Plain,
    /// So that no value is taken for Discord's markdown or mentions.
    Discord,
}

/// A message in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    pub text: String,
    /// The technical part, where the persona gives it.
    pub tip: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum PersonaError {
    #[error("the persona file cannot be read: {path}: {source}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("the persona file is larger than {FILE_LENGTH_MAX} bytes: {path}")]
    TooLarge { path: PathBuf },
    #[error("{0}")]
    Invalid(Diagnostics),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PersonaFile {
    name: Placed<String>,
    language: Option<String>,
    mood: Option<Placed<String>>,
    tips: Option<bool>,
    #[serde(default)]
    knobs: BTreeMap<String, Placed<f64>>,
    messages: MessagesFile,
}

/// One field for each `Notice::event`, so that a missing or an unknown one is told like any other key.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MessagesFile {
    downgraded: EventFile,
    resources_wanted: EventFile,
    suggested: EventFile,
    load_failed: EventFile,
    came_up_on_cpu: EventFile,
    memory_kept: EventFile,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventFile {
    say: Placed<Vec<Placed<String>>>,
    /// Said instead while the persona is in that mood.
    #[serde(default)]
    in_mood: BTreeMap<String, Placed<Vec<Placed<String>>>>,
    tip: Option<Placed<String>>,
}

impl MessagesFile {
    fn of(&self, notice: &Notice) -> &EventFile {
        match notice {
            Notice::Downgraded { .. } => &self.downgraded,
            Notice::ResourcesWanted { .. } => &self.resources_wanted,
            Notice::Suggested { .. } => &self.suggested,
            Notice::LoadFailed { .. } => &self.load_failed,
            Notice::CameUpOnCpu { .. } => &self.came_up_on_cpu,
            Notice::MemoryKept { .. } => &self.memory_kept,
        }
    }

    fn all(&self) -> [&EventFile; 6] {
        [
            &self.downgraded,
            &self.resources_wanted,
            &self.suggested,
            &self.load_failed,
            &self.came_up_on_cpu,
            &self.memory_kept,
        ]
    }
}

impl Persona {
    /// The one who speaks when nobody else is configured.
    pub fn plain() -> Self {
        Persona::parse(PLAIN, "plain.yaml").expect("a test reads the built-in persona")
    }

    /// Reads the persona from a file; the plain one when there is none.
    pub fn load(path: Option<&Path>) -> Result<Self, PersonaError> {
        let Some(path) = path else { return Ok(Persona::plain()) };
        let unreadable = |source| PersonaError::Unreadable { path: path.to_owned(), source };
        if std::fs::metadata(path).map_err(unreadable)?.len() > FILE_LENGTH_MAX {
            return Err(PersonaError::TooLarge { path: path.to_owned() });
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        Persona::parse(&text, &path.display().to_string()).map_err(PersonaError::Invalid)
    }

    /// `path` is the name that diagnostics carry.
    pub fn parse(text: &str, path: &str) -> Result<Self, Diagnostics> {
        let file: PersonaFile = yaml::read(text, path)?;
        let mut found = check_head(&file);
        let mut persona = Persona {
            name: file.name.value.trim().to_owned(),
            language: file.language.clone().unwrap_or_else(|| "en".to_owned()),
            mood: file.mood.as_ref().map(|mood| mood.value.clone()),
            knobs: file.knobs.iter().map(|(name, knob)| (name.clone(), knob.value)).collect(),
            variants: BTreeMap::new(),
            templates: environment(),
        };
        let tips = file.tips.unwrap_or(true);
        let mut tried = BTreeSet::new();
        for notice in Notice::examples().iter().filter(|notice| tried.insert(notice.event())) {
            persona.add(text, file.messages.of(notice), notice, &mut found);
            if !tips && let Some(variants) = persona.variants.get_mut(notice.event()) {
                variants.tip = None;
            }
        }
        if found.is_empty() { Ok(persona) } else { Err(Diagnostics::new(path, text, found)) }
    }

    /// Puts a notice into words; `turn` counts the messages of this kind.
    pub fn say(&self, notice: &Notice, reason: &Reason, turn: usize, dress: Dress) -> Words {
        let facts = words::variables(notice, reason);
        let said = self.variants.get(notice.event()).map(|variants| {
            let template = &variants.texts[turn % variants.texts.len()];
            let text = self.fill(template, &facts, dress)?;
            let tip = variants.tip.as_ref().map(|tip| self.fill(tip, &facts, dress)).transpose()?;
            Ok::<_, minijinja::Error>(Words { text, tip: tip.map(|tip| one_line(&tip)).filter(|tip| !tip.is_empty()) })
        });
        match said {
            Some(Ok(words)) => words,
            // Rare enough for the bare truth: every template was tried when the file was read.
            Some(Err(error)) => {
                tracing::warn!(message = "A message could not be put into words.", event = notice.event(), %error);
                bare(&facts, dress)
            }
            None => bare(&facts, dress),
        }
    }

    fn fill(&self, template: &str, facts: &Variables, dress: Dress) -> Result<String, minijinja::Error> {
        let own = [("name", Some(&self.name)), ("language", Some(&self.language)), ("mood", self.mood.as_ref())];
        let own = own.into_iter().filter_map(|(name, value)| Some((name, Value::from(value?.as_str()))));
        let knobs = self.knobs.iter().map(|(name, knob)| (name.as_str(), Value::from(*knob)));
        let facts = facts.iter().map(|(name, value)| (*name, Value::from(value.as_str())));
        let context: BTreeMap<&str, Value> = own.chain(knobs).chain(facts).collect();
        let template = self.templates.get_template(&dressed(template, dress))?;
        let text = template.render(Value::from_pairs(context))?;
        Ok(text.trim().chars().take(TEXT_LENGTH_MAX).collect())
    }

    /// Adds the templates of one event, each once for every dress, and tries them.
    fn add(&mut self, file_text: &str, event: &EventFile, notice: &Notice, found: &mut Vec<Diagnostic>) {
        let in_mood = self.mood.as_ref().and_then(|mood| event.in_mood.get(mood));
        let mut variants = Variants::default();
        let lists = event.in_mood.iter().map(|(mood, list)| (mood.as_str(), list)).chain([("say", &event.say)]);
        for (list_name, list) in lists {
            if list.value.is_empty() {
                found.push(faults::empty_list(list));
            }
            let chosen = std::ptr::eq(list, in_mood.unwrap_or(&event.say));
            for (index, source) in list.value.iter().enumerate() {
                let name = format!("{}/{list_name}/{index}", notice.event());
                self.add_one(file_text, source, name.clone(), notice, &[], found);
                variants.texts.extend(chosen.then_some(name));
            }
        }
        if let Some(tip) = &event.tip {
            let name = format!("{}/tip", notice.event());
            self.add_one(file_text, tip, name.clone(), notice, &[words::ONLY_IN_TIPS], found);
            variants.tip = Some(name);
        }
        self.variants.insert(notice.event(), variants);
    }

    fn add_one(
        &mut self,
        file_text: &str,
        source: &Placed<String>,
        name: String,
        notice: &Notice,
        also_known: &[&'static str],
        found: &mut Vec<Diagnostic>,
    ) {
        for dress in [Dress::Plain, Dress::Discord] {
            if let Err(error) = self.templates.add_template_owned(dressed(&name, dress), source.value.clone()) {
                found.push(faults::does_not_parse(file_text, source, &error));
                return;
            }
        }
        let mut known: Vec<&str> = words::known(notice).iter().chain(also_known).copied().collect();
        known.extend(["name", "language", "mood"]);
        known.extend(self.knobs.keys().map(String::as_str));
        let used =
            self.templates.get_template(&dressed(&name, Dress::Plain)).map(|one| one.undeclared_variables(false));
        let unknown: BTreeSet<String> =
            used.into_iter().flatten().filter(|one| !known.contains(&one.as_str())).collect();
        if !unknown.is_empty() {
            found.extend(unknown.iter().map(|one| faults::unknown_variable(file_text, source, one, notice, &known)));
            return;
        }
        for example in Notice::examples().iter().filter(|example| example.event() == notice.event()) {
            let reason = Reason::LoadFailed { rung: "large".to_owned(), error: "the server ended".to_owned() };
            match self.fill(&name, &words::variables(example, &reason), Dress::Plain) {
                Ok(text) if !text.is_empty() || !also_known.is_empty() => {}
                Ok(_) => return found.push(faults::says_nothing(source)),
                Err(error) => return found.push(faults::cannot_be_filled(file_text, source, &error)),
            }
        }
    }
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
    environment.set_fuel(Some(FUEL));
    environment.set_debug(true);
    // Functions (`range`, `debug`, ...) are nothing that a message needs.
    let functions: Vec<String> = environment.globals().map(|(name, _)| name.to_owned()).collect();
    functions.iter().for_each(|name| environment.remove_global(name));
    environment.set_auto_escape_callback(|name| match name.strip_suffix(DISCORD_SUFFIX) {
        Some(_) => AutoEscape::Custom(DISCORD_SUFFIX.into()),
        None => AutoEscape::None,
    });
    environment.set_formatter(|out, state, value| {
        if value.is_undefined() {
            return Err(ErrorKind::UndefinedError.into());
        }
        let plain = value.to_string();
        let written = if *state.auto_escape() == AutoEscape::None { plain } else { discord::escaped(&plain) };
        Ok(out.write_str(&written)?)
    });
    environment
}

const DISCORD_SUFFIX: &str = "/discord";

fn dressed(template: &str, dress: Dress) -> String {
    match dress {
        Dress::Plain => template.to_owned(),
        Dress::Discord => format!("{template}{DISCORD_SUFFIX}"),
    }
}

fn bare(facts: &Variables, dress: Dress) -> Words {
    let reason = facts.get(words::ONLY_IN_TIPS).map_or("", String::as_str);
    let text = match dress {
        Dress::Plain => reason.to_owned(),
        Dress::Discord => discord::escaped(reason),
    };
    Words { text, tip: None }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What is wrong outside of the templates.
fn check_head(file: &PersonaFile) -> Vec<Diagnostic> {
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

impl fmt::Debug for Persona {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Persona").field("name", &self.name).field("mood", &self.mood).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Span;

    const MAI: &str = include_str!("../../config/personas/mai.yaml");

    fn reason() -> Reason {
        Reason::LongBelow { below_for: Span::hours(25) }
    }

    /// A small persona with this list of messages when it is downgraded, and this head.
    fn file(head: &str, downgraded: &str) -> String {
        format!(
            "name: Test\n{head}messages:\n  downgraded:\n    say: [{downgraded}]\n    tip: \"{{{{ reason }}}}\"\n  resources_wanted: \
             {{ say: [a] }}\n  suggested: {{ say: [b] }}\n  load_failed: {{ say: [c] }}\n  \
             came_up_on_cpu: {{ say: [d] }}\n  memory_kept: {{ say: [e] }}\n"
        )
    }

    fn refused(text: &str) -> String {
        Persona::parse(text, "p.yaml").expect_err("this must be refused").render(false)
    }

    #[test]
    fn the_shipped_personas_say_every_event_in_every_mood_short_and_without_jargon() {
        let moods = ["sleepy", "grumpy", "helpful", "gremlin", "mentor"];
        let mais = moods.map(|mood| MAI.replace("mood: sleepy", &format!("mood: {mood}")));
        for text in mais.iter().map(String::as_str).chain([PLAIN]) {
            let persona = Persona::parse(text, "shipped.yaml").unwrap_or_else(|error| panic!("{error}"));
            for notice in Notice::examples() {
                let variants = persona.variants[notice.event()].texts.len();
                let said: BTreeSet<String> = (0..variants)
                    .map(|turn| {
                        let words = persona.say(&notice, &reason(), turn, Dress::Plain);
                        assert!(words.tip.is_some_and(|tip| tip.contains("25 h")));
                        words.text
                    })
                    .collect();
                assert_eq!(said.len(), variants, "two variants of {} say the same", notice.event());
                for text in said {
                    assert!((10..=240).contains(&text.chars().count()), "{text}");
                    let jargon = ["RAM", "VRAM", "context", "token", "quant", "swap", "unload", "threshold", "PSI"];
                    assert!(!jargon.iter().any(|word| text.contains(word)), "{text}");
                    assert!(!text.contains("  ") && !text.contains("0 B") && !text.ends_with(" ."), "{text}");
                }
            }
        }
    }

    #[test]
    fn mai_speaks_as_her_owner_wrote() {
        let mai = Persona::parse(MAI, "mai.yaml").unwrap();
        let first = |at: usize| mai.say(&Notice::examples()[at], &reason(), 0, Dress::Plain).text;
        let down = "Tch. Things are getting tough, so I had to downgrade a bit. Don't blame me if I'm slower!";
        assert_eq!(first(0), down);
        assert_eq!(first(1), "Ugh, give me more resources if you wanna use large... *sigh* I guess I can try anyway.");
    }

    #[test]
    fn variants_take_turns_and_come_round_again() {
        let persona = Persona::parse(&file("", "one, two, three"), "p.yaml").unwrap();
        let notice = &Notice::examples()[0];
        let said: Vec<String> = (0..4).map(|turn| persona.say(notice, &reason(), turn, Dress::Plain).text).collect();
        assert_eq!(said, ["one", "two", "three", "one"]);
    }

    #[test]
    fn tips_can_be_turned_off() {
        let notice = &Notice::examples()[0];
        let tip = |head: &str| {
            Persona::parse(&file(head, "a"), "p.yaml").unwrap().say(notice, &reason(), 0, Dress::Plain).tip
        };
        assert_eq!(tip("tips: true\n"), Some(reason().to_string()));
        assert_eq!(tip("tips: false\n"), None);
    }

    #[test]
    fn only_values_are_escaped_for_discord_and_not_what_the_author_wrote() {
        let persona = Persona::parse(&file("", "'*sigh* {{ from }} @ {{ from | upper }}'"), "p.yaml").unwrap();
        let fields =
            serde_json::json!({ "event": "downgraded", "from": "@here_*x*", "to": "s", "missing": 1, "pool": "ram" });
        let notice = serde_json::from_value(fields).unwrap();
        let said = persona.say(&notice, &reason(), 0, Dress::Discord).text;
        assert_eq!(said, "*sigh* @\u{200b}here\\_\\*x\\* @ @\u{200b}HERE\\_\\*X\\*");
        assert_eq!(persona.say(&notice, &reason(), 0, Dress::Plain).text, "*sigh* @here_*x* @ @HERE_*X*");
    }

    #[test]
    fn an_unknown_variable_is_pointed_at_and_the_nearest_one_is_offered() {
        insta::assert_snapshot!(refused(&file("", "fine, 'misssing: {{ misssing }}'")), @r"
        error: unknown variable in `downgraded`: `misssing`
         --> p.yaml:4:31
          |
        4 |     say: [fine, 'misssing: {{ misssing }}']
          |                               ^^^^^^^^ nothing of this name is known here
          |
          = expected: one of from, to, serving, missing, pool, suggestion, name, language, mood
          = help: `{{ missing }}`
        ");
    }

    #[test]
    fn an_unknown_variable_is_found_where_no_example_would_reach_it() {
        let report = refused(&file("", "\"x{% if name == 'never' %}{{ oops }}{% endif %}\""));
        assert!(report.contains("unknown variable in `downgraded`: `oops`"), "{report}");
    }

    #[test]
    fn the_reason_is_for_tips_only() {
        let report = refused(&file("", "'{{ reason }}'"));
        assert!(report.contains("only a `tip` may be technical"), "{report}");
    }

    #[test]
    fn a_value_that_may_be_absent_must_be_asked_for_first() {
        insta::assert_snapshot!(refused(&file("", "'I need {{ missing }}.'")), @r"
        error: a value that is not always known
         --> p.yaml:4:22
          |
        4 |     say: ['I need {{ missing }}.']
          |                      ^^^^^^^ may be absent
          |
          = help: `{% if missing %}...{{ missing }}...{% endif %}`
        ");
        assert!(Persona::parse(&file("", "'I need {% if missing %}{{ missing }}{% endif %}.'"), "p.yaml").is_ok());
    }

    #[test]
    fn a_template_that_does_not_parse_is_pointed_at() {
        let report = refused(&file("", "fine, '{{ from '"));
        assert!(report.contains("p.yaml:4") && report.contains("does not parse"), "{report}");
    }

    #[test]
    fn a_missing_and_an_unknown_event_are_pointed_at() {
        let missing = file("", "a").replace("  load_failed: { say: [c] }\n", "");
        assert!(refused(&missing).contains("load_failed"), "{}", refused(&missing));
        let unknown = file("", "a") + "  upgraded: { say: [d] }\n";
        assert!(
            refused(&unknown).contains("upgraded") && refused(&unknown).contains("p.yaml:11"),
            "{}",
            refused(&unknown)
        );
    }

    #[test]
    fn a_mood_knob_or_list_that_cannot_be_is_pointed_at() {
        assert!(refused(&file("knobs: { sarcasm_level: 1.5 }\n", "a")).contains("from 0 to 1"));
        assert!(refused(&file("knobs: { missing: 0.5 }\n", "a")).contains("name is taken"));
        assert!(refused(&file("", "")).contains("nothing to say"));
        let mood = MAI.replace("mood: sleepy", "mood: slepy");
        assert!(refused(&mood).contains("`mood: sleepy`"), "{}", refused(&mood));
        assert!(refused(&file("", "'{% if missing %}x{% endif %}'")).contains("can be empty"));
    }

    #[test]
    fn a_template_cannot_take_the_machine_with_it() {
        let sevens = "'{% for a in \"xxxxxxxxxx\" %}{% for b in \"xxxxxxxxxx\" %}{% for c in \"xxxxxxxxxx\" %}\
            {% for d in \"xxxxxxxxxx\" %}{% for e in \"xxxxxxxxxx\" %}x{% endfor %}{% endfor %}{% endfor %}{% endfor %}{% endfor %}'";
        assert!(refused(&file("", sevens)).contains("too much work"));
        for hazard in ["{{ range(9999999) }}", "{% include 'x' %}", "{{ debug() }}"] {
            refused(&file("", &format!("\"{hazard}\"")));
        }
    }
}
