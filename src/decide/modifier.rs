//! Modifiers: what holds beside the phase -> what is not set about while it does.

use serde::{Deserialize, Serialize};

use super::controller::Controller;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Modifier {
    /// The machine can not be read.
    Blind,
    /// A card can not be read. What needs none is done as ever; what does is judged rung by rung.
    BlindToCards,
    /// The server does not answer.
    ServerDown,
    /// The operator's word holds.
    Held,
    /// A dry run: everything is decided, and told instead of done.
    Observing,
}

/// What the Controller may set about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// To a better rung.
    Climb,
    /// Out of sleep.
    Wake,
    /// Down, before trouble is hard.
    StepDown,
    /// Down, for hard trouble or an emergency.
    Escape,
    /// Not down after all.
    CallOff,
}

impl Modifier {
    pub const ALL: [Modifier; 5] =
        [Modifier::Blind, Modifier::BlindToCards, Modifier::ServerDown, Modifier::Held, Modifier::Observing];

    /// What is not known is neither free nor calm; of hard trouble, what is left to see is believed. Where the operator says
    /// what serves, nothing better is looked for.
    pub fn forbids(self, planned: Move) -> bool {
        match self {
            Modifier::Blind => match planned {
                Move::Climb | Move::Wake | Move::StepDown | Move::CallOff => true,
                Move::Escape => false,
            },
            Modifier::BlindToCards => match planned {
                Move::Climb | Move::Wake | Move::StepDown | Move::Escape | Move::CallOff => false,
            },
            Modifier::ServerDown => match planned {
                Move::Climb | Move::Wake | Move::StepDown | Move::Escape | Move::CallOff => true,
            },
            Modifier::Held => match planned {
                Move::Climb => true,
                Move::Wake | Move::StepDown | Move::Escape | Move::CallOff => false,
            },
            Modifier::Observing => match planned {
                Move::Climb | Move::Wake | Move::StepDown | Move::Escape | Move::CallOff => false,
            },
        }
    }
}

impl Move {
    pub const ALL: [Move; 5] = [Move::Climb, Move::Wake, Move::StepDown, Move::Escape, Move::CallOff];
}

impl Controller {
    pub(super) fn modifiers(&self) -> impl Iterator<Item = Modifier> {
        Modifier::ALL.into_iter().filter(|modifier| match modifier {
            Modifier::Blind => self.blind,
            Modifier::BlindToCards => !self.blind && self.latest.unread.vram,
            Modifier::ServerDown => self.server_down,
            Modifier::Held => self.is_held(),
            Modifier::Observing => self.observes(),
        })
    }

    pub(super) fn may(&self, planned: Move) -> bool {
        !self.modifiers().any(|modifier| modifier.forbids(planned))
    }
}
