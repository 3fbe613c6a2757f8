//! Layers: one file, variable or flag after the other -> figment, each value knowing which it came from.

use std::path::{Path, PathBuf};

use figment::error::Kind;
use figment::value::{Dict, Map, Value};
use figment::{Error, Figment, Metadata, Profile, Provider};

use super::address::without_secrets;
use super::settings::Settings;
use crate::policy::diagnostic::{Diagnostic, Diagnostics};
use crate::policy::yaml::{self, Hints, nearest};

/// Every key that a variable can set, and how its text is taken.
pub(super) const KEYS: [(&str, Form); 33] = [
    ("server.url", Form::Text),
    ("server.kind", Form::Text),
    ("gateway", Form::Text),
    ("gateway.listen", Form::Text),
    ("gateway.alias", Form::List),
    ("gateway.trusted_network", Form::Parsed),
    ("gateway.token_file", Form::Text),
    ("gateway.hosts", Form::List),
    ("gateway.hold.count", Form::Parsed),
    ("gateway.hold.bytes", Form::Text),
    ("gateway.hold.age", Form::Text),
    ("gateway.body_max", Form::Text),
    ("gateway.in_band.header", Form::Parsed),
    ("gateway.in_band.asleep", Form::Parsed),
    ("admin.listen", Form::Text),
    ("admin.token_file", Form::Text),
    ("admin.hosts", Form::List),
    ("policy", Form::Text),
    ("tell.persona", Form::Text),
    ("tell.upgrades", Form::Parsed),
    ("tell.quiet_hours", Form::Text),
    ("tell.privacy", Form::Text),
    ("tell.webhooks", Form::Parsed),
    ("tell.experiments.withhold", Form::Text),
    ("tell.experiments.within", Form::Text),
    ("tell.experiments.favour", Form::Parsed),
    ("ollama.derive_models", Form::Parsed),
    ("sampling.nvml", Form::Text),
    ("store", Form::Text),
    ("pretend.memory", Form::Text),
    ("pretend.vram", Form::Text),
    ("observe", Form::Parsed),
    ("stop_grace", Form::Text),
];

/// How the text of a variable is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// As it stands: a name made of digits stays a name.
    Text,
    /// `one,two`, or `[one, two]`.
    List,
    /// As a boolean, number or list, in figment's form.
    Parsed,
}

const PREFIX: &str = "TIERKEEPER_";

/// Where a value was written.
#[derive(Clone, Debug)]
pub(super) enum Place {
    File {
        path: PathBuf,
        text: String,
    },
    /// A variable or a flag: its name with its `=` or space, and its value.
    Word {
        kind: &'static str,
        name: String,
        value: String,
    },
}

impl Place {
    /// As `explain` names it.
    pub(super) fn name(&self) -> String {
        match self {
            Place::File { path, .. } => path.display().to_string(),
            Place::Word { name, .. } => name.trim_end_matches(['=', ' ']).to_owned(),
        }
    }

    /// A message about the value of `key`, which was written here.
    pub(super) fn diagnostics(
        &self,
        key: &str,
        make: impl FnOnce(std::ops::Range<usize>) -> Diagnostic,
    ) -> Diagnostics {
        match self {
            Place::File { path, text } => {
                let span = yaml::find(text, key).unwrap_or(0..0);
                shown(&path.display().to_string(), text, vec![make(span)])
            }
            Place::Word { kind, name, value } => {
                let text = format!("{name}{value}");
                let span = name.len()..text.len();
                shown(kind, &text, vec![make(span)])
            }
        }
    }
}

/// Diagnostics that hold no secrets: not in the text that is quoted, and not in their words.
pub(super) fn shown(path: &str, text: &str, list: Vec<Diagnostic>) -> Diagnostics {
    let hidden = |one: Diagnostic| Diagnostic {
        title: without_secrets(&one.title),
        label: without_secrets(&one.label),
        expected: one.expected.as_deref().map(without_secrets),
        help: one.help.as_deref().map(without_secrets),
        span: one.span,
    };
    Diagnostics::new(path, &without_secrets(text), list.into_iter().map(hidden).collect())
}

/// All layers, mildest first. The name of each one's metadata is its number in `places`.
pub(super) struct Layers {
    pub figment: Figment,
    pub places: Vec<Place>,
    pub wrong: Vec<Diagnostics>,
}

impl Layers {
    pub(super) fn new() -> Self {
        Layers { figment: Figment::new(), places: Vec::new(), wrong: Vec::new() }
    }

    pub(super) fn file(&mut self, path: &Path, text: String) {
        let name = path.display().to_string();
        let reading = yaml::read_all::<Settings>(&text, HINTS);
        // A file of comments only is a file in which nothing is set.
        if commented_out(&text) {
            return;
        }
        match reading.value {
            Some(settings) if reading.found.is_empty() => {
                let settings = settings.based_on(path.parent().unwrap_or(Path::new("")));
                let dict = dict_of(&settings);
                self.merge(dict, Place::File { path: path.to_owned(), text });
            }
            Some(_) | None => self.wrong.push(shown(&name, &text, reading.found)),
        }
    }

    /// The variables that begin with our prefix; one that names no setting is told.
    pub(super) fn environment(&mut self, variables: impl IntoIterator<Item = (String, String)>) {
        let mut ours: Vec<(String, String)> =
            variables.into_iter().filter(|(name, _)| name.starts_with(PREFIX)).collect();
        ours.sort();
        for (name, value) in ours {
            let key = name[PREFIX.len()..].to_lowercase().replace("__", ".");
            let Some((_, form)) = KEYS.iter().find(|(known, _)| *known == key) else {
                self.wrong.push(unknown_variable(&name, &key));
                continue;
            };
            self.word(&key, *form, Place::Word { kind: "environment", name: format!("{name}="), value });
        }
    }

    /// One value that was written on its own; it is tried alone, so that its message can quote it.
    pub(super) fn word(&mut self, key: &str, form: Form, place: Place) {
        let Place::Word { value, .. } = &place else { return };
        let dict = figment::util::nest(key, taken(value, form)).into_dict().unwrap_or_default();
        let alone = Figment::from(Layer { dict: dict.clone(), number: 0 }).extract::<Settings>();
        match alone {
            Ok(_) => self.merge(dict, place),
            Err(errors) => {
                let each =
                    errors.into_iter().map(|error| place.diagnostics(key, |span| told(&error, key, &place, span)));
                self.wrong.extend(each.collect::<Vec<_>>());
            }
        }
    }

    fn merge(&mut self, dict: Dict, place: Place) {
        let figment = std::mem::take(&mut self.figment);
        self.figment = figment.merge(Layer { dict, number: self.places.len() });
        self.places.push(place);
    }

    /// Where the value of a key comes from; a default has no place.
    pub(super) fn place(&self, key: &str) -> Option<&Place> {
        let number = self.figment.find_metadata(key)?.name.parse::<usize>().ok()?;
        self.places.get(number)
    }
}

/// What config files know beside their types.
pub(super) const HINTS: Hints = Hints {
    start: "server: { url: \"http://127.0.0.1:11434\" }",
    later: &[],
    examples: &[
        ("format", "discord"),
        ("url", "\"http://127.0.0.1:11434\""),
        ("gateway", "off"),
        ("kind", "ollama"),
        ("count", "64"),
        ("trusted_network", "true"),
        ("webhooks", "[{ url_file: discord-url.txt, format: discord }]"),
    ],
};

fn commented_out(text: &str) -> bool {
    text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
}

fn dict_of(settings: &Settings) -> Dict {
    let value = Value::serialize(settings).expect("settings are mappings of plain values");
    value.into_dict().expect("settings are a mapping")
}

fn taken(text: &str, form: Form) -> Value {
    let parsed = |text: &str| text.parse::<Value>().unwrap_or_else(|never| match never {});
    match form {
        Form::Text => Value::from(text),
        Form::List if text.trim_start().starts_with('[') => parsed(text),
        Form::List => Value::from(text.split(',').map(str::trim).filter(|one| !one.is_empty()).collect::<Vec<_>>()),
        Form::Parsed => parsed(text),
    }
}

/// What figment says of one value on its own, in the voice of the files.
fn told(error: &Error, key: &str, place: &Place, span: std::ops::Range<usize>) -> Diagnostic {
    let Place::Word { name, value, .. } = place else { return Diagnostic::new(span, error.to_string(), "this value") };
    if let Kind::InvalidType(_, expected) | Kind::InvalidValue(_, expected) = &error.kind {
        let told = Diagnostic::new(span, format!("`{key}` cannot be `{value}`"), "not what belongs here");
        let told = told.expected(yaml::plain(expected));
        let last = key.rsplit('.').next().unwrap_or(key);
        return match HINTS.examples.iter().find(|(known, _)| *known == last) {
            Some((_, example)) => told.help(format!("write `{name}{example}`")),
            None => told,
        };
    }
    if let Kind::UnknownVariant(word, known) = &error.kind {
        let told = Diagnostic::new(span, format!("`{key}` cannot be `{word}`"), "not known");
        let fix = nearest(word, known.iter().copied()).or(known.first().copied()).unwrap_or_default();
        return told.expected(format!("one of `{}`", known.join("`, `"))).help(format!("write `{name}{fix}`"));
    }
    let message = error.kind.to_string();
    let mut lines = message.lines();
    let title = lines.next().unwrap_or_default();
    let mut told = Diagnostic::new(span, format!("`{key}`: {title}"), "this value");
    told.expected = lines.next().map(str::to_owned);
    told.help =
        lines.next().filter(|fix| !fix.is_empty()).map(|fix| format!("write `{name}{}`", fix.trim_matches('"')));
    told
}

fn unknown_variable(name: &str, key: &str) -> Diagnostics {
    let told = Diagnostic::new(0..name.len(), format!("unknown variable: `{name}`"), "sets nothing");
    let told = told.expected(format!("the name of a setting after `{PREFIX}`, with `__` between its keys"));
    let told = match nearest(key, KEYS.iter().map(|(known, _)| *known)) {
        Some(near) => told.help(format!("write `{}`", variable(near))),
        None => told.help(format!("unset it: `unset {name}`")),
    };
    Diagnostics::new("environment", name, vec![told])
}

fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_uppercase())
}

/// What one place sets.
struct Layer {
    dict: Dict,
    number: usize,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.number.to_string()).interpolater(|_, keys| keys.join("."))
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        Ok(Map::from([(Profile::Default, self.dict.clone())]))
    }
}
