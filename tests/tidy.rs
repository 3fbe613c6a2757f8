//! Tidy: the source of every room -> what in it is against the house's rules.
//!
//! The table below is the one of docs/ARCHITECTURE.md: who may name whom. It reads tokens and not lines, so that groups,
//! `super::` chains, globs and the bodies of macros are seen, and comments and strings are not.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A room, and the rooms that it may name beside itself.
const ROOMS: [(&str, &[&str]); 16] = [
    ("units", &[]),
    ("policy", &["units"]),
    ("footprint", &["units"]),
    ("sample", &["units"]),
    ("classify", &["units", "policy", "sample"]),
    ("decide", &["units", "policy", "footprint", "sample", "classify"]),
    ("simulate", &["units", "policy", "footprint", "sample", "classify", "decide"]),
    ("config", &["units", "policy"]),
    ("letter", &[]),
    ("act", &["units", "policy", "footprint", "decide", "config"]),
    ("gateway", &["units", "policy", "decide", "config"]),
    ("tell", &["units", "policy", "classify", "decide", "config", "letter"]),
    ("store", &["units", "footprint", "config", "letter"]),
    ("admin", &["units", "policy", "decide", "config"]),
    (
        "run",
        &[
            "units",
            "policy",
            "footprint",
            "sample",
            "classify",
            "decide",
            "simulate",
            "config",
            "letter",
            "act",
            "gateway",
            "tell",
            "store",
            "admin",
        ],
    ),
    (
        "cli",
        &[
            "units",
            "policy",
            "footprint",
            "sample",
            "classify",
            "decide",
            "simulate",
            "config",
            "letter",
            "act",
            "gateway",
            "tell",
            "store",
            "admin",
            "run",
        ],
    ),
];

/// Lines of one file, its tests apart.
const FILE_LINES_MAX: usize = 400;
/// What is longer, and why it may be.
const LONGER: [(&str, usize, &str); 0] = [];

#[test]
fn every_room_names_only_the_rooms_that_its_row_allows() {
    let wrong: Vec<String> = sources().iter().flat_map(|(path, text)| forbidden(path, text)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_says_what_it_is_and_is_no_longer_than_it_may_be() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        if !text.starts_with("//! ") {
            wrong.push(format!("{}: does not begin with a line of `//! `", path.display()));
        }
        let lines = lines_without_tests(&path, &text);
        let longer = LONGER.iter().find(|(name, _, _)| path.ends_with(name)).map(|(_, lines, _)| *lines);
        let most = longer.unwrap_or(FILE_LINES_MAX);
        if lines > most {
            wrong.push(format!("{}: {lines} lines, and it may have {most}", path.display()));
        }
        if tokens(&text).iter().collect::<Vec<_>>().windows(2).any(|pair| pair[0] == "pub" && pair[1] == "use") {
            wrong.push(format!("{}: `pub use` gives a thing two names", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_rooms_stand_in_reading_order() {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let listed: Vec<&str> = lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let order: Vec<&str> = ROOMS.iter().map(|(room, _)| *room).collect();
    assert_eq!(listed, order);
}

#[test]
fn whoever_goes_round_the_table_is_seen() {
    let cases = [
        ("src/decide/a.rs", "use crate::act::Driver;"),
        ("src/decide/a.rs", "use crate::{units::Bytes, act};"),
        ("src/decide/a.rs", "use crate::{units, gateway::{Gateway}};"),
        ("src/decide/a.rs", "fn f() { crate::act::go() }"),
        ("src/decide/a.rs", "use super::super::act;"),
        ("src/decide/mod.rs", "use super::act;"),
        ("src/decide/mod.rs", "use super::*;"),
        ("src/decide/a.rs", "use crate::*;"),
        ("src/decide/a.rs", "use crate as all;"),
        ("src/decide/a.rs", "mod tests { use super::super::super::act; }"),
        ("src/decide/a.rs", "log!(crate::act::go());"),
        ("src/sample/mod.rs", "use crate::decide::input::Input;"),
        ("src/act/mod.rs", "use crate::gateway::Gateway;"),
        ("src/run/mod.rs", "use crate::cli;"),
    ];
    for (path, text) in cases {
        assert!(!forbidden(Path::new(path), text).is_empty(), "{path}: {text}");
    }
    let fine = [
        ("src/decide/a.rs", "use crate::{units::Bytes, sample};"),
        ("src/decide/a.rs", "use super::b::C; // crate::act"),
        ("src/decide/a.rs", "mod tests { use super::*; use super::super::b; }"),
        ("src/decide/a.rs", "const WORDS: &str = \"crate::act\";"),
        ("src/cli/mod.rs", "use crate::run;"),
    ];
    for (path, text) in fine {
        assert_eq!(forbidden(Path::new(path), text), [""; 0], "{path}: {text}");
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file of every room, by its path from the root of the project.
fn sources() -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root().join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("the sources can be read") {
            let path = entry.expect("the sources can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("the sources can be read");
                found.insert(path.strip_prefix(root()).expect("the sources can be read").to_owned(), text);
            }
        }
    }
    assert!(found.len() > 30, "the sources were not found");
    found
}

/// The module that a file is: `src/act/http.rs` is `[act, http]`, and `src/act/mod.rs` is `[act]`.
fn module_of(path: &Path) -> Vec<String> {
    let mut parts: Vec<String> =
        path.components().skip(1).map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
    let file = parts.pop().unwrap_or_default();
    let stem = file.trim_end_matches(".rs");
    if !["mod", "lib", "main"].contains(&stem) {
        parts.push(stem.to_owned());
    }
    parts
}

/// What a file names and may not.
fn forbidden(path: &Path, text: &str) -> Vec<String> {
    let module = module_of(path);
    let Some(room) = module.first().cloned() else { return Vec::new() };
    let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else {
        return vec![format!("{}: `{room}` is no room", path.display())];
    };
    let stream: TokenStream = text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut named = Vec::new();
    walk(stream, &module, &mut named);
    let is_wrong = |name: &String| *name != room && !allowed.contains(&name.as_str());
    let line = |name: String| format!("{}: `{room}` may not name `{name}`", path.display());
    named.into_iter().filter(is_wrong).map(line).collect()
}

/// Collects what is named at the root of the crate.
fn walk(stream: TokenStream, module: &[String], named: &mut Vec<String>) {
    let trees: Vec<TokenTree> = stream.into_iter().collect();
    let mut at = 0;
    while at < trees.len() {
        if let TokenTree::Group(group) = &trees[at] {
            // An inline module is one step further from the root.
            let inner = match (at.checked_sub(2).map(|before| word(&trees[before])), group.delimiter()) {
                (Some(Some(keyword)), Delimiter::Brace) if keyword == "mod" => {
                    let name = word(&trees[at - 1]).unwrap_or_default();
                    module.iter().cloned().chain([name]).collect()
                }
                _ => module.to_vec(),
            };
            walk(group.stream(), &inner, named);
        }
        // `pub(super)` and `pub(crate)` end in nothing that is named.
        let depth = match word(&trees[at]).as_deref() {
            Some("crate") => Some(0),
            Some("super") if at == 0 || !is_path(&trees[at - 1]) => Some(module.len().saturating_sub(1)),
            _ => None,
        };
        if let Some(depth) = depth {
            at = follow(&trees, at + 1, depth, named);
        } else {
            at += 1;
        }
    }
}

/// Follows a path that began at so many steps from the root; where it comes to the root, the next name is a room.
fn follow(trees: &[TokenTree], mut at: usize, mut depth: usize, named: &mut Vec<String>) -> usize {
    while at + 2 < trees.len() && is_path(&trees[at]) && is_path(&trees[at + 1]) {
        let next = &trees[at + 2];
        at += 2;
        if word(next).as_deref() == Some("super") {
            depth = depth.saturating_sub(1);
            at += 1;
            continue;
        }
        if depth > 0 {
            return at;
        }
        match next {
            TokenTree::Group(group) => named.extend(heads(group.stream())),
            TokenTree::Punct(_) => named.push("*".to_owned()),
            TokenTree::Ident(_) | TokenTree::Literal(_) => named.extend(word(next)),
        }
        return at;
    }
    if trees.get(at).and_then(word).as_deref() == Some("as") && depth == 0 {
        named.push("crate under another name".to_owned());
    }
    at
}

/// The first names of each entry of a `{group}`.
fn heads(stream: TokenStream) -> Vec<String> {
    let mut heads = Vec::new();
    let mut is_first = true;
    for tree in stream {
        match &tree {
            TokenTree::Punct(punct) if punct.as_char() == ',' => is_first = true,
            TokenTree::Punct(punct) if punct.as_char() == '*' && is_first => heads.push("*".to_owned()),
            TokenTree::Ident(ident) if is_first => {
                heads.push(ident.to_string());
                is_first = false;
            }
            TokenTree::Ident(_) | TokenTree::Punct(_) | TokenTree::Literal(_) | TokenTree::Group(_) => {}
        }
    }
    heads
}

fn word(tree: &TokenTree) -> Option<String> {
    match tree {
        TokenTree::Ident(ident) => Some(ident.to_string()),
        TokenTree::Group(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => None,
    }
}

fn is_path(tree: &TokenTree) -> bool {
    matches!(tree, TokenTree::Punct(punct) if punct.as_char() == ':')
}

fn tokens(text: &str) -> Vec<String> {
    text.parse::<TokenStream>()
        .map(|stream| stream.into_iter().map(|tree| tree.to_string()).collect())
        .unwrap_or_default()
}

fn lines_without_tests(path: &Path, text: &str) -> usize {
    if path.file_name().is_some_and(|name| name == "tests.rs") || path.iter().any(|part| part == "tests") {
        return 0;
    }
    text.lines().take_while(|line| !line.starts_with("mod tests")).count()
}
