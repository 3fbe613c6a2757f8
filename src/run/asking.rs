//! Asking: a command for the model server -> what became of it, as an input.

use crate::act::Driver;
use crate::decide::command::Command;
use crate::decide::input::Input;

/// Asks, and waits for what became of it; `None` for what is not the server's to do.
pub async fn ask(driver: &Driver, command: Command) -> Option<Input> {
    Some(match command {
        Command::Load { rung, .. } => match driver.load(&rung).await {
            Ok(placed) => Input::LoadDone { rung: rung.name.clone(), placed },
            Err(error) => Input::LoadFailed { rung: rung.name.clone(), why: error.to_string() },
        },
        Command::Unload { rung, .. } => match driver.unload(&rung).await {
            Ok(()) => Input::UnloadDone { rung: rung.name.clone() },
            Err(error) => Input::UnloadFailed { rung: rung.name.clone(), why: error.to_string() },
        },
        Command::Check { rung, .. } => match driver.check(&rung).await {
            Ok(()) => Input::CheckDone { rung: rung.name.clone() },
            Err(error) => Input::CheckFailed { rung: rung.name.clone(), why: error.to_string() },
        },
        Command::TakeSample { .. }
        | Command::CancelLoad { .. }
        | Command::Publish { .. }
        | Command::Close { .. }
        | Command::HandOver { .. }
        | Command::Cut { .. }
        | Command::Release { .. }
        | Command::Remember { .. }
        | Command::KeepWindows { .. }
        | Command::Notify { .. }
        | Command::Propose { .. }
        | Command::GrantRoom { .. }
        | Command::RefuseRoom { .. }
        | Command::EndLease { .. }
        | Command::Exit { .. } => return None,
    })
}
