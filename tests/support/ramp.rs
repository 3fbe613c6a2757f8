//! Ramp: nothing -> ramp-llm from PyPI, installed under `target/`, for who compares us with it.

use std::path::PathBuf;
use std::process::{Command, Stdio};

pub const RAMP: &str = "ramp-llm==0.7.0";

/// Its program; it is fetched when it is not there yet.
pub fn program() -> Result<PathBuf, String> {
    let place = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/ramp-llm");
    let program = place.join("bin/ramp");
    if program.exists() {
        return Ok(program);
    }
    let ran = |command: &mut Command| command.stdout(Stdio::null()).status().is_ok_and(|status| status.success());
    let install = ["install", "--quiet", "--disable-pip-version-check", RAMP];
    let made = ran(Command::new("python3").args(["-m", "venv"]).arg(&place))
        && ran(Command::new(place.join("bin/pip")).args(install));
    match made {
        true => Ok(program),
        false => Err(format!(
            "it could not be installed: python3 -m venv {0} && {0}/bin/pip install {RAMP}",
            place.display()
        )),
    }
}
