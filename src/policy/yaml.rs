//! Yaml: the text of any of our files -> its typed form, or everything that is wrong with it.
//!
//! Serde stops at the first problem. Ours goes on: what is wrong is reported, its node is marked, and the tree is read
//! again without it, until nothing new is found. Policy, config and persona files are all read through here.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::str::FromStr;

use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error, SeqAccess, Visitor};
use serde::{Serialize, Serializer};

use super::diagnostic::{Diagnostic, Diagnostics};
use super::reader::{Fault, NodeReader, PLACED, Pass};
use super::tree::{self, Kind, Node};

/// How often a text is read again: at least one problem is found each time, and nobody mends more at once.
const PASSES_MAX: usize = 50;

/// What the kind of file knows beside its types.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hints {
    /// What such a file begins with.
    pub start: &'static str,
    /// Keys that are planned and not built, each with what to do until then (`remove the line` when empty).
    pub later: &'static [(&'static str, &'static str)],
    /// For keys that may be missing, what to write.
    pub examples: &'static [(&'static str, &'static str)],
}

/// What came of a reading.
#[derive(Debug)]
pub struct Reading<T> {
    /// The typed file; what was wrong and could be left out is left out.
    pub value: Option<T>,
    /// Whether nothing but single optional values is left out, so that rules across values still mean something.
    pub whole: bool,
    pub found: Vec<Diagnostic>,
}

/// The typed form of a text, or all that is wrong with it. `path` is the name that the messages carry.
pub fn read<T: DeserializeOwned>(text: &str, path: &str) -> Result<T, Diagnostics> {
    read_with(text, path, Hints::default())
}

/// The same, for a kind of file that has hints.
pub fn read_with<T: DeserializeOwned>(text: &str, path: &str, hints: Hints) -> Result<T, Diagnostics> {
    let reading = read_all(text, hints);
    match reading.value {
        Some(value) if reading.found.is_empty() => Ok(value),
        Some(_) | None => Err(Diagnostics::new(path, text, reading.found)),
    }
}

/// As much of the typed form as can be had, with all that is wrong.
pub fn read_all<T: DeserializeOwned>(text: &str, hints: Hints) -> Reading<T> {
    let root = match tree::plant(text) {
        Ok(root) => root,
        Err(diagnostic) => return Reading { value: None, whole: false, found: vec![begun(diagnostic, text, hints)] },
    };
    let pass = Pass { text, hints, found: RefCell::new(Vec::new()), whole: Cell::new(true) };
    for _ in 0..PASSES_MAX {
        match T::deserialize(NodeReader { node: &root, entry: None, pass: &pass }) {
            Ok(value) => {
                return Reading { value: Some(value), whole: pass.whole.get(), found: pass.found.into_inner() };
            }
            Err(Fault::Reported) => {}
            Err(fault) => {
                pass.report(fault, &root, None);
                break;
            }
        }
        if root.skipped.get() {
            break;
        }
    }
    Reading { value: None, whole: false, found: pass.found.into_inner() }
}

/// Where nothing stands yet, the help is how to begin.
fn begun(diagnostic: Diagnostic, text: &str, hints: Hints) -> Diagnostic {
    match text.trim().is_empty() && !hints.start.is_empty() {
        true => diagnostic.help(format!("begin with `{}`", hints.start)),
        false => diagnostic,
    }
}

/// The keys at the top of a text, in order, or why it cannot be read: enough to recognise a kind of file.
pub fn top_keys(text: &str, path: &str) -> Result<Vec<String>, Diagnostics> {
    let root = tree::plant(text).map_err(|one| Diagnostics::new(path, text, vec![one]))?;
    match root.kind {
        Kind::Map(entries) => Ok(entries.into_iter().map(|entry| entry.key).collect()),
        Kind::Null
        | Kind::Bool(_)
        | Kind::Unsigned(_)
        | Kind::Signed(_)
        | Kind::Float(_)
        | Kind::Text(_)
        | Kind::List(_) => Ok(Vec::new()),
    }
}

/// Where the value under a dotted path of keys (`gateway.listen`) stands in a text.
pub fn find(text: &str, dotted: &str) -> Option<Range<usize>> {
    let root = tree::plant(text).ok()?;
    let mut node: &Node = &root;
    for key in dotted.split('.') {
        node = match &node.kind {
            Kind::Map(entries) => &entries.iter().find(|entry| entry.key == key)?.value,
            Kind::List(list) => list.get(key.parse::<usize>().ok()?)?,
            Kind::Null | Kind::Bool(_) | Kind::Unsigned(_) | Kind::Signed(_) | Kind::Float(_) | Kind::Text(_) => {
                return None;
            }
        };
    }
    Some(node.span.clone())
}

/// An error of a value, for the `Deserialize` of our own types: `title`, what was expected, and a value that would do.
/// The lines are taken apart again where the place is known.
pub fn complaint<E: Error>(title: &str, expected: &str, fix: &str) -> E {
    E::custom(format!("{title}\n{expected}\n{fix}"))
}

/// The one of `known` that was probably meant.
pub fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let limit = (word.chars().count() / 3).max(1);
    let near = known.into_iter().map(|one| (distance(&word.to_lowercase(), &one.to_lowercase()), one));
    near.filter(|(steps, _)| *steps <= limit).min_by_key(|(steps, _)| *steps).map(|(_, one)| one)
}

/// How many letters must be put in, taken out, exchanged or swapped with their neighbour to come from one to the other.
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=to.len()).collect()];
    for i in 1..=from.len() {
        let mut row = vec![i; to.len() + 1];
        for j in 1..=to.len() {
            let exchange = rows[i - 1][j - 1] + usize::from(from[i - 1] != to[j - 1]);
            row[j] = exchange.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                row[j] = row[j].min(rows[i - 2][j - 2] + 1);
            }
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}

/// Serde's words for types, in the words of somebody who writes YAML.
pub fn plain(expected: &str) -> &str {
    match expected {
        "a boolean" => "`true` or `false`",
        "a sequence" => "a list",
        "a string" => "text",
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, not negative",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a map" => "a mapping, such as `{ key: value }`",
        other => other,
    }
}

/// A value with its place, for rules that look at more than one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed<T> {
    pub value: T,
    pub span: Range<usize>,
    /// Where its key stands; empty in a list.
    pub key: Range<usize>,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Placed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_struct(PLACED, &[], PlacedVisitor(PhantomData))
    }
}

struct PlacedVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for PlacedVisitor<T> {
    type Value = Placed<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Placed<T>, A::Error> {
        let short = || A::Error::custom("a placed value is read from our own trees only");
        let mut bound = || seq.next_element::<usize>().and_then(|at| at.ok_or_else(short));
        let (span, key) = (bound()?..bound()?, bound()?..bound()?);
        let value = seq.next_element::<T>()?.ok_or_else(short)?;
        Ok(Placed { value, span, key })
    }
}

/// A quantity that is written with its unit. Kept beside what was written, so that it can be written again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantity<T> {
    pub amount: T,
    pub written: String,
}

/// A quantity that knows its unit well enough to mend what was written without it.
pub trait Unit: FromStr {
    /// What it is, in words: `a size with its unit, such as ...`.
    const EXPECTED: &'static str;
    /// One to propose where nothing better is known.
    const EXAMPLE: &'static str;
    /// What was probably meant by `number` and the letters after it.
    fn mended(number: f64, letters: &str) -> Option<String>;
}

impl<T> Serialize for Quantity<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.written)
    }
}

impl<'de, T: Unit> Deserialize<'de> for Quantity<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(QuantityVisitor(PhantomData))
    }
}

struct QuantityVisitor<T>(PhantomData<T>);

impl<T: Unit> Visitor<'_> for QuantityVisitor<T> {
    type Value = Quantity<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: Error>(self, written: &str) -> Result<Quantity<T>, E> {
        quantity(written)
    }

    // Only layers that have lost the text (the environment, say) hand over numbers.
    fn visit_u64<E: Error>(self, bare: u64) -> Result<Quantity<T>, E> {
        quantity(&bare.to_string())
    }

    fn visit_i64<E: Error>(self, bare: i64) -> Result<Quantity<T>, E> {
        quantity(&bare.to_string())
    }

    fn visit_f64<E: Error>(self, bare: f64) -> Result<Quantity<T>, E> {
        quantity(&bare.to_string())
    }
}

fn quantity<T: Unit, E: Error>(written: &str) -> Result<Quantity<T>, E> {
    if let Ok(amount) = written.parse::<T>() {
        return Ok(Quantity { amount, written: written.to_owned() });
    }
    let split = written.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(written.len());
    let (number, letters) = written.split_at(split);
    let title = match (number.is_empty(), letters.trim().is_empty()) {
        (false, true) => format!("a number without its unit: `{written}`"),
        (false, false) => format!("the unit does not fit here: `{written}`"),
        (true, _) => format!("not a quantity: `{written}`"),
    };
    let letters = letters.trim().to_lowercase();
    let mended = number.parse::<f64>().ok().and_then(|number| T::mended(number, &letters));
    // What is proposed is only proposed when it would be read.
    let fix = mended.filter(|text| text.parse::<T>().is_ok()).unwrap_or_else(|| T::EXAMPLE.to_owned());
    Err(complaint(&title, T::EXPECTED, &fix))
}

mod mending {
    use super::Unit;
    use crate::units::{Bytes, Permille, Span};

    impl Unit for Bytes {
        const EXPECTED: &'static str = "a size with its unit, such as `6GiB` or `512MiB`";
        const EXAMPLE: &'static str = "6GiB";

        fn mended(number: f64, letters: &str) -> Option<String> {
            let whole = number.fract() == 0.0;
            let unit = match letters {
                // A bare number of a million and more was meant in bytes.
                "" if whole && number >= f64::from(1 << 20) && number % f64::from(1 << 20) == 0.0 => {
                    return Some(format!("{}MiB", number / f64::from(1 << 20)));
                }
                "" if number >= 1000.0 => "MiB",
                "" | "g" | "gb" | "gib" | "gig" => "GiB",
                "m" | "mb" | "mib" => "MiB",
                "k" | "kb" | "kib" => "KiB",
                "t" | "tb" | "tib" => "TiB",
                _ => return None,
            };
            Some(format!("{number}{unit}"))
        }
    }

    impl Unit for Span {
        const EXPECTED: &'static str = "a duration with its unit, such as `30s`, `5m` or `250ms`";
        const EXAMPLE: &'static str = "30s";

        fn mended(number: f64, letters: &str) -> Option<String> {
            let unit = match letters {
                "" | "s" | "sec" | "secs" | "second" | "seconds" => "s",
                "m" | "min" | "mins" | "minute" | "minutes" => "m",
                "h" | "hr" | "hrs" | "hour" | "hours" => "h",
                "d" | "day" | "days" => "d",
                "ms" | "msec" | "millis" | "milliseconds" => "ms",
                _ => return None,
            };
            Some(format!("{number}{unit}"))
        }
    }

    impl Unit for Permille {
        const EXPECTED: &'static str = "a percentage, such as `80%`";
        const EXAMPLE: &'static str = "80%";

        fn mended(number: f64, letters: &str) -> Option<String> {
            match letters {
                // A share of one was meant; rounded, for 0.07 × 100 has a tail.
                "" if number > 0.0 && number <= 1.0 => Some(format!("{}%", (number * 1000.0).round() / 10.0)),
                "" | "percent" | "pct" | "p" => Some(format!("{number}%")),
                "‰" => Some(format!("{}%", number / 10.0)),
                _ => None,
            }
        }
    }
}
