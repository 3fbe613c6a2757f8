//! Test: policy files -> their own tests, run on virtual time, and what did not come true.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use super::{BAD_CONFIGURATION, NO, exit};
use crate::run::policy_file;
use crate::simulate::policy_test;

pub fn test(paths: &[PathBuf]) -> ExitCode {
    let (mut passed, mut failed, mut broken) = (0_u32, 0_u32, false);
    for path in paths {
        match test_one(path) {
            Ok(counted) => (passed, failed) = (passed + counted.0, failed + counted.1),
            Err(message) => {
                eprintln!("{message}");
                broken = true;
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    exit(match (broken, failed) {
        (true, _) => BAD_CONFIGURATION,
        (false, 0) => 0,
        (false, _) => NO,
    })
}

/// How many tests of this file passed, and how many did not.
fn test_one(path: &Path) -> Result<(u32, u32), String> {
    let policy = Arc::new(policy_file::read(path).map_err(|error| error.to_string())?);
    let (mut passed, mut failed) = (0, 0);
    for test in &policy.tests {
        let failures = policy_test::check(&policy, test);
        let place = format!("{}:{}", path.display(), test.line);
        if failures.is_empty() {
            println!("ok      {place} {}", test.name);
            passed += 1;
        } else {
            failed += 1;
        }
        for failure in failures {
            println!("FAILED  {place} {failure}");
        }
    }
    if policy.tests.is_empty() {
        println!("none    {} has no `tests:`", path.display());
    }
    Ok((passed, failed))
}
