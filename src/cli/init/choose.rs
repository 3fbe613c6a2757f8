//! Choose: the models of a server, and what the machine has -> a ladder of those that can fit, and why the others are left out.
//!
//! A rung that is nearly as large as the one above it saves nothing when memory is short, so each takes at most two thirds
//! of the one before. Four are enough: every rung more is one more switch on the way.

use super::super::contexts;
use crate::act::Offer;
use crate::config::ServerKind;
use crate::decide::fit::{Limit, Room, Shortage, shortage};
use crate::decide::input::{ModelFacts, ServerFacts};
use crate::footprint::sightings::Learned;
use crate::footprint::{Footprint, Sizing};
use crate::policy::Upgrade;
use crate::units::{Bytes, Permille};

/// More rungs than this are more switches and no more choice.
const RUNGS_MAX: usize = 4;
/// So much of the one before it a rung takes at most.
const APART: Permille = Permille(667);
/// The contexts that a rung of llama-server may have, the first that fits. Without one a model comes with all that it was
/// trained for, which takes gigabytes.
const CONTEXTS: [u32; 3] = [8192, 4096, 2048];
/// Amounts are written in whole ones of these.
const GRAIN: Bytes = Bytes::mib(1);

/// A model that can be a rung, as it would be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) model: String,
    pub(super) context: Option<u32>,
    /// How many conversations part the context that llama-server is told to load it with.
    pub(super) parts: u32,
    /// What it takes at most, in whole MiB.
    pub(super) need: Footprint,
    /// Whether that was seen and not computed.
    pub(super) seen: bool,
}

/// A model that is no rung, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LeftOut {
    pub(super) model: String,
    pub(super) why: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Chosen {
    /// The ladder, best first.
    pub(super) rungs: Vec<Candidate>,
    pub(super) left_out: Vec<LeftOut>,
}

/// What is known of a server's models.
pub(super) struct Known<'a> {
    pub(super) kind: ServerKind,
    pub(super) facts: &'a ServerFacts,
    pub(super) offers: &'a [Offer],
    pub(super) learned: &'a [Learned],
}

/// The ladder for a machine with this room, were there nothing else on it.
pub(super) fn choose(known: &Known<'_>, rooms: &[Room]) -> Chosen {
    let mut chosen = Chosen::default();
    let mut fitting = Vec::new();
    for offer in known.offers {
        match known.candidate(offer, rooms) {
            Ok(candidate) => fitting.push(candidate),
            Err(why) => chosen.left_out.push(LeftOut { model: offer.model.clone(), why }),
        }
    }
    fitting.sort_by(|one, other| size(other).cmp(&size(one)).then_with(|| one.model.cmp(&other.model)));
    let mut apart: Vec<Candidate> = Vec::new();
    for candidate in fitting {
        match apart.last() {
            Some(above) if size(&candidate) > size(above).share(APART) => {
                let why = format!("it is nearly as large as {}", printable(&above.model));
                chosen.left_out.push(LeftOut { model: candidate.model, why });
            }
            Some(_) | None => apart.push(candidate),
        }
    }
    while apart.len() > RUNGS_MAX {
        let spare = apart.remove(most_spare(&apart));
        let why = format!("{RUNGS_MAX} rungs are enough, and others lie further apart");
        chosen.left_out.push(LeftOut { model: spare.model, why });
    }
    chosen.rungs = apart;
    chosen
}

/// All that it takes.
fn size(candidate: &Candidate) -> Bytes {
    candidate.need.memory + candidate.need.vram
}

/// The one in between whose neighbours lie closest together, by how many times one is the other.
fn most_spare(rungs: &[Candidate]) -> usize {
    let ratio = |at: usize| size(&rungs[at - 1]).0 as f64 / size(&rungs[at + 1]).0.max(1) as f64;
    let between = 1..rungs.len() - 1;
    between.min_by(|one, other| ratio(*one).total_cmp(&ratio(*other))).expect("there are more than four")
}

impl Known<'_> {
    fn candidate(&self, offer: &Offer, rooms: &[Room]) -> Result<Candidate, String> {
        if let Some(why) = offer.unfit {
            return Err(why.to_owned());
        }
        if offer.model.trim().is_empty() {
            return Err("it has no name".to_owned());
        }
        let facts = self.facts.models.get(&offer.model).ok_or("the server no longer has it")?;
        if facts.sizing.is_none() {
            return Err("its size is not known here".to_owned());
        }
        if self.is_unreadable(facts) {
            return Err("its metadata cannot be read, and the server will not load it".to_owned());
        }
        let mut short = None;
        for context in self.contexts(facts) {
            let (need, seen) = self.need(facts, context).ok_or("its size is not known here")?;
            // What is written is rounded, and must fit all the same.
            let more = Bytes(2 * GRAIN.0);
            let spared = Footprint { memory: need.memory + more, vram: spare(need.vram, more) };
            match shortage(rooms, &spared, Limit::Below(Upgrade::default().margin)) {
                None => return Ok(Candidate { model: offer.model.clone(), context, parts: parts(facts), need, seen }),
                Some(shortage) => short = Some((need, shortage)),
            }
        }
        let (need, Shortage { pool, missing }) = short.expect("there is at least one context");
        Err(format!("it may take {need_of}, and {missing} of {pool} is missing for that", need_of = amounts(&need)))
    }

    /// A file that is seen and yet sized by its length alone.
    fn is_unreadable(&self, facts: &ModelFacts) -> bool {
        let here = facts.key.as_ref().is_some_and(|key| key.digest.is_some());
        self.kind == ServerKind::LlamaServer && here && matches!(facts.sizing, Some(Sizing::Files(_)))
    }

    /// Those that it may be loaded with, best first. Ollama's `/v1` goes by the model's own, and so that is left.
    fn contexts(&self, facts: &ModelFacts) -> Vec<Option<u32>> {
        let trained = match (&facts.sizing, self.kind) {
            (Some(Sizing::Formula(plan)), ServerKind::LlamaServer) => plan.shape.context,
            (_, ServerKind::LlamaServer | ServerKind::Ollama) => return vec![None],
        };
        let within: Vec<_> = CONTEXTS.into_iter().filter(|tokens| *tokens <= trained).map(Some).collect();
        if within.is_empty() { vec![Some(trained)] } else { within }
    }

    /// What it takes at most, and whether that was learned.
    fn need(&self, facts: &ModelFacts, context: Option<u32>) -> Option<(Footprint, bool)> {
        let predicted = facts.bound(context.map(|tokens| tokens.saturating_mul(parts(facts))));
        let key = facts.key.as_ref().map(|key| key.with_context(context));
        let known = self.learned.iter().find(|learned| Some(&learned.key) == key.as_ref());
        let bound = known.map_or(predicted, |learned| learned.sightings.bound(predicted))?;
        Some((Footprint { memory: up(bound.memory), vram: up(bound.vram) }, known.is_some()))
    }
}

/// Where each slot has its part of the context, they need so many times that of one.
fn parts(facts: &ModelFacts) -> u32 {
    match &facts.sizing {
        Some(Sizing::Formula(plan)) => contexts::parts(plan),
        Some(Sizing::Files(_) | Sizing::Exact(_)) | None => 1,
    }
}

fn spare(amount: Bytes, more: Bytes) -> Bytes {
    if amount == Bytes::ZERO { amount } else { amount + more }
}

/// The next whole MiB.
fn up(amount: Bytes) -> Bytes {
    Bytes(amount.0.div_ceil(GRAIN.0).saturating_mul(GRAIN.0))
}

/// What a model takes, for people.
pub(super) fn amounts(need: &Footprint) -> String {
    if need.vram == Bytes::ZERO {
        format!("{} of memory", need.memory)
    } else {
        format!("{} of memory and {} of GPU memory", need.memory, need.vram)
    }
}

/// A name on one line, for a comment or a terminal.
pub(super) fn printable(name: &str) -> String {
    let odd = |letter: char| letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}' | '\u{feff}');
    name.chars()
        .map(|letter| if odd(letter) { letter.escape_unicode().to_string() } else { letter.to_string() })
        .collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::classify::Pool;

    /// A server with models of these sizes, of which nothing else is known.
    pub(in crate::cli::init) fn server(models: &[(&str, u64)]) -> (ServerFacts, Vec<Offer>) {
        let offer = |(model, _): &(&str, u64)| Offer {
            model: (*model).to_owned(),
            unfit: (*model == "embed").then_some("it embeds"),
            file: None,
            projector: None,
        };
        let offers = models.iter().map(offer).collect();
        let known = models.iter().map(|(model, mib)| ((*model).to_owned(), ModelFacts::of_files(Bytes::mib(*mib))));
        (ServerFacts { models: known.collect(), ..ServerFacts::default() }, offers)
    }

    pub(in crate::cli::init) fn room(gib: u64) -> Vec<Room> {
        let capacity = Bytes::gib(gib);
        let ceiling = capacity.share(Permille(800)).min(capacity.saturating_sub(Bytes::gib(1)));
        vec![Room { pool: Pool::Ram, capacity, ceiling, foreign: Bytes::ZERO }]
    }

    fn chosen(models: &[(&str, u64)], gib: u64) -> (Vec<String>, Vec<(String, String)>) {
        let (facts, offers) = server(models);
        let known = Known { kind: ServerKind::Ollama, facts: &facts, offers: &offers, learned: &[] };
        let chosen = choose(&known, &room(gib));
        let left = chosen.left_out.into_iter().map(|left| (left.model, left.why)).collect();
        (chosen.rungs.into_iter().map(|rung| rung.model).collect(), left)
    }

    #[test]
    fn the_largest_that_can_fit_comes_first_and_each_is_well_below_the_one_before() {
        let models = [("small", 500), ("huge", 40_000), ("large", 8000), ("nearly", 7000), ("embed", 300)];
        let (rungs, left) = chosen(&models, 16);
        assert_eq!(rungs, ["large", "small"]);
        let why = |model: &str| left.iter().find(|(left, _)| left == model).unwrap().1.clone();
        assert!(why("huge").starts_with("it may take 47.2 GiB of memory, and"), "{}", why("huge"));
        assert_eq!(why("nearly"), "it is nearly as large as large");
        assert_eq!(why("embed"), "it embeds");
    }

    #[test]
    fn of_many_the_four_stay_that_lie_furthest_apart() {
        let models = [("a", 16_000), ("b", 9000), ("c", 5000), ("d", 4600), ("e", 2500), ("f", 1200), ("g", 200)];
        let (rungs, left) = chosen(&models, 64);
        assert_eq!(rungs.len(), RUNGS_MAX, "{rungs:?}");
        assert_eq!((rungs[0].as_str(), rungs[3].as_str()), ("a", "g"), "the best and the smallest stay");
        assert_eq!(left.len(), 3);
    }

    #[test]
    fn what_was_seen_to_take_less_fits_where_the_prediction_does_not() {
        use crate::footprint::key::FootprintKey;
        use crate::footprint::sightings::Sightings;
        let (mut facts, offers) = server(&[("large", 6000)]);
        let key = FootprintKey { model: "large".to_owned(), ..FootprintKey::default() };
        facts.models.get_mut("large").unwrap().key = Some(key.clone());
        let seen = Footprint { memory: Bytes::gib(5), vram: Bytes::ZERO };
        let learned = [Learned { key, sightings: Sightings::of([seen, seen]) }];
        let rungs = |learned: &[Learned]| {
            let known = Known { kind: ServerKind::Ollama, facts: &facts, offers: &offers, learned };
            choose(&known, &room(8)).rungs
        };
        assert_eq!(rungs(&[]), []);
        let found = rungs(&learned);
        assert_eq!(
            (found[0].model.as_str(), found[0].seen, found[0].need.memory),
            ("large", true, up(Bytes(5529664716)))
        );
    }

    #[test]
    fn a_name_is_printed_on_one_line() {
        assert_eq!(printable("a\n# b\u{2028}é"), "a\\u{a}# b\\u{2028}é");
    }
}
