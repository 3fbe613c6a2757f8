//! Paint: words and what they are -> the same words, coloured where a terminal shows colours.

use super::check::Color;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Paint {
    Good,
    Bad,
    Faint,
    Strong,
}

impl Color {
    pub(super) fn paint(self, paint: Paint, words: &str) -> String {
        let code = match paint {
            Paint::Good => 32,
            Paint::Bad => 31,
            Paint::Faint => 2,
            Paint::Strong => 1,
        };
        match self {
            Color::Plain => words.to_owned(),
            Color::Styled => format!("\u{1b}[{code}m{words}\u{1b}[0m"),
        }
    }
}
