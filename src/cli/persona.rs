//! Persona: a persona file -> everything that it can say.

use std::process::ExitCode;

use super::{BAD_CONFIGURATION, PersonaCommand, PlaceArgs, exit, run};
use crate::tell::persona::Persona;
use crate::tell::preview::preview;

pub fn persona(command: PersonaCommand) -> ExitCode {
    let PersonaCommand::Preview { persona, config } = command;
    let path = match persona {
        Some(path) => Ok(Some(path)),
        None => run::place(PlaceArgs { config, admin_listen: None }).map(|config| config.tell.persona),
    };
    match path.and_then(|path| Persona::load(path.as_deref()).map_err(|error| error.to_string())) {
        Ok(persona) => {
            print!("{}", preview(&persona));
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("{message}");
            exit(BAD_CONFIGURATION)
        }
    }
}
