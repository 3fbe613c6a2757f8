//! Key: everything that a model's footprint depends on -> one line of text, by which what was learned of it is found
//! again.
//!
//! A learned value is only ever used for exactly what it was measured of: another version of the server, another file
//! under the same name, another context or another placement is another key, and what was learned before is not asked.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::cpu::Cpu;
use super::load::{Cells, Held, Windows};

/// What a footprint depends on, as far as the server tells. What it does not tell is `None`, which is a value of its
/// own and equal to nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FootprintKey {
    /// The server's name and version, as it says.
    pub server: String,
    /// The server's name for the model.
    pub model: String,
    /// What tells this model's files from others of the same name. Without it nothing is kept beyond this run.
    #[serde(default)]
    pub digest: Option<String>,
    /// In tokens; without one it is the context that the server gives by itself.
    #[serde(default)]
    pub context: Option<u32>,
    /// How many replies it can give at once.
    #[serde(default)]
    pub parallel: Option<u32>,
    /// The types of the KV cache, keys and values: `q8_0/f16`.
    #[serde(default)]
    pub cache: Option<String>,
    /// Layers on the GPU, as the server was told them.
    #[serde(default)]
    pub gpu_layers: Option<String>,
    #[serde(default)]
    pub weights: Option<Held>,
    /// How many tokens are computed in one go, as the server was told.
    #[serde(default)]
    pub batch: Option<u32>,
    #[serde(default)]
    pub cells: Option<Cells>,
    #[serde(default)]
    pub windows: Option<Windows>,
    /// What its weights are packed anew for where they are computed with on a CPU.
    #[serde(default)]
    pub packed: Option<Cpu>,
}

/// A line that is no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a footprint's key: `{0}`")]
pub struct NoKey(pub String);

impl FootprintKey {
    /// The same model with the context of a rung, if the rung has one.
    pub fn with_context(&self, context: Option<u32>) -> Self {
        FootprintKey { context: context.or(self.context), ..self.clone() }
    }
}

/// `server=... model=... context=8192`: a space between two parts, and inside of a part `%20` for it.
impl fmt::Display for FootprintKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "server={} model={}", escaped(&self.server), escaped(&self.model))?;
        let parts = [
            ("digest", self.digest.clone()),
            ("context", self.context.map(|tokens| tokens.to_string())),
            ("parallel", self.parallel.map(|count| count.to_string())),
            ("cache", self.cache.clone()),
            ("gpu_layers", self.gpu_layers.clone()),
            ("weights", self.weights.map(|weights| weights.name().to_owned())),
            ("batch", self.batch.map(|tokens| tokens.to_string())),
            ("cells", self.cells.map(|cells| cells.name().to_owned())),
            ("windows", self.windows.map(|windows| windows.name().to_owned())),
            ("packed", self.packed.map(|cpu| cpu.name().to_owned())),
        ];
        let told = parts.into_iter().filter_map(|(name, value)| Some((name, value?)));
        told.into_iter().try_for_each(|(name, value)| write!(f, " {name}={}", escaped(&value)))
    }
}

impl FromStr for FootprintKey {
    type Err = NoKey;

    fn from_str(line: &str) -> Result<Self, NoKey> {
        let wrong = || NoKey(line.to_owned());
        let mut key = FootprintKey::default();
        let mut named = [false; 2];
        for part in line.split(' ') {
            let (name, value) = part.split_once('=').ok_or_else(wrong)?;
            let value = unescaped(value).ok_or_else(wrong)?;
            let number = || value.parse::<u32>().map_err(|_| wrong());
            match name {
                "server" => (named[0], key.server) = (true, value),
                "model" => (named[1], key.model) = (true, value),
                "digest" => key.digest = Some(value),
                "context" => key.context = Some(number()?),
                "parallel" => key.parallel = Some(number()?),
                "cache" => key.cache = Some(value),
                "gpu_layers" => key.gpu_layers = Some(value),
                "weights" => {
                    key.weights = Some(named_so(&[Held::Mapped, Held::Copied], Held::name, &value).ok_or_else(wrong)?);
                }
                "batch" => key.batch = Some(number()?),
                "cells" => {
                    let all = [Cells::Shared, Cells::EachSlot, Cells::Multiplied];
                    key.cells = Some(named_so(&all, Cells::name, &value).ok_or_else(wrong)?);
                }
                "windows" => {
                    let all = [Windows::Short, Windows::Full];
                    key.windows = Some(named_so(&all, Windows::name, &value).ok_or_else(wrong)?);
                }
                "packed" => key.packed = Some(named_so(&Cpu::ALL, Cpu::name, &value).ok_or_else(wrong)?),
                _ => return Err(wrong()),
            }
        }
        // One way of writing each key, or two lines would mean the same.
        if named == [true, true] && key.to_string() == line { Ok(key) } else { Err(wrong()) }
    }
}

fn named_so<T: Copy>(all: &[T], name: fn(T) -> &'static str, value: &str) -> Option<T> {
    all.iter().copied().find(|known| name(*known) == value)
}

/// Spaces, `%` and what cannot be printed are written as their bytes.
fn escaped(text: &str) -> String {
    let plain = |letter: char| letter != '%' && !letter.is_whitespace() && !letter.is_control();
    let mut bytes = [0; 4];
    let mut written = String::with_capacity(text.len());
    for letter in text.chars() {
        if plain(letter) {
            written.push(letter);
        } else {
            written.extend(letter.encode_utf8(&mut bytes).bytes().map(|byte| format!("%{byte:02X}")));
        }
    }
    written
}

fn unescaped(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (code, rest) = (part.get(..2)?, part.get(2..)?);
        bytes.push(u8::from_str_radix(code, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::option;
    use proptest::prelude::*;

    fn one_of<T: Copy + std::fmt::Debug + 'static>(all: &'static [T]) -> impl Strategy<Value = Option<T>> {
        option::of(proptest::sample::select(all))
    }

    fn key() -> impl Strategy<Value = FootprintKey> {
        let text = || option::of(".*");
        let number = || option::of(any::<u32>());
        let kinds = (
            one_of(&[Held::Mapped, Held::Copied]),
            one_of(&[Cells::Shared, Cells::EachSlot, Cells::Multiplied]),
            one_of(&[Windows::Short, Windows::Full]),
            one_of(&Cpu::ALL),
        );
        (".*", ".*", text(), (number(), number(), number()), text(), text(), kinds).prop_map(
            |(server, model, digest, (context, parallel, batch), cache, gpu_layers, kinds)| FootprintKey {
                server,
                model,
                digest,
                context,
                parallel,
                cache,
                gpu_layers,
                weights: kinds.0,
                batch,
                cells: kinds.1,
                windows: kinds.2,
                packed: kinds.3,
            },
        )
    }

    proptest! {
        #[test]
        fn a_key_is_one_line_and_comes_back_from_it(key in key()) {
            let line = key.to_string();
            prop_assert!(!line.contains('\n'));
            prop_assert_eq!(line.parse::<FootprintKey>(), Ok(key));
        }

        #[test]
        fn two_keys_never_share_a_line(one in key(), other in key()) {
            prop_assert_eq!(one == other, one.to_string() == other.to_string());
        }

        #[test]
        fn whatever_stands_in_a_file_is_a_key_or_is_refused(line in ".*") {
            if let Ok(key) = line.parse::<FootprintKey>() {
                prop_assert_eq!(key.to_string(), line);
            }
        }
    }

    #[test]
    fn the_line_can_be_read_by_people() {
        let key = FootprintKey {
            server: "Ollama 0.33.1".to_owned(),
            model: "qwen3:4b".to_owned(),
            digest: Some("a1b2".to_owned()),
            context: Some(8192),
            weights: Some(Held::Copied),
            packed: Some(Cpu::Amx),
            ..FootprintKey::default()
        };
        let line = "server=Ollama%200.33.1 model=qwen3:4b digest=a1b2 context=8192 weights=copied packed=amx";
        assert_eq!(key.to_string(), line);
        assert_eq!(key.with_context(Some(4096)).context, Some(4096));
        assert_eq!(key.with_context(None).context, Some(8192));
    }

    #[test]
    fn what_is_not_written_as_we_write_it_is_no_key() {
        for line in [
            "",
            "server=a",
            "server=a model=b context=x",
            "model=b server=a",
            "server=a model=b new=1",
            "server=a%2 model=b",
            "server=a model=b packed=z80",
            "server=a model=b cells=none",
            "server=a model=b windows=",
        ] {
            assert_eq!(line.parse::<FootprintKey>(), Err(NoKey(line.to_owned())));
        }
    }
}
