//! Source: a file -> the trace or the recording in it, for whatever policy is run over it.

use std::borrow::Cow;
use std::path::Path;

use super::{Differs, Replayed};
use crate::policy::Policy;
use crate::simulate::recording::read::{self, Recording};
use crate::simulate::trace::{self, Trace};

pub(super) enum Source {
    Trace(Trace),
    Recording(Box<Recording>),
}

impl Source {
    pub(super) fn read(path: &Path) -> Result<Source, String> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read the trace `{name}`: {error}"))?;
        let source = match read::is_recording(&text) {
            true => read::read(&text, &name).map(|recording| Source::Recording(Box::new(recording))),
            false => trace::parse(&text, &name).map(Source::Trace),
        };
        source.map_err(|wrong| wrong.render(false))
    }

    pub(super) fn trace_for(&self, policy: &Policy) -> Cow<'_, Trace> {
        match self {
            Source::Trace(trace) => Cow::Borrowed(trace),
            Source::Recording(recording) => Cow::Owned(recording.trace_for(policy)),
        }
    }

    /// What this file and these policies do not know of each other, in words.
    pub(super) fn doubts(&self, policies: &[&Policy]) -> Vec<String> {
        match self {
            Source::Trace(trace) => trace.doubts(policies),
            Source::Recording(recording) => {
                let cut = "it ends in the middle of a line: whoever recorded was stopped; the rest is fine".to_owned();
                let cut = recording.cut_short.then_some(cut);
                let strangers = policies.iter().flat_map(|policy| {
                    let known = recording.trace_for(policy).machine.footprint;
                    let unknown = policy.ladder.iter().filter(move |rung| !known.contains_key(&rung.name));
                    unknown.map(|rung| {
                        format!("the server that was recorded did not have `{}`, so it is never chosen", rung.model)
                    })
                });
                cut.into_iter().chain(strangers).collect()
            }
        }
    }

    /// Of a recording of this policy.
    pub(super) fn replayed(&self, policy: &Policy) -> Option<Replayed> {
        let Source::Recording(recording) = self else { return None };
        let replay = &recording.replay;
        recording.is_by(policy).then(|| Replayed {
            program: recording.program.clone(),
            inputs: replay.inputs,
            commands: replay.commands,
            same: replay.difference.is_none(),
            difference: replay.difference.as_ref().map(|differs| Differs {
                line: differs.line,
                at_ms: differs.at,
                recorded: differs.recorded.clone(),
                decided: differs.decided.clone(),
            }),
        })
    }
}
