//! File: the shape of a policy file -> what `parse` makes a `Policy` of. Nothing is checked here but shape and units.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};

use super::yaml::{Hints, Placed, Quantity};
use crate::units::{Bytes, Permille, Span};

/// What is planned and not built, and what a missing key may look like.
pub(super) const HINTS: Hints = Hints {
    start: "version: 1",
    later: &[("yield_to", ""), ("on_battery", ""), ("suggest", ""), ("program", "")],
    examples: &[
        ("name", "small"),
        ("model", "\"qwen3:0.6b\""),
        ("context", "4096"),
        ("rungs", "[small]"),
        ("memory", "16GiB"),
        ("cores", "8"),
        ("machine", "{ memory: 16GiB, cores: 8 }"),
        ("at", "0s"),
        ("ladder", "[{ name: small, model: \"qwen3:0.6b\" }]"),
        ("timeline", "[{ at: 0s, foreign: 2GiB }]"),
        ("expect", "[{ at: 1m, rung: small }]"),
        ("switches", "1"),
        ("version", "1"),
    ],
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a policy, beginning with `version: 1` and `ladder:`")]
pub(super) struct PolicyFile {
    // Absent is told by `parse`, so that everything else in the file is looked at, too.
    pub version: Option<Placed<u32>>,
    pub ladder: Option<Placed<Vec<Placed<RungFile>>>>,
    #[serde(default)]
    pub tiers: Vec<Placed<TierFile>>,
    #[serde(default)]
    pub reserve: ReserveFile,
    #[serde(default)]
    pub pressure: PressureFile,
    pub at_deadline: Option<Placed<Vec<Placed<String>>>>,
    #[serde(default)]
    pub upgrade: UpgradeFile,
    pub when_nothing_fits: Option<Placed<String>>,
    #[serde(default)]
    pub tests: Vec<Placed<TestFile>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a rung, such as `{ name: small, model: \"qwen3:0.6b\", context: 4096 }`")]
pub(super) struct RungFile {
    pub name: Placed<String>,
    pub model: Placed<String>,
    pub context: Option<Placed<u32>>,
}

#[derive(Debug, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a tier, such as `{ name: low_end, needs: { memory: 2GiB }, rungs: [small] }`"
)]
pub(super) struct TierFile {
    pub name: Placed<String>,
    #[serde(default)]
    pub needs: NeedsFile,
    pub rungs: Placed<Vec<Placed<String>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "what a machine must have, such as `{ memory: 4GiB, cores: 4 }`")]
pub(super) struct NeedsFile {
    pub memory: Option<Quantity<Bytes>>,
    pub cores: Option<u32>,
    pub vram: Option<Quantity<Bytes>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "what is left to others, such as `{ memory: 1GiB, vram: 512MiB }`")]
pub(super) struct ReserveFile {
    pub memory: Option<Placed<Quantity<Bytes>>>,
    pub vram: Option<Placed<Quantity<Bytes>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a mapping of `soft`, `hard` and `emergency`")]
pub(super) struct PressureFile {
    #[serde(default)]
    pub soft: ThresholdFile,
    #[serde(default)]
    pub hard: ThresholdFile,
    #[serde(default)]
    pub emergency: ThresholdFile,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a level, such as `{ use: 80%, drain: 120s }`")]
pub(super) struct ThresholdFile {
    #[serde(rename = "use")]
    pub use_share: Option<Placed<Quantity<Permille>>>,
    pub stall_some: Option<Placed<Quantity<Permille>>>,
    pub stall_full: Option<Placed<Quantity<Permille>>>,
    pub speed_below: Option<Placed<Quantity<Permille>>>,
    pub drain: Option<Placed<Quantity<Span>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "when to climb, such as `{ stable: 5m, margin: 5% }`")]
pub(super) struct UpgradeFile {
    pub stable: Option<Placed<Stable>>,
    pub margin: Option<Placed<Quantity<Permille>>>,
    pub idle: Option<Quantity<Span>>,
}

/// The stable time: fixed, or with what it is learned within.
#[derive(Debug)]
pub(super) enum Stable {
    Fixed(Span),
    Learned(StableFile),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StableFile {
    pub start: Option<Quantity<Span>>,
    pub learn: Option<bool>,
    pub min: Option<Quantity<Span>>,
    pub max: Option<Quantity<Span>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a test with `name`, `machine`, `timeline` and `expect`")]
pub(super) struct TestFile {
    pub name: String,
    pub machine: Placed<MachineFile>,
    pub timeline: Placed<Vec<Placed<TimelineFile>>>,
    pub expect: Placed<Vec<Placed<ExpectFile>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a machine, such as `{ memory: 16GiB, cores: 8 }`")]
pub(super) struct MachineFile {
    pub memory: Placed<Quantity<Bytes>>,
    pub cores: Placed<u32>,
    pub vram: Option<Quantity<Bytes>>,
    pub footprint: Option<Placed<BTreeMap<String, Placed<FootprintFile>>>>,
    #[serde(default)]
    pub load: BTreeMap<String, Placed<Quantity<Span>>>,
    pub loaded: Option<Placed<String>>,
    pub models_max: Option<Placed<u32>>,
}

/// What a rung takes: a size of memory, or memory and VRAM.
#[derive(Debug)]
pub(super) struct FootprintFile {
    pub memory: Bytes,
    pub vram: Bytes,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "what holds from a time on, such as `{ at: 60s, foreign: 3GiB }`")]
pub(super) struct TimelineFile {
    pub at: Placed<Quantity<Span>>,
    pub foreign: Option<Placed<Quantity<Bytes>>>,
    pub vram_foreign: Option<Placed<Quantity<Bytes>>>,
    pub stall_some: Option<Placed<Quantity<Permille>>>,
    pub cpu_foreign: Option<Placed<Quantity<Permille>>>,
    pub speed: Option<Placed<Quantity<Permille>>>,
    pub in_flight: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "`{ at: 80s, rung: small }` or `{ switches: 3 }`")]
pub(super) struct ExpectFile {
    pub at: Option<Placed<Quantity<Span>>>,
    pub rung: Option<Placed<String>>,
    pub switches: Option<Placed<u32>>,
}

impl<'de> Deserialize<'de> for Stable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StableVisitor;

        impl<'de> Visitor<'de> for StableVisitor {
            type Value = Stable;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as `5m`, or `{ start: 5m, learn: true, min: 15s, max: 2h }`")
            }

            fn visit_str<E: Error>(self, written: &str) -> Result<Stable, E> {
                let text = serde::de::value::StrDeserializer::new(written);
                Quantity::deserialize(text).map(|quantity| Stable::Fixed(quantity.amount))
            }

            fn visit_u64<E: Error>(self, bare: u64) -> Result<Stable, E> {
                self.visit_str(&bare.to_string())
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Stable, A::Error> {
                StableFile::deserialize(MapAccessDeserializer::new(map)).map(Stable::Learned)
            }
        }

        // Asked for as a struct, so that unknown keys are screened; a bare duration comes as itself.
        deserializer.deserialize_struct("Stable", &["start", "learn", "min", "max"], StableVisitor)
    }
}

impl<'de> Deserialize<'de> for FootprintFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Both {
            memory: Option<Quantity<Bytes>>,
            vram: Option<Quantity<Bytes>>,
        }

        struct FootprintVisitor;

        impl<'de> Visitor<'de> for FootprintVisitor {
            type Value = FootprintFile;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size of memory, such as `4GiB`, or `{ memory: 1GiB, vram: 4GiB }`")
            }

            fn visit_str<E: Error>(self, written: &str) -> Result<FootprintFile, E> {
                let text = serde::de::value::StrDeserializer::new(written);
                Quantity::deserialize(text).map(|size| FootprintFile { memory: size.amount, vram: Bytes::ZERO })
            }

            fn visit_u64<E: Error>(self, bare: u64) -> Result<FootprintFile, E> {
                self.visit_str(&bare.to_string())
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<FootprintFile, A::Error> {
                let both = Both::deserialize(MapAccessDeserializer::new(map))?;
                let amount = |size: Option<Quantity<Bytes>>| size.map_or(Bytes::ZERO, |size| size.amount);
                Ok(FootprintFile { memory: amount(both.memory), vram: amount(both.vram) })
            }
        }

        // Asked for as a struct, so that unknown keys are screened; a bare size comes as itself.
        deserializer.deserialize_struct("Footprint", &["memory", "vram"], FootprintVisitor)
    }
}
