//! Check: files -> what is wrong with each, or that it is fine.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::contexts::{self, Deriving};
use super::doctor::finding::{Mark, lines};
use super::{NO, UNREACHABLE, color, exit, runtime};
use crate::act::Driver;
use crate::act::find::identify;
use crate::config::load;
use crate::policy::diagnostic::Diagnostics;
use crate::policy::parse::parse;
use crate::policy::{Policy, yaml};
use crate::tell::persona::Persona;

/// What a file can be, in the order in which it is looked for.
const KINDS: [Kind; 3] = [
    Kind { name: "policy", keys: &["ladder"], check: policy },
    Kind { name: "persona", keys: &["messages"], check: persona },
    Kind {
        name: "config",
        keys: &["server", "ollama", "gateway", "admin", "policy", "tell", "sampling", "store", "pretend", "stop_grace"],
        check: config,
    },
];

/// One kind of file.
struct Kind {
    name: &'static str,
    /// At least one of these stands at the top of such a file, and of no other.
    keys: &'static [&'static str],
    /// What is said of a fine one, or what is wrong with it.
    check: fn(&Path, String) -> Result<String, Vec<Diagnostics>>,
}

pub(super) fn run(files: &[PathBuf], server: Option<String>) -> ExitCode {
    let (report, fine) = check(files, color());
    print!("{report}");
    if !report.ends_with('\n') {
        println!();
    }
    let beside = server.map(|url| runtime().block_on(beside_server(files, url)));
    let served = match beside {
        None => true,
        Some(Ok((report, served))) => {
            print!("{report}");
            served
        }
        Some(Err(why)) => {
            eprintln!("{why}");
            return exit(UNREACHABLE);
        }
    };
    exit(if fine && served { 0 } else { NO })
}

/// The contexts of the policies among these files, held against the server's; and whether every rung can be served.
async fn beside_server(files: &[PathBuf], url: String) -> Result<(String, bool), String> {
    let error = |error: &dyn std::fmt::Display| format!("error: {error}");
    let kind = identify(&url).await.map_err(|why| error(&why))?;
    let driver = Driver::new(kind, &url).map_err(|why| error(&why))?;
    let facts = driver.facts().await.map_err(|why| error(&why))?;
    let (mut report, mut served) = (String::new(), true);
    for path in files {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        // What is wrong with one is told already, and what is none has no ladder.
        let Ok(policy) = parse(&text, "") else { continue };
        let found = contexts::findings(&policy, &driver, &facts, Deriving::Off).await;
        served &= found.iter().all(|finding| finding.mark != Mark::Wrong);
        report += &format!("{} at {url}:\n{}", path.display(), lines(&found, color()));
    }
    Ok((report, served))
}

/// A report on every file, and whether all of them are fine.
pub fn check(paths: &[PathBuf], color: Color) -> (String, bool) {
    let results: Vec<Result<String, String>> = paths.iter().map(|path| check_one(path, color)).collect();
    let fine = results.iter().all(Result::is_ok);
    let parts: Vec<String> = results.into_iter().map(|result| result.unwrap_or_else(|wrong| wrong)).collect();
    (parts.join("\n"), fine)
}

/// Whether a report is for a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Color {
    Plain,
    Styled,
}

fn check_one(path: &Path, color: Color) -> Result<String, String> {
    let name = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| format!("error: cannot read `{name}`: {error}"))?;
    let rendered = |each: Vec<Diagnostics>| {
        let each: Vec<String> = each.iter().map(|one| one.render(color == Color::Styled)).collect();
        each.join("\n\n")
    };
    let keys = yaml::top_keys(&text, &name.to_string()).map_err(|wrong| rendered(vec![wrong]))?;
    let Some(kind) = KINDS.iter().find(|kind| kind.keys.iter().any(|key| keys.iter().any(|found| found == key))) else {
        return Err(unrecognised(&name.to_string()));
    };
    let said = (kind.check)(path, text).map_err(rendered)?;
    Ok(format!("{name}: fine ({said})"))
}

fn unrecognised(name: &str) -> String {
    let wanted = KINDS.iter().map(|kind| {
        let keys: Vec<String> = kind.keys.iter().map(|key| format!("`{key}`")).collect();
        format!("  a {} has {}", kind.name, keys.join(" or "))
    });
    let wanted: Vec<String> = wanted.collect();
    format!(
        "error: `{name}` is none of the files that are known here: no key at its top was found\n{}",
        wanted.join("\n")
    )
}

fn policy(path: &Path, text: String) -> Result<String, Vec<Diagnostics>> {
    let policy = parse(&text, &path.display().to_string()).map_err(|wrong| vec![wrong])?;
    Ok(summary(&policy))
}

fn persona(path: &Path, text: String) -> Result<String, Vec<Diagnostics>> {
    Persona::parse(&text, &path.display().to_string()).map_err(|wrong| vec![wrong])?;
    Ok("a persona with every message".to_owned())
}

fn summary(policy: &Policy) -> String {
    let counted = |count: usize, one: &str| if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") };
    let parts = [(policy.ladder.len(), "rung"), (policy.tiers.len(), "tier"), (policy.tests.len(), "test")];
    parts.map(|(count, one)| counted(count, one)).join(", ")
}

fn config(path: &Path, text: String) -> Result<String, Vec<Diagnostics>> {
    match load::check(path, text) {
        Ok(_) => Ok("config".to_owned()),
        Err(load::ConfigError::Wrong(wrong)) => Err(wrong),
        Err(load::ConfigError::Unreadable { .. }) => unreachable!("the text is read already"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(name: &str, text: &str) -> (String, bool) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        let (report, fine) = check(&[path], Color::Plain);
        (report.replace(&folder.path().display().to_string(), "."), fine)
    }

    #[test]
    fn a_fine_policy_is_counted() {
        let text = "version: 1\nladder: [{ name: small, model: \"x\" }]\n";
        assert_eq!(report("p.yaml", text), ("./p.yaml: fine (1 rung, 1 tier, 0 tests)".to_owned(), true));
    }

    #[test]
    fn a_fine_config_is_known_as_one() {
        assert_eq!(report("c.yaml", "stop_grace: 5s\n"), ("./c.yaml: fine (config)".to_owned(), true));
    }

    #[test]
    fn what_is_wrong_is_shown_with_the_name_of_the_file() {
        let (report, fine) = report("c.yaml", "server: { url: \"ftp://box\" }\n");
        assert!(!fine);
        insta::assert_snapshot!(report, @r#"
        error: `url`: neither http nor https: `ftp://box`
         --> ./c.yaml:1:16
          |
        1 | server: { url: "ftp://box" }
          |                ^^^^^^^^^^^ this value
          |
          = expected: where the server listens
          = help: write `url: "http://127.0.0.1:11434"`
        "#);
    }

    #[test]
    fn a_persona_that_lacks_an_event_names_what_is_unknown_or_speaks_too_long_is_refused() {
        let shipped = include_str!("../../config/personas/plain.yaml");
        let first = "- \"Memory is getting short, so {{ to }} answers";
        assert!(shipped.contains(first) && shipped.contains("\n  stalled:\n"));
        let long = format!("- \"{} {{{{ to }}}} answers", "Memory is short. ".repeat(130));
        for (was, is, told) in [
            ("\n  stalled:\n", "\n  stalled_not:\n", "stalled"),
            (first, "- \"Memory is short, so {{ two }} answers", "unknown variable in `downgraded`: `two`"),
            (first, long.as_str(), "the message is too long for Discord"),
        ] {
            let (report, fine) = report("p.yaml", &shipped.replace(was, is));
            assert!(!fine && report.contains(told), "{told}: {report}");
        }
    }

    #[test]
    fn a_file_of_no_kind_hears_which_keys_were_looked_for() {
        let (report, fine) = report("x.yaml", "colour: red\n");
        assert!(!fine);
        insta::assert_snapshot!(report, @r#"
        error: `./x.yaml` is none of the files that are known here: no key at its top was found
          a policy has `ladder`
          a persona has `messages`
          a config has `server` or `ollama` or `gateway` or `admin` or `policy` or `tell` or `sampling` or `store` or `pretend` or `stop_grace`
        "#);
    }

    #[test]
    fn a_missing_file_and_broken_yaml_are_told() {
        let (missing, fine) = check(&[PathBuf::from("nowhere/p.yaml")], Color::Plain);
        assert!(!fine && missing.starts_with("error: cannot read `nowhere/p.yaml`"), "{missing}");
        let (broken, fine) = report("b.yaml", "ladder: [\n");
        assert!(!fine && broken.contains("not valid YAML"), "{broken}");
    }

    #[test]
    fn every_file_that_is_shipped_is_fine() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut paths: Vec<PathBuf> =
            std::fs::read_dir(root.join("policies")).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.push(root.join("config/tierkeeper.yaml"));
        paths.extend(["mai", "plain", "plain-de"].map(|name| root.join(format!("config/personas/{name}.yaml"))));
        let (report, fine) = check(&paths, Color::Plain);
        assert!(fine, "{report}");
    }
}
