//! Hand-over: a reply that is being given -> the same reply, gone on with by another model.
//!
//! What goes on with what is worked out without clock and socket (`dialect`, `seam`, `journal`, `proceed`); `moves`, `stalled` and `mend` do it.

mod dialect;
pub mod journal;
pub mod kept;
pub mod mend;
pub mod moves;
mod parts;
mod proceed;
mod records;
mod seam;
pub mod stalled;
