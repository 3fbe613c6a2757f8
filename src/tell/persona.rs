//! Persona: the text of a persona file -> somebody who can put a notice into words, or diagnostics at the line.
//!
//! Everything that can go wrong in a template goes wrong here, when the file is read: each one is tried on every kind
//! of notice that it may meet, with all facts known and with the fewest. Variants take turns by a counter that the
//! caller holds, so that a replay says the same words.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use minijinja::{Environment, Value};

use super::discord;
use super::dress::{Dress, dressed, environment};
use super::faults;
use super::limits;
use super::news::News;
use super::persona_file::{EventFile, PersonaFile, check_head};
use super::samples::samples;
use super::vocabulary::Vocabulary;
use super::words::{self, Variables};
use crate::decide::notice::Notice;
use crate::policy::diagnostic::{Diagnostic, Diagnostics};
use crate::policy::yaml::{self, Placed};

/// The longest text, in characters; above every receiver's own limit, below what would be a burden.
const TEXT_LENGTH_MAX: usize = 4_000;
/// The largest persona file.
const FILE_LENGTH_MAX: u64 = 256 * 1024;

/// Those who come with the program, by the names that a config can give them.
pub const BUILT_IN: [(&str, &str); 3] = [
    ("plain", include_str!("../../config/personas/plain.yaml")),
    ("plain-de", include_str!("../../config/personas/plain-de.yaml")),
    ("mai", include_str!("../../config/personas/mai.yaml")),
];

/// Who speaks, and how.
pub struct Persona {
    pub name: String,
    /// The language of its messages, as a BCP 47 tag.
    pub language: String,
    pub mood: Option<String>,
    pub knobs: BTreeMap<String, f64>,
    vocabulary: Vocabulary,
    events: BTreeMap<&'static str, Sayings>,
    templates: Environment<'static>,
}

/// The list that is said while no list is written for the mood.
pub const SAY: &str = "say";

/// What can be said of one kind of notice: the ids of the variants, which are the names of their templates too.
///
/// An id is the event and a hash of the text: it stays while other variants come and go, and another text is another
/// variant, for what was measured of the old one says nothing of it.
#[derive(Debug, Default)]
pub struct Sayings {
    /// By mood, and under `SAY`.
    pub lists: BTreeMap<String, Vec<String>>,
    tip: Option<String>,
}

/// A message in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    /// Which variant it is: `downgraded/1a2b3c4d`.
    pub variant: String,
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

impl Persona {
    /// The one who speaks when nobody else is configured.
    pub fn plain() -> Self {
        Persona::parse(BUILT_IN[0].1, "plain.yaml").expect("a test reads the built-in persona")
    }

    /// Reads the persona from a file, or finds the built-in one of that name; the plain one when there is none.
    pub fn load(path: Option<&Path>) -> Result<Self, PersonaError> {
        let Some(path) = path else { return Ok(Persona::plain()) };
        let built_in = BUILT_IN.iter().find(|(name, _)| path.file_name().is_some_and(|file| file == *name));
        if let Some((name, text)) = built_in.filter(|_| !path.exists()) {
            return Persona::parse(text, &format!("{name}.yaml")).map_err(PersonaError::Invalid);
        }
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
        let vocabulary = Vocabulary::of(&file.words, &mut found);
        let mut persona = Persona {
            name: file.name.value.trim().to_owned(),
            language: file.language.clone().unwrap_or_else(|| "en".to_owned()),
            mood: file.mood.as_ref().map(|mood| mood.value.clone()),
            knobs: file.knobs.iter().map(|(name, knob)| (name.clone(), knob.value)).collect(),
            vocabulary,
            events: BTreeMap::new(),
            templates: environment(),
        };
        let tips = file.tips.unwrap_or(true);
        let mut tried = BTreeSet::new();
        for notice in Notice::examples().iter().filter(|notice| tried.insert(notice.event())) {
            persona.add(text, file.messages.of(notice), notice, &mut found);
            if !tips && let Some(sayings) = persona.events.get_mut(notice.event()) {
                sayings.tip = None;
            }
        }
        if found.is_empty() { Ok(persona) } else { Err(Diagnostics::new(path, text, found)) }
    }

    /// The ids of what can be said of such an event in the mood that is set.
    pub fn variants(&self, event: &str) -> &[String] {
        let lists = self.events.get(event).map(|sayings| &sayings.lists);
        let in_mood = |lists: &'_ BTreeMap<String, Vec<String>>| {
            self.mood.as_deref().filter(|mood| lists.contains_key(*mood)).unwrap_or(SAY).to_owned()
        };
        lists.and_then(|lists| lists.get(&in_mood(lists))).map_or(&[], Vec::as_slice)
    }

    /// Everything that can be said of such an event, by mood.
    pub fn sayings(&self, event: &str) -> Option<&Sayings> {
        self.events.get(event)
    }

    /// How this persona begins a digest of what came too late.
    pub fn while_away(&self) -> &str {
        self.vocabulary.while_away()
    }

    /// How this persona says that a webhook is gone.
    pub fn webhook_gone(&self) -> &str {
        self.vocabulary.webhook_gone()
    }

    /// Puts a notice into words; `turn` counts the messages of this kind.
    pub fn say(&self, news: &News, turn: usize, dress: Dress) -> Words {
        let variants = self.variants(news.notice.event());
        let variant = variants.get(turn % variants.len().max(1)).map_or("", String::as_str);
        self.say_as(variant, news, dress)
    }

    /// Puts a notice into the words of one variant.
    pub fn say_as(&self, variant: &str, news: &News, dress: Dress) -> Words {
        let notice = &news.notice;
        let facts = words::variables(news, &self.vocabulary);
        let tip = self.events.get(notice.event()).and_then(|sayings| sayings.tip.as_ref());
        let filled = || {
            let text = self.fill(variant, &facts, dress)?;
            let tip = tip.map(|tip| self.fill(tip, &facts, dress)).transpose()?;
            let tip = tip.map(|tip| one_line(&tip)).filter(|tip| !tip.is_empty());
            Ok::<_, minijinja::Error>(Words { variant: variant.to_owned(), text, tip })
        };
        filled().unwrap_or_else(|error| {
            // Rare enough for the bare truth: every template was tried when the file was read.
            tracing::warn!(message = "A message could not be put into words.", event = notice.event(), %error);
            bare(notice, &facts, dress)
        })
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
        let mut sayings = Sayings::default();
        let lists = event.in_mood.iter().map(|(mood, list)| (mood.as_str(), list)).chain([(SAY, &event.say)]);
        for (list_name, list) in lists {
            if list.value.is_empty() {
                found.push(faults::empty_list(list));
            }
            let ids = sayings.lists.entry(list_name.to_owned()).or_default();
            for source in &list.value {
                let id = variant_id(notice.event(), &source.value);
                self.add_one(file_text, source, id.clone(), notice, &[], found);
                ids.push(id);
            }
        }
        if let Some(tip) = &event.tip {
            let name = format!("{}/tip", notice.event());
            self.add_one(file_text, tip, name.clone(), notice, &[words::ONLY_IN_TIPS], found);
            sayings.tip = Some(name);
        }
        self.events.insert(notice.event(), sayings);
        if found.is_empty() {
            found.extend(self.too_long(event, notice.event()));
        }
    }

    /// The messages of an event that some format would have to cut.
    fn too_long(&self, event: &EventFile, name: &str) -> Vec<Diagnostic> {
        let sources = event.in_mood.values().chain([&event.say]).flat_map(|list| &list.value);
        let judged = sources.filter_map(|source| {
            let id = variant_id(name, &source.value);
            let too_long = samples(name).into_iter().find_map(|news| {
                let said = |dress| self.say_as(&id, &news, dress);
                limits::too_long(&said(Dress::Discord), &said(Dress::Plain))
            })?;
            Some(faults::too_long(source, too_long))
        });
        judged.collect()
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
        for news in samples(notice.event()) {
            match self.fill(&name, &words::variables(&news, &self.vocabulary), Dress::Plain) {
                Ok(text) if !text.is_empty() || !also_known.is_empty() => {}
                Ok(_) => return found.push(faults::says_nothing(source)),
                Err(error) => return found.push(faults::cannot_be_filled(file_text, source, &error)),
            }
        }
    }
}

/// FNV-1a of the text, beside the event's name.
fn variant_id(event: &str, text: &str) -> String {
    let hash = text.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("{event}/{hash:08x}")
}

fn bare(notice: &Notice, facts: &Variables, dress: Dress) -> Words {
    let reason = facts.get(words::ONLY_IN_TIPS).map_or("", String::as_str);
    let text = match dress {
        Dress::Plain => reason.to_owned(),
        Dress::Discord => discord::escaped(reason),
    };
    Words { variant: format!("{}/bare", notice.event()), text, tip: None }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl fmt::Debug for Persona {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Persona").field("name", &self.name).field("mood", &self.mood).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::reason::Reason;
    use crate::units::Span;

    const PLAIN: &str = BUILT_IN[0].1;
    const GERMAN: &str = BUILT_IN[1].1;
    const MAI: &str = BUILT_IN[2].1;

    fn news(notice: &Notice) -> News {
        News::of(notice.clone(), Reason::LongBelow { below_for: Span::hours(25) })
    }

    /// A small persona with this list of messages when it is downgraded, and this head.
    fn file(head: &str, downgraded: &str) -> String {
        format!(
            "name: Test\n{head}messages:\n  downgraded:\n    say: [{downgraded}]\n    tip: \"{{{{ reason }}}}\"\n  handed_over: {{ say: [j] }}\n  resources_wanted: \
             {{ say: [a] }}\n  suggested: {{ say: [b] }}\n  load_failed: {{ say: [c] }}\n  \
             came_up_on_cpu: {{ say: [d] }}\n  memory_kept: {{ say: [e] }}\n  asleep: {{ say: [f] }}\n  \
             contested: {{ say: [g] }}\n  stalled: {{ say: [h] }}\n  upgraded: {{ say: [i] }}\n"
        )
    }

    fn refused(text: &str) -> String {
        Persona::parse(text, "p.yaml").expect_err("this must be refused").render(false)
    }

    #[test]
    fn the_shipped_personas_say_every_event_in_every_mood_in_several_ways() {
        let moods = ["sleepy", "grumpy", "helpful", "gremlin", "mentor"];
        let mais = moods.map(|mood| MAI.replace("mood: sleepy", &format!("mood: {mood}")));
        for text in mais.iter().map(String::as_str).chain([PLAIN, GERMAN]) {
            let persona = Persona::parse(text, "shipped.yaml").unwrap_or_else(|error| panic!("{error}"));
            for notice in Notice::examples() {
                let variants = persona.variants(notice.event()).len();
                let said: BTreeSet<String> = (0..variants)
                    .map(|turn| {
                        let words = persona.say(&news(&notice), turn, Dress::Plain);
                        assert!(words.tip.is_some_and(|tip| tip.contains("25 h")));
                        words.text
                    })
                    .collect();
                assert_eq!(said.len(), variants, "two variants of {} say the same", notice.event());
                let in_any_mood = &persona.sayings(notice.event()).unwrap().lists[SAY];
                assert!(in_any_mood.len() > 1, "{} has one way to say {}", persona.name, notice.event());
            }
        }
    }

    #[test]
    fn mai_speaks_as_her_owner_wrote() {
        let mai = Persona::parse(MAI, "mai.yaml").unwrap();
        let first = |at: usize| mai.say(&news(&Notice::examples()[at]), 0, Dress::Plain).text;
        let down = "Tch. Things are getting tough, so I had to downgrade a bit. Don't blame me if I'm slower!";
        assert_eq!(first(0), down);
        assert_eq!(first(1), "Ugh, give me more resources if you wanna use large... *sigh* I guess I can try anyway.");
    }

    #[test]
    fn variants_take_turns_and_come_round_again() {
        let persona = Persona::parse(&file("", "one, two, three"), "p.yaml").unwrap();
        let notice = &Notice::examples()[0];
        let said: Vec<String> = (0..4).map(|turn| persona.say(&news(notice), turn, Dress::Plain).text).collect();
        assert_eq!(said, ["one", "two", "three", "one"]);
    }

    #[test]
    fn a_variant_keeps_its_id_while_others_come_and_go_and_another_text_is_another_variant() {
        let ids =
            |downgraded: &str| Persona::parse(&file("", downgraded), "p.yaml").unwrap().variants("downgraded").to_vec();
        // Written down here, for what is kept of them outlives this program.
        assert_eq!(ids("one, two"), ["downgraded/ba2719ef", "downgraded/be248829"]);
        assert_eq!(ids("zero, two")[1], ids("one, two")[1]);
        assert_ne!(ids("one."), ids("one"));
        let persona = Persona::parse(&file("", "one, two"), "p.yaml").unwrap();
        let said = persona.say(&news(&Notice::examples()[0]), 1, Dress::Plain);
        assert_eq!(said.variant, ids("one, two")[1]);
    }

    #[test]
    fn tips_can_be_turned_off() {
        let notice = &Notice::examples()[0];
        let tip =
            |head: &str| Persona::parse(&file(head, "a"), "p.yaml").unwrap().say(&news(notice), 0, Dress::Plain).tip;
        assert_eq!(tip("tips: true\n"), Some(news(notice).reason.to_string()));
        assert_eq!(tip("tips: false\n"), None);
    }

    #[test]
    fn only_values_are_escaped_for_discord_and_not_what_the_author_wrote() {
        let persona = Persona::parse(&file("", "'*sigh* {{ from }} @ {{ from | upper }}'"), "p.yaml").unwrap();
        let fields =
            serde_json::json!({ "event": "downgraded", "from": "@here_*x*", "to": "s", "missing": 1, "pool": "ram" });
        let notice = serde_json::from_value(fields).unwrap();
        let said = persona.say(&news(&notice), 0, Dress::Discord).text;
        assert_eq!(said, "*sigh* @\u{200b}here\\_\\*x\\* @ @\u{200b}HERE\\_\\*X\\*");
        assert_eq!(persona.say(&news(&notice), 0, Dress::Plain).text, "*sigh* @here_*x* @ @HERE_*X*");
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
          = expected: one of from, to, serving, missing, pool, suggestion, close, enough_for, name, language, mood
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
    fn a_message_that_a_format_would_cut_is_pointed_at() {
        assert!(Persona::parse(&file("", &"x".repeat(1900)), "p.yaml").is_ok());
        let report = refused(&file("", &format!("fine, {}", "x".repeat(1990))));
        assert!(report.contains("too long for Discord") && report.contains("p.yaml:4:17"), "{report}");
        let report = refused(&file("", &format!("'{}'", "<".repeat(999))));
        assert!(report.contains("too long for Slack") && report.contains("at most 4000"), "{report}");
        let report = refused(&file("", &"字".repeat(1400)));
        assert!(report.contains("too long for ntfy") && report.contains("at most 4096 bytes"), "{report}");
    }

    #[test]
    fn words_of_another_language_take_the_place_of_the_english_ones() {
        let head = "language: de\nwords: { use_again: '{} wieder nehmen', decimal_point: ',' }\n";
        let persona =
            Persona::parse(&file(head, "'{{ suggestion }}{% if missing %} {{ missing }}{% endif %}'"), "p.yaml");
        let said = persona.unwrap().say(&news(&Notice::examples()[0]), 0, Dress::Plain).text;
        assert_eq!(said, "large wieder nehmen 2,1 GiB");
        assert!(refused(&file("words: { use_agian: '{}' }\n", "a")).contains("`use_again:`"));
        assert!(refused(&file("words: { days: Tage }\n", "a")).contains("{} days"));
    }

    #[test]
    fn a_built_in_persona_is_found_by_its_name_unless_a_file_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mai");
        assert_eq!(Persona::load(Some(&path)).unwrap().name, "Mai");
        std::fs::write(&path, file("", "a")).unwrap();
        assert_eq!(Persona::load(Some(&path)).unwrap().name, "Test");
        assert!(Persona::load(Some(&folder.path().join("mia"))).is_err());
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
        let unknown = file("", "a") + "  delighted: { say: [d] }\n";
        assert!(
            refused(&unknown).contains("delighted") && refused(&unknown).contains("p.yaml:16"),
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
