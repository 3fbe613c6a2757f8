//! Preset: the rungs of a llama-server -> the INI file of its `--models-preset`, and the line that starts it with that.
//!
//! A section is a model's id up to the first `]`, without the blanks around it, and `*` is for all: what cannot be named so
//! has no section, and then no context in the policy (seen with llama-server b10434). What stands on the server's own
//! command line counts more than a section.

use std::fmt::Write;
use std::path::Path;

use super::choose::{Candidate, printable};
use crate::act::Offer;

/// Whether a section can be of this model and no other.
pub(super) fn can_name(model: &str) -> bool {
    model.trim() == model && model != "*" && !model.contains(']') && !model.chars().any(char::is_control)
}

/// The file.
pub(super) fn text(rungs: &[Candidate], offers: &[Offer], policy: &str) -> String {
    let mut text = format!(
        "; How llama-server loads the models of {}, by `tierkeeper init`. `ctx-size` is the `context` there, for\n\
         ; as many conversations as part it (`--parallel`).\n\
         ; If the server has a preset already, put these lines into that.\n\
         version = 1\n",
        printable(policy)
    );
    for rung in rungs.iter().filter(|rung| can_name(&rung.model)) {
        line(&mut text, &format!("\n[{}]", rung.model));
        let offer = offers.iter().find(|offer| offer.model == rung.model);
        let files =
            [("model", offer.and_then(|it| it.file.as_ref())), ("mmproj", offer.and_then(|it| it.projector.as_ref()))];
        for (key, file) in files {
            if let Some(file) = file.filter(|file| !file.chars().any(char::is_control)) {
                line(&mut text, &format!("{key} = {file}"));
            }
        }
        if let Some(context) = rung.context {
            line(&mut text, &format!("ctx-size = {}", context.saturating_mul(rung.parts)));
        }
    }
    text
}

/// The line that starts the server so. Its folder of models is named where they all lie in one.
pub(super) fn start(url: &str, offers: &[Offer], preset: &str) -> String {
    let port = url.rsplit(':').next().and_then(|port| port.parse::<u16>().ok()).unwrap_or(8080);
    let files = offers.iter().filter_map(|offer| offer.file.as_deref());
    let mut folders: Vec<&Path> = files.filter_map(|file| Path::new(file).parent()).collect();
    folders.dedup();
    let folder = match folders[..] {
        [folder] => format!(" --models-dir {}", quoted(&folder.display().to_string())),
        _ => String::new(),
    };
    format!("llama-server --port {port}{folder} --models-preset {} --models-max 2 --cache-ram 512", quoted(preset))
}

/// A word for a shell.
pub(super) fn quoted(word: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./:@%+=,".contains(letter);
    let word = printable(word);
    if !word.is_empty() && word.chars().all(plain) { word } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("a string takes all that is written to it");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::footprint::Footprint;

    fn offer(model: &str, file: &str) -> Offer {
        Offer { model: model.to_owned(), unfit: None, file: Some(file.to_owned()), projector: None }
    }

    #[test]
    fn each_rung_has_a_section_with_its_file_and_its_context() {
        let rung = |model: &str, context| Candidate {
            model: model.to_owned(),
            context,
            parts: if model == "big one" { 2 } else { 1 },
            need: Footprint::default(),
            seen: false,
        };
        let rungs = [rung("big one", Some(8192)), rung("odd]", Some(4096)), rung("b", None)];
        let sees = Offer { projector: Some("/m/p.gguf".to_owned()), ..offer("big one", "/m/big one.gguf") };
        insta::assert_snapshot!(text(&rungs, &[sees, offer("b", "/m/b.gguf")], "policy.yaml"), @r"
        ; How llama-server loads the models of policy.yaml, by `tierkeeper init`. `ctx-size` is the `context` there, for
        ; as many conversations as part it (`--parallel`).
        ; If the server has a preset already, put these lines into that.
        version = 1

        [big one]
        model = /m/big one.gguf
        mmproj = /m/p.gguf
        ctx-size = 16384

        [b]
        model = /m/b.gguf
        ");
    }

    #[test]
    fn the_line_that_starts_it_can_be_pasted() {
        let offers = [offer("a", "/my models/a.gguf"), offer("b", "/my models/b.gguf")];
        assert_eq!(
            start("http://127.0.0.1:8081", &offers, "it's.ini"),
            "llama-server --port 8081 --models-dir '/my models' --models-preset 'it'\\''s.ini' --models-max 2 --cache-ram 512"
        );
        let apart = [offer("a", "/m/a.gguf"), offer("b", "/n/b.gguf")];
        assert!(!start("http://127.0.0.1:8081", &apart, "p.ini").contains("--models-dir"));
    }

    #[test]
    fn what_a_section_cannot_name_is_known() {
        for name in ["*", "a]b", " a", "a\nb"] {
            assert!(!can_name(name), "{name:?}");
        }
        assert!(can_name("-x;#=[y") && can_name("a b"));
    }
}
