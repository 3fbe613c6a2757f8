//! Pipes: a command whose reader has had enough -> it ends quietly, as `tierkeeper doctor | head` is to.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

/// The number of SIGPIPE, which is the same on every Linux that we run on.
const BROKEN_PIPE: i32 = 13;

#[test]
fn a_command_that_prints_into_a_closed_pipe_says_nothing_of_it() {
    for arguments in [&["check", "policies/mai.yaml"][..], &["test", "policies/mai.yaml"], &["--help"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_tierkeeper"));
        command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).stdout(writer).stderr(Stdio::piped());
        let output = command.output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
        assert!(output.status.signal().is_none_or(|signal| signal == BROKEN_PIPE), "{arguments:?}: {}", output.status);
    }
}
