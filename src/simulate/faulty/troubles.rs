//! Troubles: dice -> what goes wrong in one world, and how often.

use super::RUNGS;
use super::dice::Dice;
use crate::units::Span;

/// How often each goes wrong, as one in so many; never where it is `None`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Troubles {
    pub load_fails: Option<u64>,
    pub load_hangs: Option<u64>,
    /// It is said to be loaded, and is not.
    pub load_lies: Option<u64>,
    pub check_fails: Option<u64>,
    /// The model stays, and half the time it is said to be gone, or nothing is said.
    pub unload_ignored: Option<u64>,
    /// The model goes, and its memory does not.
    pub memory_kept: Option<u64>,
    pub server_dies: Option<u64>,
    /// Somebody else loads or unloads a model.
    pub meddled_with: Option<u64>,
    pub list_missing: Option<u64>,
    pub blind: Option<u64>,
    /// A sample comes many seconds late.
    pub late: Option<u64>,
    pub spikes: Option<u64>,
    /// The server's processes cannot be seen.
    pub hidden: bool,
    /// The models live on a card.
    pub on_gpu: bool,
    /// What is said of a model is so many percent of what it takes.
    pub said_percent: u64,
    /// Of this one nothing is said.
    pub unsized_rung: Option<usize>,
    pub models_max: u32,
    pub asked_every: Span,
}

impl Troubles {
    /// Each world has some of them, so that none hides behind another in all worlds.
    pub(super) fn of(dice: &mut Dice) -> Self {
        let mut some = |rate: u64| (!dice.one_in(2)).then_some(rate);
        let (load_fails, load_hangs, load_lies, check_fails) = (some(4), some(8), some(10), some(5));
        let (unload_ignored, memory_kept, server_dies) = (some(5), some(5), some(300));
        let (meddled_with, list_missing, blind) = (some(200), some(30), some(60));
        let (late, spikes) = (some(60), some(40));
        Troubles {
            load_fails,
            load_hangs,
            load_lies,
            check_fails,
            unload_ignored,
            memory_kept,
            server_dies,
            meddled_with,
            list_missing,
            blind,
            late,
            spikes,
            hidden: dice.one_in(4),
            on_gpu: dice.one_in(3),
            said_percent: [100, 100, 60, 140][dice.below(4) as usize],
            unsized_rung: dice.one_in(8).then(|| dice.below(RUNGS.len() as u64 - 1) as usize),
            models_max: dice.below(2) as u32 + 1,
            asked_every: Span([2_000, 10_000, 60_000][dice.below(3) as usize]),
        }
    }

    /// What is wrong with what is said stays wrong; nothing else goes wrong any more.
    pub(super) fn over(self) -> Self {
        Troubles {
            load_fails: None,
            load_hangs: None,
            load_lies: None,
            check_fails: None,
            unload_ignored: None,
            memory_kept: None,
            server_dies: None,
            meddled_with: None,
            list_missing: None,
            blind: None,
            late: None,
            spikes: None,
            ..self
        }
    }
}
