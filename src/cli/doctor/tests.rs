//! The whole page, for each shape of machine that there is a tree of.

use std::collections::BTreeMap;

use super::*;
use crate::decide::input::ModelFacts;
use crate::sample::fixture::fixture;
use crate::sample::gpu::tests::read as read_gpus;
use crate::sample::listener::ServerPlace;

/// The page of a tree, with a server that answers. Whether the kernel wakes us is not in any file.
fn told(root: &Path, server: &str) -> String {
    let place = ServerPlace::from_url(server, &["ollama"]);
    let mut sampler = Sampler::new(root, place, None).with_gpus(read_gpus(root));
    let mut findings = machine::findings(root, Waking::Granted);
    let (_, seen) = seen(root, &mut sampler, Moment::START);
    findings.extend(machine::cards(sampler.gpus().cards()));
    let models = BTreeMap::from([("qwen3:4b".to_owned(), ModelFacts::default())]);
    let facts = ServerFacts { version: "ollama 0.12.3".to_owned(), models, models_max: None };
    let sections = [
        Section { title: "This machine".to_owned(), findings },
        Section {
            title: format!("The model server ({server})"),
            findings: of_server(ServerKind::Ollama, &facts, &seen, view(root)),
        },
    ];
    page(&sections, super::super::check::Color::Plain).0.replace(root.to_str().unwrap(), "")
}

#[test]
fn every_shape_of_machine_is_told_with_what_would_mend_it() {
    let trees = std::fs::read_dir(fixture("")).unwrap();
    let mut names: Vec<String> = trees.map(|tree| tree.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert!(names.len() > 20, "{names:?}");
    for name in names {
        let server = if name.starts_with("container") { "http://ollama:11434" } else { "http://127.0.0.1:11434" };
        insta::assert_snapshot!(name.as_str(), told(&fixture(&name), server));
    }
}
