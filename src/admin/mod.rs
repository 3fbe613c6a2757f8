//! Admin: the state of the run -> status and health over HTTP.
