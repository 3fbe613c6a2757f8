//! The program: arguments in -> an exit code out. Everything it does is in the library's `cli` room.

use std::process::ExitCode;

fn main() -> ExitCode {
    tierkeeper::cli::main()
}
