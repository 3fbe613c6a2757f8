//! Reader: a node of the tree -> whatever type serde asks for; what is wrong is told with its place and marked.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::Range;

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::forward_to_deserialize_any;

use super::diagnostic::Diagnostic;
use super::tree::{Entry, Kind, Node};
use super::yaml::{Hints, nearest, plain};

/// The name under which a value asks for its place, too.
pub(super) const PLACED: &str = "$tierkeeper::Placed";

/// One reading of one text.
pub(super) struct Pass<'t> {
    pub text: &'t str,
    pub hints: Hints,
    pub found: RefCell<Vec<Diagnostic>>,
    pub whole: Cell<bool>,
}

/// Why a value could not be read.
#[derive(Debug)]
pub(super) enum Fault {
    /// It is told and marked already; read again without it.
    Reported,
    Type {
        expected: String,
    },
    Missing(&'static str),
    Variant {
        word: String,
        known: &'static [&'static str],
    },
    /// From a type's own rules; may have three lines, see `yaml::complaint`.
    Own(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Fault::Own(message.to_string())
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Fault::Type { expected: expected.to_string() }
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Fault::Type { expected: expected.to_string() }
    }

    fn missing_field(field: &'static str) -> Self {
        Fault::Missing(field)
    }

    fn unknown_variant(word: &str, known: &'static [&'static str]) -> Self {
        Fault::Variant { word: word.to_owned(), known }
    }
}

impl Pass<'_> {
    /// Tells what is wrong with `node` and marks it, so that the next pass goes by.
    pub(super) fn report(&self, fault: Fault, node: &Node, entry: Option<&Entry>) -> Fault {
        if matches!(fault, Fault::Reported) {
            return fault;
        }
        node.skipped.set(true);
        if entry.is_none() {
            self.whole.set(false);
        }
        let key = entry.map(|entry| entry.key.as_str());
        let told = match fault {
            Fault::Reported => None,
            Fault::Missing(field) => {
                self.whole.set(false);
                self.missing(field, node)
            }
            Fault::Type { expected } => Some(self.wrong_type(&expected, node, key)),
            Fault::Variant { word, known } => Some(unknown_word(node.span.clone(), &word, known, key)),
            Fault::Own(message) => Some(own(&message, node, key)),
        };
        self.found.borrow_mut().extend(told);
        Fault::Reported
    }

    /// Nothing to tell when the key stands there and was wrong, or stands there misspelt.
    fn missing(&self, field: &str, node: &Node) -> Option<Diagnostic> {
        if let Kind::Map(entries) = &node.kind
            && entries.iter().any(|e| e.value.skipped.get() && (e.key == field || nearest(&e.key, [field]).is_some()))
        {
            return None;
        }
        let example = self.hints.examples.iter().find(|(key, _)| *key == field).map(|(_, value)| *value);
        let told =
            Diagnostic::new(node.span.clone(), format!("a key is missing: `{field}`"), format!("has no `{field}`"));
        Some(match example {
            Some(value) => told.help(format!("add `{field}: {value}`")),
            None => told.help(format!("add `{field}: …`")),
        })
    }

    fn wrong_type(&self, expected: &str, node: &Node, key: Option<&str>) -> Diagnostic {
        let expected = plain(expected);
        let found = node.described(self.text);
        let title = match key {
            Some(key) => format!("`{key}` cannot be {found}"),
            None => format!("this cannot be {found}"),
        };
        let told = Diagnostic::new(node.span.clone(), title, "not what belongs here").expected(expected);
        match (node.scalar(self.text), key) {
            (Some(text), Some(key)) if expected.starts_with("a list") => told.help(format!("write `{key}: [{text}]`")),
            (Some("yes" | "on" | "Yes" | "On"), Some(key)) if expected.starts_with("`true`") => {
                told.help(format!("write `{key}: true`"))
            }
            (Some("no" | "off" | "No" | "Off"), Some(key)) if expected.starts_with("`true`") => {
                told.help(format!("write `{key}: false`"))
            }
            (_, Some(key)) => match self.hints.examples.iter().find(|(name, _)| *name == key) {
                Some((_, value)) => told.help(format!("write `{key}: {value}`")),
                None => told,
            },
            (_, None) => match self.hints.start {
                "" => told,
                start => told.help(format!("begin with `{start}`")),
            },
        }
    }

    /// Marks and tells the keys that do not belong into a mapping: repeated ones, and unknown ones when `known` is said.
    fn screen(&self, entries: &[Entry], known: Option<&'static [&'static str]>) {
        for (index, entry) in entries.iter().enumerate().filter(|(_, entry)| !entry.value.skipped.get()) {
            let told = if entries[..index].iter().any(|other| other.key == entry.key) {
                repeated(entry, &entries[index], self)
            } else if known.is_some_and(|known| !known.contains(&entry.key.as_str())) {
                self.unknown_key(entry, known.unwrap_or_default())
            } else {
                continue;
            };
            entry.value.skipped.set(true);
            self.found.borrow_mut().push(told);
        }
    }

    fn unknown_key(&self, entry: &Entry, known: &[&str]) -> Diagnostic {
        let key = entry.key.as_str();
        let span = entry.key_span.clone();
        if let Some((_, now)) = self.hints.later.iter().find(|(later, _)| *later == key) {
            let told = Diagnostic::new(span, format!("`{key}` does not work yet"), "not yet");
            return told.help(if now.is_empty() { self.removal(entry) } else { (*now).to_owned() });
        }
        let told = Diagnostic::new(span, format!("unknown key: `{key}`"), "nothing has this name here")
            .expected(format!("one of {}", listed(known)));
        match nearest(key, known.iter().copied()) {
            Some(near) => told.help(format!("write `{near}:`")),
            None => told.help(self.removal(entry)),
        }
    }

    /// What to take away: the words themselves where they stand on one line.
    fn removal(&self, entry: &Entry) -> String {
        let end = entry.value.span.end.max(entry.key_span.end);
        match self.text.get(entry.key_span.start..end) {
            Some(words) if !words.contains('\n') => format!("remove `{words}`"),
            Some(_) | None => format!("remove `{}:` with all that belongs to it", entry.key),
        }
    }
}

fn repeated(entry: &Entry, other: &Entry, pass: &Pass<'_>) -> Diagnostic {
    let told =
        Diagnostic::new(entry.key_span.clone(), format!("a key stands twice: `{}`", other.key), "the second one");
    told.expected("each key once: which of the two holds would be a guess").help(pass.removal(entry))
}

fn unknown_word(span: Range<usize>, word: &str, known: &[&str], key: Option<&str>) -> Diagnostic {
    let title = match key {
        Some(key) => format!("`{key}` cannot be `{word}`"),
        None => format!("unknown: `{word}`"),
    };
    let told = Diagnostic::new(span, title, "not known").expected(format!("one of {}", listed(known)));
    let fix = nearest(word, known.iter().copied()).or(known.first().copied());
    match (fix, key) {
        (Some(fix), Some(key)) => told.help(format!("write `{key}: {fix}`")),
        (Some(fix), None) => told.help(format!("write `{fix}`")),
        (None, _) => told,
    }
}

fn own(message: &str, node: &Node, key: Option<&str>) -> Diagnostic {
    let mut lines = message.lines();
    let title = lines.next().unwrap_or_default();
    let title = key.map_or(title.to_owned(), |key| format!("`{key}`: {title}"));
    let mut told = Diagnostic::new(node.span.clone(), title, "this value");
    told.expected = lines.next().map(str::to_owned);
    told.help = match (lines.next(), key) {
        (None | Some(""), _) => None,
        (Some(fix), Some(key)) => Some(format!("write `{key}: {fix}`")),
        (Some(fix), None) => Some(format!("write `{fix}`")),
    };
    told
}

/// Names as a sentence lists them.
pub(super) fn listed(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    quoted.join(", ")
}

/// Reads one node; `entry` is where it hangs, when it hangs in a mapping.
#[derive(Clone, Copy)]
pub(super) struct NodeReader<'n> {
    pub node: &'n Node,
    pub entry: Option<&'n Entry>,
    pub pass: &'n Pass<'n>,
}

impl<'n> NodeReader<'n> {
    fn visit_kind<'de, V: Visitor<'de>>(
        self,
        visitor: V,
        known: Option<&'static [&'static str]>,
    ) -> Result<V::Value, Fault> {
        match &self.node.kind {
            Kind::Null => visitor.visit_unit(),
            Kind::Bool(value) => visitor.visit_bool(*value),
            Kind::Unsigned(value) => visitor.visit_u64(*value),
            Kind::Signed(value) => visitor.visit_i64(*value),
            Kind::Float(value) => visitor.visit_f64(*value),
            Kind::Text(text) => visitor.visit_str(text),
            Kind::List(list) => visitor.visit_seq(List { rest: list.iter(), pass: self.pass }),
            Kind::Map(entries) => {
                self.pass.screen(entries, known);
                // A key of a struct with nothing after it is as good as none: what it would hold was commented out.
                let given = |entry: &&Entry| known.is_none() || !matches!(entry.value.kind, Kind::Null);
                let rest: Vec<&Entry> =
                    entries.iter().filter(given).filter(|entry| !entry.value.skipped.get()).collect();
                visitor.visit_map(Entries { rest: rest.into_iter(), current: None, pass: self.pass })
            }
        }
    }

    fn visit_text<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.node.scalar(self.pass.text) {
            Some(text) => visitor.visit_str(text),
            None => self.visit_kind(visitor, None),
        }
    }
}

impl<'de> Deserializer<'de> for NodeReader<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.visit_kind(visitor, None)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.visit_text(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.visit_text(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.node.kind {
            Kind::Null => visitor.visit_none(),
            Kind::Bool(_) | Kind::Unsigned(_) | Kind::Signed(_) | Kind::Float(_) => visitor.visit_some(self),
            Kind::Text(_) | Kind::List(_) | Kind::Map(_) => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        if name == PLACED {
            return visitor.visit_seq(Place { reader: self, step: 0 });
        }
        // A list would be taken for the fields in their order; nobody means that.
        if matches!(self.node.kind, Kind::List(_)) {
            return Err(de::Error::invalid_type(Unexpected::Seq, &visitor));
        }
        self.visit_kind(visitor, Some(fields))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.node.scalar(self.pass.text) {
            Some(text) => visitor.visit_enum(IntoDeserializer::<Fault>::into_deserializer(text)),
            None => Err(Fault::Type { expected: format!("one of {}", listed(known)) }),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct seq tuple tuple_struct
        map identifier ignored_any
    }
}

/// The four bounds of a placed value, then the value.
struct Place<'n> {
    reader: NodeReader<'n>,
    step: usize,
}

impl<'de> SeqAccess<'de> for Place<'_> {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        let span = &self.reader.node.span;
        let key = self.reader.entry.map_or(span.start..span.start, |entry| entry.key_span.clone());
        self.step += 1;
        let bound = match self.step {
            1 => span.start,
            2 => span.end,
            3 => key.start,
            4 => key.end,
            5 => return seed.deserialize(self.reader).map(Some),
            _ => return Ok(None),
        };
        seed.deserialize(IntoDeserializer::<Fault>::into_deserializer(bound)).map(Some)
    }
}

struct List<'n> {
    rest: std::slice::Iter<'n, Node>,
    pass: &'n Pass<'n>,
}

impl<'de> SeqAccess<'de> for List<'_> {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        let Some(node) = self.rest.by_ref().find(|node| !node.skipped.get()) else { return Ok(None) };
        let reader = NodeReader { node, entry: None, pass: self.pass };
        seed.deserialize(reader).map(Some).map_err(|fault| self.pass.report(fault, node, None))
    }
}

struct Entries<'n> {
    rest: std::vec::IntoIter<&'n Entry>,
    current: Option<&'n Entry>,
    pass: &'n Pass<'n>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Fault;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        self.current = self.rest.next();
        let Some(entry) = self.current else { return Ok(None) };
        let key: StrDeserializer<'_, Fault> = entry.key.as_str().into_deserializer();
        seed.deserialize(key).map(Some).map_err(|fault| self.pass.report(fault, &entry.value, Some(entry)))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        let entry = self.current.expect("serde asks for a value after its key");
        let reader = NodeReader { node: &entry.value, entry: Some(entry), pass: self.pass };
        seed.deserialize(reader).map_err(|fault| self.pass.report(fault, &entry.value, Some(entry)))
    }
}
