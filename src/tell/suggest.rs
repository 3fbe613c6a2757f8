//! Suggest: what is lacking and who holds much -> the fewest programs to close, and what that is enough for.
//!
//! One program that suffices is better than two, and of several that do the smallest costs least. "Enough" is said only
//! of what is enough in every pool. Of the limit of the server's cgroup nothing is got back by closing other programs.

use super::news::{News, Program};
use crate::classify::Pool;
use crate::decide::fit::Lack;
use crate::decide::notice::Notice;
use crate::units::Bytes;

/// More than these are no suggestion but a demand.
const CLOSED_MAX: usize = 3;
/// How many are named when nothing is enough.
const LARGEST: usize = 2;

/// What somebody could close.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suggestion {
    /// Each with what closing it frees.
    pub close: Vec<(String, Bytes)>,
    /// The rung that comes back then; `None` when it helps and is not enough.
    pub enough_for: Option<String>,
}

/// What is suggested with this news, if anything is.
pub fn suggest(news: &News) -> Option<Suggestion> {
    let pool = short_pool(&news.notice)?;
    let mut programs: Vec<&Program> = news.programs.iter().collect();
    programs.sort_by_key(|program| std::cmp::Reverse(amount(program, pool)));
    for count in 1..=CLOSED_MAX {
        for lack in &news.lacking {
            if let Some(closed) = enough(&programs, count, lack) {
                return Some(Suggestion { close: named(closed, worst(lack)), enough_for: Some(lack.rung.clone()) });
            }
        }
    }
    let largest = programs.into_iter().filter(|program| amount(program, pool) > Bytes::ZERO).take(LARGEST);
    let close = named(largest, pool);
    (!close.is_empty()).then_some(Suggestion { close, enough_for: None })
}

/// The pool that is short, where closing programs is what helps.
pub fn short_pool(notice: &Notice) -> Option<Pool> {
    let (missing, pool) = match notice {
        Notice::Downgraded { missing, pool, .. }
        | Notice::HandedOver { missing, pool, .. }
        | Notice::ResourcesWanted { missing, pool, .. }
        | Notice::Suggested { missing, pool, .. }
        | Notice::Asleep { missing, pool, .. } => (*missing, *pool),
        Notice::LoadFailed { .. }
        | Notice::CameUpOnCpu { .. }
        | Notice::MemoryKept { .. }
        | Notice::Contested { .. }
        | Notice::Stalled { .. }
        | Notice::Upgraded { .. } => return None,
    };
    (missing > Bytes::ZERO && pool != Pool::Cgroup).then_some(pool)
}

/// So many programs that are enough for a rung: of single ones the smallest, else the largest together.
fn enough<'a>(programs: &[&'a Program], count: usize, lack: &Lack) -> Option<Vec<&'a Program>> {
    let suffices = |closed: &[&Program]| {
        let freed = |pool| closed.iter().map(|program| amount(program, pool)).sum::<Bytes>();
        !lack.pools.is_empty() && lack.pools.iter().all(|short| freed(short.pool) >= short.missing)
    };
    if count == 1 {
        return programs.iter().rev().find(|program| suffices(&[program])).map(|program| vec![*program]);
    }
    let largest = programs.get(..count)?;
    suffices(largest).then(|| largest.to_vec())
}

fn worst(lack: &Lack) -> Pool {
    lack.pools.iter().max_by_key(|short| short.missing).map_or(Pool::Ram, |short| short.pool)
}

fn named<'a>(programs: impl IntoIterator<Item = &'a Program>, pool: Pool) -> Vec<(String, Bytes)> {
    programs.into_iter().map(|program| (program.name.clone(), amount(program, pool))).collect()
}

fn amount(program: &Program, pool: Pool) -> Bytes {
    match pool {
        Pool::Ram => program.memory,
        Pool::Vram => program.vram,
        Pool::Cgroup => Bytes::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::fit::Shortage;
    use crate::decide::reason::Reason;

    /// (name, GiB of memory, GiB of graphics memory)
    const OPEN: [(&str, u64, u64); 4] = [("Firefox", 4, 0), ("Blender", 2, 5), ("Slack", 1, 0), ("Game", 3, 6)];

    fn lack(rung: &str, short: &[(Pool, u64)]) -> Lack {
        let shortage = |(pool, gib): &(Pool, u64)| Shortage { pool: *pool, missing: Bytes::gib(*gib) };
        Lack { rung: rung.to_owned(), pools: short.iter().map(shortage).collect() }
    }

    fn suggested(pool: Pool, lacking: &[Lack]) -> Option<(Vec<&'static str>, Option<String>)> {
        let notice =
            Notice::ResourcesWanted { serving: None, wanted: "large".to_owned(), missing: Bytes::gib(1), pool };
        let open = |(name, memory, vram): &(&str, u64, u64)| Program {
            name: (*name).to_owned(),
            memory: Bytes::gib(*memory),
            vram: Bytes::gib(*vram),
        };
        let programs = OPEN.iter().map(open).collect();
        let news = News { programs, lacking: lacking.to_vec(), ..News::of(notice, Reason::Stopping) };
        let Suggestion { close, enough_for } = suggest(&news)?;
        let known = |name: &str| OPEN.iter().find(|(open, ..)| *open == name).unwrap().0;
        Some((close.iter().map(|(name, _)| known(name)).collect(), enough_for))
    }

    #[test]
    fn the_smallest_that_is_enough_is_named() {
        let large = [lack("large", &[(Pool::Ram, 3)])];
        assert_eq!(suggested(Pool::Ram, &large), Some((vec!["Game"], Some("large".to_owned()))));
        let large = [lack("large", &[(Pool::Ram, 1)])];
        assert_eq!(suggested(Pool::Ram, &large), Some((vec!["Slack"], Some("large".to_owned()))));
    }

    #[test]
    fn one_for_a_lesser_rung_comes_before_two_for_the_best() {
        let both = [lack("large", &[(Pool::Ram, 6)]), lack("medium", &[(Pool::Ram, 4)])];
        assert_eq!(suggested(Pool::Ram, &both), Some((vec!["Firefox"], Some("medium".to_owned()))));
        assert_eq!(suggested(Pool::Ram, &both[..1]), Some((vec!["Firefox", "Game"], Some("large".to_owned()))));
    }

    #[test]
    fn enough_means_enough_in_every_pool() {
        let large = [lack("large", &[(Pool::Ram, 3), (Pool::Vram, 5)])];
        assert_eq!(suggested(Pool::Vram, &large), Some((vec!["Game"], Some("large".to_owned()))));
        let large = [lack("large", &[(Pool::Ram, 4), (Pool::Vram, 5)])];
        assert_eq!(suggested(Pool::Vram, &large), Some((vec!["Game", "Blender"], Some("large".to_owned()))));
    }

    #[test]
    fn what_is_not_enough_is_named_without_a_promise() {
        let large = [lack("large", &[(Pool::Vram, 20)])];
        assert_eq!(suggested(Pool::Vram, &large), Some((vec!["Game", "Blender"], None)));
        assert_eq!(suggested(Pool::Vram, &[]), Some((vec!["Game", "Blender"], None)));
    }

    #[test]
    fn nothing_is_suggested_where_closing_programs_does_not_help() {
        assert_eq!(suggested(Pool::Cgroup, &[lack("large", &[(Pool::Cgroup, 1)])]), None);
        assert_eq!(
            suggest(&News::of(Notice::Stalled { waiting: 1, waited: crate::units::Span::ZERO }, Reason::Stopping)),
            None
        );
    }
}
