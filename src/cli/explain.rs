//! Explain: a running sidecar, and perhaps the id of a decision -> why, for people or as JSON.

use std::process::ExitCode;

use clap::Args;

use super::{BAD_CONFIGURATION, NO, PlaceArgs, UNREACHABLE, exit, run, runtime};
use crate::admin::client::{self, ClientError};
use crate::admin::explain::{render_decision, render_present};

#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// The number of a decision, as `status` and the log tell it; without one it is explained why nothing else is done now.
    id: Option<u64>,
    /// One JSON object instead of lines for people.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: PlaceArgs,
}

pub(super) fn explain(args: ExplainArgs) -> ExitCode {
    let ExplainArgs { id, json, place } = args;
    let config = match run::place(place) {
        Ok(config) => config,
        Err(message) => return failed(BAD_CONFIGURATION, &message),
    };
    let token = config.admin.token_file.as_deref().and_then(|path| client::read_token(path).ok());
    let (address, token) = (config.admin.listen, token.as_deref());
    let told = runtime().block_on(async {
        match id {
            None => client::present(address, token).await.map(|present| match json {
                true => serde_json::to_string(&present).expect("an explanation is plain data"),
                false => render_present(&present),
            }),
            Some(id) => client::decision(address, token, id).await.map(|record| match json {
                true => serde_json::to_string(&record).expect("a record is plain data"),
                false => render_decision(&record, &time_of_day(record.unix_ms)),
            }),
        }
    });
    match told {
        Ok(text) => {
            println!("{}", text.trim_end());
            ExitCode::SUCCESS
        }
        Err(ClientError::Refused { status: 404, body, .. }) => failed(NO, &format!("error: {}", why(&body))),
        Err(error) => failed(UNREACHABLE, &format!("error: {error}\nhelp: start it with `tierkeeper run`")),
    }
}

/// What the sidecar says of an error is in its `error`.
fn why(body: &str) -> String {
    let json: Result<serde_json::Value, _> = serde_json::from_str(body);
    json.ok().and_then(|json| json["error"].as_str().map(str::to_owned)).unwrap_or_else(|| body.to_owned())
}

/// In UTC, as in the log.
fn time_of_day(unix_ms: u64) -> String {
    let at = i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    at.map_or_else(|| "at an unknown time".to_owned(), |at| at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())
}

fn failed(code: u8, message: &str) -> ExitCode {
    eprintln!("{message}");
    exit(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_day_is_written_for_reading() {
        assert_eq!(time_of_day(1_795_712_968_000), "2026-11-26 17:09:28 UTC");
    }
}
