//! Limits: a message in words -> the format that could not take it whole, if any.

use super::discord;

/// A message that a format would have to cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong {
    pub format: &'static str,
    pub length: usize,
    pub length_max: usize,
}

/// Judges the text and the tip together, as they are sent.
pub fn too_long(text: &str, tip: Option<&str>) -> Option<TooLong> {
    let content = discord::content(text, tip);
    let (length, length_max) = (content.encode_utf16().count(), discord::CONTENT_UNITS_MAX);
    (length > length_max).then_some(TooLong { format: "Discord", length, length_max })
}
