//! Recording: all that a running Controller hears and says -> lines of text, from which its run can be had again.
//!
//! A recording is a trace as well: each sample's line also tells what others held, so that another policy can be run over
//! it. Its first line holds the whole Controller as it was then, so that it may begin at any moment. Commands are kept as
//! they were written, and compared so.

pub mod lines;
pub mod read;

#[cfg(test)]
mod tests;
