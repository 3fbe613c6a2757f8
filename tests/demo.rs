//! The demo where it must not be told: a machine with too little memory -> what it says, and the exit code.
//!
//! That it ends well where there is enough is seen by `tests/run`, which shows it once.

use std::path::Path;
use std::process::{Command, Output};

/// Runs the demo where the kernel seems to say this of its memory: in a mount namespace of its own, as whoever may.
fn shown_where(meminfo: &Path) -> Result<Output, String> {
    let script = r#"mount --bind "$0" /proc/meminfo || exit 99; exec "$@""#;
    let ways: [&[&str]; 2] = [&["--user", "--map-root-user", "--mount"], &["--mount"]];
    let mut refused = String::new();
    for way in ways {
        let output = Command::new("unshare")
            .args(way)
            .args(["sh", "-c", script])
            .arg(meminfo)
            .args([env!("CARGO_BIN_EXE_tierkeeper"), "demo"])
            .output()
            .map_err(|error| format!("unshare: {error}"))?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if said.contains("unshare:") || output.status.code() == Some(99) {
            refused = said;
        } else {
            return Ok(output);
        }
    }
    Err(refused)
}

#[test]
fn on_a_machine_with_too_little_memory_the_demo_says_so_and_begins_nothing() {
    let real = std::fs::read_to_string("/proc/meminfo").unwrap();
    let available = |line: &str| line.starts_with("MemAvailable:");
    let scarce = |line: &str| if available(line) { "MemAvailable:    3145724 kB" } else { line }.to_owned() + "\n";
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), real.lines().map(scarce).collect::<String>()).unwrap();
    let output = match shown_where(file.path()) {
        Ok(output) => output,
        Err(refused) => {
            eprintln!("THIS TEST COULD NOT MAKE MEMORY SCARCE: {refused}");
            assert!(
                refused.contains("not permitted") || refused.contains("denied") || refused.contains("No such file")
            );
            return;
        }
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{said}");
    assert!(said.contains("a quarter of the memory that is available") && said.contains("768 MiB"), "{said}");
    assert!(output.stdout.is_empty(), "nothing was begun: {}", String::from_utf8_lossy(&output.stdout));
}
