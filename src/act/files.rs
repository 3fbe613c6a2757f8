//! Files: where a model's command line says that it is -> how much it takes, and what it is for, as far as its files tell.

use super::heads;
use crate::footprint::Sizing;
use crate::footprint::cpu::Cpu;
use crate::footprint::formula::Plan;
use crate::footprint::load::Load;
use crate::footprint::purpose::Purpose;
use crate::footprint::shape::Shape;
use crate::units::Bytes;

/// What was found of a model where its command line says that it is.
pub(super) enum Found {
    Sizing(Sizing, Purpose),
    /// Its files are not on this machine.
    NotHere,
    /// A part whose size is unknown makes the whole unknown.
    Unknown,
}

pub(super) fn found((id, cpu): (&str, Cpu), path: &str, beside: &[String], load: Load) -> Found {
    let Some(size) = heads::size(path) else { return Found::NotHere };
    let Some(beside) = beside.iter().map(|path| heads::size(path)).sum::<Option<Bytes>>() else {
        return Found::Unknown;
    };
    let read = heads::read(path).map_err(|error| error.to_string());
    let purpose = read.as_ref().ok().and_then(|heads| heads.first()).map_or(Purpose::Conversation, Purpose::of);
    match read.and_then(|heads| Shape::of(&heads, cpu).map_err(|error| error.to_string())) {
        Ok(shape) => {
            let plan = Plan { shape, load, vram: Bytes::ZERO, beside };
            Found::Sizing(Sizing::Formula(Box::new(plan)), purpose)
        }
        Err(why) => {
            if purpose == Purpose::Conversation {
                tracing::warn!(message = "The metadata of a model is not read, and the size of its files used.", model = %id, %why);
            }
            Found::Sizing(Sizing::Files(size + beside), purpose)
        }
    }
}
