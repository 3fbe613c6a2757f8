//! Handles: how many files and connections the process may have open -> as many as the system lets it.
//!
//! What a process gets at first is mostly 1,024, for the sake of programs that cannot count further. A reply that is passed
//! on takes two.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit to the highest one that needs no permission.
pub fn raise() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => tracing::debug!(message = "Raised the limit of open files.", from = ?current, to = ?maximum),
        Err(error) => tracing::debug!(message = "Could not raise the limit of open files.", %error, from = ?current),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_the_system_lets_it() {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        // Enough for the tests beside this one.
        let lower = maximum.unwrap_or(1 << 20) - 1;
        setrlimit(Resource::Nofile, Rlimit { current: Some(lower), maximum }).unwrap();
        raise();
        assert_eq!(getrlimit(Resource::Nofile).current, maximum);
    }
}
