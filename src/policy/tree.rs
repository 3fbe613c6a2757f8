//! Tree: YAML text -> nodes that know their place, read by serde-saphyr with its limits on depth, size and aliases.
//!
//! The tree stands between the YAML library and the typed files, so that more than the first problem can be told and so
//! that the library, which is young, can be exchanged in this one file.

use std::cell::Cell;
use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, Location, Spanned};

use super::diagnostic::Diagnostic;

/// Nesting beyond this is a mistake or an attack; our deepest file has six levels.
const DEPTH_MAX: usize = 32;

#[derive(Debug)]
pub(super) struct Node {
    pub span: Range<usize>,
    pub kind: Kind,
    /// Set once something is wrong with it: the next pass over the tree goes by.
    pub skipped: Cell<bool>,
}

#[derive(Debug)]
pub(super) enum Kind {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Debug)]
pub(super) struct Entry {
    pub key: String,
    pub key_span: Range<usize>,
    pub value: Node,
}

/// The tree of the one document in a text.
pub(super) fn plant(text: &str) -> Result<Node, Diagnostic> {
    let mut options = serde_saphyr::options! {
        strict_booleans: true,
        with_snippet: false,
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
    };
    if let Some(budget) = options.budget.as_mut() {
        budget.max_depth = DEPTH_MAX;
    }
    if text.trim().is_empty() {
        return Err(Diagnostic::new(0..0, "the file is empty", "nothing here"));
    }
    let read = serde_saphyr::from_str_with_options::<Spanned<Kind>>(text, options);
    let mut root = read.map(node).map_err(|error| unreadable(&error, text))?;
    widen(&mut root, text);
    Ok(root)
}

/// The parser places a list or mapping at its first character; ours reach to their end.
fn widen(node: &mut Node, text: &str) {
    let children: &mut dyn Iterator<Item = &mut Node> = match &mut node.kind {
        Kind::Null | Kind::Bool(_) | Kind::Unsigned(_) | Kind::Signed(_) | Kind::Float(_) | Kind::Text(_) => return,
        Kind::List(list) => &mut list.iter_mut(),
        Kind::Map(entries) => &mut entries.iter_mut().map(|entry| &mut entry.value),
    };
    let mut end = node.span.end;
    for child in children {
        widen(child, text);
        end = end.max(child.span.end);
    }
    if let Some(closer) = text.get(node.span.start..).and_then(|rest| closing(rest.chars().next()?)) {
        let rest = text.get(end..).unwrap_or_default();
        let gap = rest.len() - rest.trim_start_matches([' ', ',']).len();
        end += if rest[gap..].starts_with(closer) { gap + 1 } else { 0 };
    }
    node.span.end = end;
}

fn closing(opener: char) -> Option<char> {
    match opener {
        '{' => Some('}'),
        '[' => Some(']'),
        _ => None,
    }
}

fn unreadable(error: &serde_saphyr::Error, text: &str) -> Diagnostic {
    let span = error.location().map_or(text.len()..text.len(), |location| spot(location, text));
    // The message begins with what is wrong and may go on over several lines.
    let message = error.without_snippet().to_string();
    let first = message.lines().next().unwrap_or("not readable");
    let first = first.split(" at line ").next().unwrap_or(first);
    let told = Diagnostic::new(span, format!("not valid YAML: {first}"), "from here on it cannot be read");
    if first.starts_with("tabs") { told.help("indent with spaces, not with tabs") } else { told }
}

/// Errors of the parser know their line and column only: the rest of that line, then.
fn spot(location: Location, text: &str) -> Range<usize> {
    if location.span().byte_len().is_some_and(|len| len > 0) {
        return place(location);
    }
    let line = usize::try_from(location.line()).unwrap_or(usize::MAX).saturating_sub(1);
    let start = text.split_inclusive('\n').take(line).map(str::len).sum::<usize>();
    let rest = text.get(start..).unwrap_or_default().lines().next().unwrap_or_default();
    let column = usize::try_from(location.column()).unwrap_or(usize::MAX).saturating_sub(1);
    let into = rest.char_indices().nth(column).map_or(rest.len(), |(at, _)| at);
    start + into..start + rest.len()
}

fn place(location: Location) -> Range<usize> {
    let start = location.span().byte_offset().unwrap_or(0) as usize;
    start..start + location.span().byte_len().unwrap_or(0) as usize
}

fn node(spanned: Spanned<Kind>) -> Node {
    Node { span: place(spanned.defined), kind: spanned.value, skipped: Cell::new(false) }
}

impl Node {
    /// The scalar as it was written, quotes taken off: a rung may well be called `1.10` without them.
    pub(super) fn scalar<'a>(&'a self, text: &'a str) -> Option<&'a str> {
        match &self.kind {
            Kind::Text(text) => Some(text),
            Kind::Bool(_) | Kind::Unsigned(_) | Kind::Signed(_) | Kind::Float(_) => text.get(self.span.clone()),
            Kind::Null | Kind::List(_) | Kind::Map(_) => None,
        }
    }

    /// What it is, in the words of somebody who writes YAML.
    pub(super) fn described(&self, text: &str) -> String {
        let written = || self.scalar(text).unwrap_or_default();
        match &self.kind {
            Kind::Null => "nothing".to_owned(),
            Kind::Bool(_) => format!("the boolean `{}`", written()),
            Kind::Unsigned(_) | Kind::Signed(_) | Kind::Float(_) => format!("the number `{}`", written()),
            Kind::Text(_) => format!("the text `{}`", written()),
            Kind::List(_) => "a list".to_owned(),
            Kind::Map(_) => "a mapping".to_owned(),
        }
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KindVisitor)
    }
}

struct KindVisitor;

impl<'de> Visitor<'de> for KindVisitor {
    type Value = Kind;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }

    fn visit_none<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Kind, D::Error> {
        Kind::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Kind, E> {
        Ok(Kind::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Kind, E> {
        Ok(Kind::Unsigned(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Kind, E> {
        Ok(u64::try_from(value).map_or(Kind::Signed(value), Kind::Unsigned))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Kind, E> {
        Ok(Kind::Float(value as f64))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Kind, E> {
        Ok(Kind::Float(value as f64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Kind, E> {
        Ok(Kind::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Kind, E> {
        Ok(Kind::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Kind, A::Error> {
        let mut list = Vec::new();
        while let Some(one) = seq.next_element::<Spanned<Kind>>()? {
            list.push(node(one));
        }
        Ok(Kind::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Kind, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, value)) = map.next_entry::<Spanned<String>, Spanned<Kind>>()? {
            entries.push(Entry { key_span: place(key.defined), key: key.value, value: node(value) });
        }
        Ok(Kind::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_knows_its_place_and_every_key_too() {
        let text = "é: 1\nladder:\n  - { name: 1.10, on: yes }\n  - \"q\"\n";
        let root = plant(text).unwrap();
        let Kind::Map(entries) = &root.kind else { panic!("{root:?}") };
        let keys: Vec<&str> = entries.iter().map(|entry| &text[entry.key_span.clone()]).collect();
        assert_eq!(keys, ["é", "ladder"]);
        let Kind::List(rungs) = &entries[1].value.kind else { panic!("{root:?}") };
        let Kind::Map(rung) = &rungs[0].kind else { panic!("{root:?}") };
        assert_eq!(rung[0].value.scalar(text), Some("1.10"));
        assert_eq!(&text[rung[1].value.span.clone()], "yes");
        assert!(matches!(&rung[1].value.kind, Kind::Text(text) if text == "yes"), "{rung:?}");
        assert_eq!(rungs[1].scalar(text), Some("q"));
        assert_eq!(&text[rungs[0].span.clone()], "{ name: 1.10, on: yes }");
    }

    #[test]
    fn repeated_keys_both_arrive() {
        let root = plant("a: 1\nb: 2\na: 3\n").unwrap();
        let Kind::Map(entries) = &root.kind else { panic!("{root:?}") };
        assert_eq!(entries.len(), 3);
    }

    #[test]
    fn nesting_without_end_is_an_error_and_not_a_crash() {
        assert!(plant(&"[".repeat(100_000)).is_err());
        assert!(plant(&"- ".repeat(100_000)).is_err());
        assert!(plant(&"{a: ".repeat(100_000)).is_err());
    }
}
