//! Continuing: what was seen of models in this run and before, and the server's facts -> which of them the gateway may
//! hand a reply over to, and what the next run knows of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::decide::input::ServerFacts;
use crate::footprint::key::FootprintKey;
use crate::gateway::Gateway;
use crate::policy::Rung;
use crate::store;

/// Whether models go on with a reply that another one has begun. Its clones know the same.
#[derive(Clone)]
pub struct Continuing {
    gateway: Gateway,
    /// `None` where nothing can be kept.
    store: Option<store::Continuing>,
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    seen: BTreeMap<Template, bool>,
    /// The models of the ladder, as the server has them now.
    models: BTreeMap<String, FootprintKey>,
}

/// What it depends on how a model reads a chat: its template, which comes with its digest, and the version of the server,
/// which fills it in. How much context the model has, and what it computes with, changes nothing in that.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Template {
    server: String,
    model: String,
    digest: String,
}

impl Template {
    /// `None` where a model cannot be told from another one of its name.
    fn of(key: &FootprintKey) -> Option<Self> {
        let FootprintKey { server, model, digest, .. } = key.clone();
        Some(Template { server, model, digest: digest? })
    }
}

impl Continuing {
    pub fn new(gateway: Gateway, kept: Vec<(FootprintKey, bool)>, store: Option<store::Continuing>) -> Self {
        let mut known = Known::default();
        for (key, continues) in kept {
            // Of one model with two contexts the "no" counts: it is tried again.
            let Some(template) = Template::of(&key) else { continue };
            known.seen.entry(template).and_modify(|seen| *seen &= continues).or_insert(continues);
        }
        Continuing { gateway, store, known: Arc::new(Mutex::new(known)) }
    }

    /// The server has these models, of which the ladder's have these names. What has changed is no longer what was tried; a
    /// pull is seen here when the server is asked anew, as it is for what a model takes.
    pub fn found(&self, facts: &ServerFacts, names: &[String]) {
        let key = |name: &String| Some((name.clone(), facts.models.get(name)?.key.clone()?));
        let models: BTreeMap<String, FootprintKey> = names.iter().filter_map(key).collect();
        let mut known = self.known();
        for (model, before) in &known.models {
            let is_same = models.get(model).is_some_and(|key| Template::of(key) == Template::of(before));
            if !is_same {
                self.gateway.may_not_continue(model);
            }
        }
        known.models = models;
        for (model, key) in &known.models {
            let seen = Template::of(key).and_then(|template| known.seen.get(&template));
            // A "no" is tried again when the model serves, and waited for until then, as if it were not known.
            if seen == Some(&true) && !self.gateway.is_known_to_continue(model) {
                tracing::debug!(message = "An earlier trial has shown that the model goes on with a reply.", %model);
                self.gateway.continues(model, true);
            }
        }
    }

    /// The rung's model, as it is about to be tried.
    pub fn key(&self, rung: &Rung) -> Option<FootprintKey> {
        Some(self.known().models.get(&rung.model)?.with_context(rung.context))
    }

    /// The rung's model was seen to go on with a reply, or not to; `None`: that could not be seen, so it is not kept.
    pub fn saw(&self, rung: &Rung, key: Option<FootprintKey>, seen: Option<bool>) {
        let template = |key: Option<&FootprintKey>| key.and_then(Template::of);
        let mut known = self.known();
        // Who was changed meanwhile is tried again when it serves.
        if template(known.models.get(&rung.model)) == template(key.as_ref()) {
            self.gateway.continues(&rung.model, seen == Some(true));
        }
        let (Some(seen), Some(key)) = (seen, key) else { return };
        let Some(template) = Template::of(&key) else { return };
        known.seen.insert(template, seen);
        if let Some(store) = &self.store {
            store.keep(key, seen);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::decide::input::ModelFacts;
    use crate::gateway::tests::gateway;
    use crate::store::Store;

    fn key(digest: Option<&str>) -> FootprintKey {
        let digest = digest.map(str::to_owned);
        FootprintKey { server: "Ollama 1".to_owned(), model: "small:latest".to_owned(), digest, ..Default::default() }
    }

    fn facts(key: FootprintKey) -> ServerFacts {
        let model = ModelFacts { sizing: None, key: Some(key) };
        ServerFacts { models: [("small".to_owned(), model)].into(), ..ServerFacts::default() }
    }

    fn rung() -> Rung {
        Rung { name: "s".to_owned(), model: "small".to_owned(), context: Some(4096) }
    }

    fn continuing(kept: &[(FootprintKey, bool)], store: Option<&Store>) -> Continuing {
        Continuing::new(gateway(), kept.to_vec(), store.map(Store::continuing))
    }

    fn is_known(continuing: &Continuing) -> bool {
        continuing.gateway.is_known_to_continue("small")
    }

    /// What the next run finds.
    fn is_known_after(path: &Path, key: FootprintKey) -> bool {
        let next = continuing(&Store::open(path).unwrap().continuing, None);
        next.found(&facts(key), &["small".to_owned()]);
        is_known(&next)
    }

    #[test]
    fn what_was_seen_holds_in_the_next_run_for_the_same_files_before_the_same_server() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.db");
        let names = ["small".to_owned()];
        for (seen, holds) in [(Some(false), false), (Some(true), true), (None, true)] {
            let store = Store::open(&path).unwrap().store;
            let first = continuing(&[], Some(&store));
            first.found(&facts(key(Some("a"))), &names);
            first.saw(&rung(), first.key(&rung()), seen);
            assert_eq!(is_known(&first), seen == Some(true));
            drop(store);
            assert_eq!(is_known_after(&path, key(Some("a"))), holds, "{seen:?}");
        }
        assert!(is_known_after(&path, key(Some("a")).with_context(Some(9))), "the context does not matter");
        for other in [
            key(Some("b")),
            key(None),
            FootprintKey { server: "Ollama 2".to_owned(), ..key(Some("a")) },
            FootprintKey { model: "other".to_owned(), ..key(Some("a")) },
        ] {
            assert!(!is_known_after(&path, other.clone()), "{other}");
        }
    }

    #[test]
    fn a_no_of_one_context_holds_against_a_yes_of_another() {
        for kept in [[true, false], [false, true]] {
            let kept = kept.map(|seen| (key(Some("a")).with_context(Some(1 + u32::from(seen))), seen));
            let known = continuing(&kept, None);
            known.found(&facts(key(Some("a"))), &["small".to_owned()]);
            assert!(!is_known(&known), "{kept:?}");
        }
    }

    #[test]
    fn a_model_that_was_pulled_anew_is_not_known_until_it_is_tried_again() {
        let names = ["small".to_owned()];
        let known = continuing(&[], None);
        known.found(&facts(key(Some("a"))), &names);
        let tried = known.key(&rung());
        known.saw(&rung(), tried.clone(), Some(true));
        known.found(&facts(key(Some("a"))), &names);
        assert!(is_known(&known), "it is as it was");
        known.found(&facts(key(Some("b"))), &names);
        assert!(!is_known(&known), "it has changed");
        known.saw(&rung(), tried, Some(true));
        assert!(!is_known(&known), "what was tried has gone meanwhile");
        known.saw(&rung(), known.key(&rung()), Some(true));
        assert!(is_known(&known));
        known.found(&ServerFacts::default(), &names);
        assert!(!is_known(&known), "it is not there");
        known.found(&facts(key(Some("a"))), &names);
        assert!(is_known(&known), "it is back as it was tried");
    }
}
