//! Status: the admin address of a running sidecar -> what it says of itself.

use std::process::ExitCode;

use super::{BAD_CONFIGURATION, NO, PlaceArgs, UNREACHABLE, exit, run, runtime};
use crate::admin::client::{self, ClientError};
use crate::admin::status::{self, StatusReport};
use crate::config::Config;

pub fn status(place: PlaceArgs, json: bool) -> ExitCode {
    let config = match run::place(place) {
        Ok(config) => config,
        Err(message) => return fail(BAD_CONFIGURATION, &message),
    };
    match runtime().block_on(ask(&config)) {
        Ok(report) if json => {
            println!("{}", serde_json::to_string(&report).expect("a report is plain data"));
            ExitCode::SUCCESS
        }
        Ok(report) => {
            print!("{}", status::render(&report));
            ExitCode::SUCCESS
        }
        Err(error) => fail(UNREACHABLE, &format!("error: {error}\nhelp: start it with `tierkeeper run`")),
    }
}

/// 0 or 1 and nothing else: containers give the other codes meanings of their own.
pub fn healthcheck(place: PlaceArgs) -> ExitCode {
    let healthy =
        run::place(place).and_then(|config| runtime().block_on(ask(&config)).map_err(|error| error.to_string()));
    match healthy {
        Ok(_) => ExitCode::SUCCESS,
        Err(message) => fail(NO, &message),
    }
}

fn fail(code: u8, message: &str) -> ExitCode {
    eprintln!("{message}");
    exit(code)
}

/// What the sidecar that runs by these settings says.
pub(super) async fn ask(config: &Config) -> Result<StatusReport, ClientError> {
    let token = config.admin.token_file.as_deref().and_then(|path| client::read_token(path).ok());
    client::status(config.admin.listen, token.as_deref()).await
}
