//! Operator: what is said on the command line -> a wish for the running sidecar, and what holds from then on.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::{BAD_CONFIGURATION, NO, PlaceArgs, UNREACHABLE, exit, run, runtime};
use crate::admin::client::{self, ClientError, Told};
use crate::admin::status::{WordReport, word_lines};
use crate::config::Config;
use crate::units::Span;

pub fn pin(place: PlaceArgs, rung: &str, lasts: Option<Span>) -> ExitCode {
    say(place, "/pin", &json!({ "rung": rung, "for_ms": lasts }))
}

pub fn sleep(place: PlaceArgs, lasts: Option<Span>) -> ExitCode {
    say(place, "/sleep", &json!({ "for_ms": lasts }))
}

pub fn wake(place: PlaceArgs, lasts: Option<Span>) -> ExitCode {
    say(place, "/wake", &json!({ "for_ms": lasts }))
}

pub fn resume(place: PlaceArgs, lasts: Option<Span>) -> ExitCode {
    say(place, "/resume", &json!({ "for_ms": lasts }))
}

pub fn reload(place: PlaceArgs) -> ExitCode {
    match wish(place, "/reload", &json!({})) {
        Ok(_) => {
            println!("the policy was read again");
            ExitCode::SUCCESS
        }
        Err(code) => code,
    }
}

fn say(place: PlaceArgs, path: &str, body: &Value) -> ExitCode {
    match wish(place, path, body) {
        Ok(told) => {
            print!("{}", holds(&serde_json::from_value(told).unwrap_or_default()));
            ExitCode::SUCCESS
        }
        Err(code) => code,
    }
}

/// What the operator has said, line by line.
fn holds(word: &WordReport) -> String {
    let lines = word_lines(word);
    if lines.is_empty() {
        return "nothing is held to: it decides by itself\n".to_owned();
    }
    lines.into_iter().map(|(name, line)| format!("{name:<11}{line}\n")).collect()
}

/// What the sidecar answers; what went wrong is told, and the exit code is in the error.
fn wish(place: PlaceArgs, path: &str, body: &Value) -> Result<Value, ExitCode> {
    let config = run::place(place).map_err(|message| fail(BAD_CONFIGURATION, &message))?;
    match runtime().block_on(client::post(config.admin.listen, token(&config).as_deref(), path, body)) {
        Ok(Told { status: 200, body }) => Ok(body),
        Ok(told) => Err(fail(NO, &format!("error: {}", told.why()))),
        Err(error) => Err(unreachable(&error)),
    }
}

pub(super) fn token(config: &Config) -> Option<String> {
    config.admin.token_file.as_deref().and_then(|path| client::read_token(path).ok())
}

pub(super) fn unreachable(error: &ClientError) -> ExitCode {
    fail(UNREACHABLE, &format!("error: {error}\nhelp: start it with `tierkeeper run`"))
}

pub(super) fn fail(code: u8, message: &str) -> ExitCode {
    eprintln!("{message}");
    exit(code)
}
