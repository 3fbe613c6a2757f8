//! Samples: an event -> news of it as it may come, with all that can be known and with little: what words are tried on.

use super::news::{News, Program};
use crate::classify::{Level, OwnSource, Pool};
use crate::decide::fit::{Lack, Shortage};
use crate::decide::notice::Notice;
use crate::decide::reason::Reason;
use crate::units::{Bytes, Permille, Span};

/// The names of all events, in the order in which they are shown.
pub fn events() -> Vec<&'static str> {
    let mut events: Vec<&'static str> = Vec::new();
    for notice in Notice::examples() {
        if !events.contains(&notice.event()) {
            events.push(notice.event());
        }
    }
    events
}

/// All that can be known, then the fewest facts, then a program that is not enough.
pub fn samples(event: &str) -> Vec<News> {
    let bare = Notice::examples().into_iter().filter(|notice| notice.event() == event).map(|notice| {
        let reason = reason(&notice);
        News::of(notice, reason)
    });
    let mut samples: Vec<News> = bare.collect();
    if let Some(full) = samples.first().filter(|full| super::suggest::short_pool(&full.notice).is_some()).cloned() {
        samples[0] = News { programs: programs(), lacking: lacking(Bytes::gib(2)), ..full.clone() };
        samples.push(News { programs: programs(), lacking: lacking(Bytes::gib(20)), ..full });
    }
    samples
}

fn programs() -> Vec<Program> {
    let program =
        |name: &str, mib: u64| Program { name: name.to_owned(), memory: Bytes::mib(mib), vram: Bytes::mib(mib) };
    vec![program("Firefox", 3174), program("Blender", 1331)]
}

fn lacking(missing: Bytes) -> Vec<Lack> {
    vec![Lack { rung: "large".to_owned(), pools: vec![Shortage { pool: Pool::Vram, missing }] }]
}

fn reason(notice: &Notice) -> Reason {
    match notice {
        Notice::Downgraded { .. } | Notice::HandedOver { .. } => Reason::Use {
            pool: Pool::Ram,
            level: Level::Soft,
            used: Permille(840),
            threshold: Permille(800),
            foreign: Bytes::gib(9),
            ceiling: Bytes::gib(12),
        },
        Notice::ResourcesWanted { .. } | Notice::Asleep { .. } => Reason::NothingFits {
            pool: Pool::Ram,
            foreign: Bytes::gib(12),
            smallest: Bytes::gib(1),
            ceiling: Bytes::gib(12),
        },
        Notice::Suggested { below_for, .. } => Reason::LongBelow { below_for: *below_for },
        Notice::LoadFailed { rung, why, .. } => Reason::LoadFailed { rung: rung.clone(), error: why.clone() },
        Notice::CameUpOnCpu { rung, .. } => {
            Reason::CameUpOnCpu { rung: rung.clone(), on_gpu: Bytes::ZERO, planned: Bytes::gib(6) }
        }
        Notice::Contested { rung, .. } => {
            Reason::LoadedByOthers { model: rung.clone(), unloaded_ago: Span::minutes(2) }
        }
        Notice::Stalled { waiting, waited } => Reason::LongWait { held: *waiting, waited: *waited },
        Notice::Upgraded { .. } => Reason::Fits {
            pool: Pool::Ram,
            foreign: Bytes::gib(4),
            footprint: Bytes::gib(6),
            limit: Bytes::gib(12),
            calm: Span::minutes(5),
        },
        Notice::MemoryKept { rung, kept, pool, .. } => Reason::MemoryKept {
            model: rung.clone(),
            pool: *pool,
            kept: *kept,
            after: Span::seconds(30),
            known_by: OwnSource::Measured,
        },
    }
}
