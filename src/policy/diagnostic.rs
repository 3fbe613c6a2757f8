//! Diagnostic: what is wrong in a text, and where -> the text that an operator sees.
//!
//! Every message points at the line, says what was expected and ends with one `help:` that can be pasted. Nothing here
//! knows YAML or policies, so config and persona files complain in the same voice.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

/// One thing that is wrong at one place of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Bytes of the text that are underlined.
    pub span: Range<usize>,
    /// What is wrong, in one line.
    pub title: String,
    /// What is wrong right here; stands beside the underline.
    pub label: String,
    /// What would have been right.
    pub expected: Option<String>,
    /// What to do now, with the words to paste in backticks.
    pub help: Option<String>,
}

impl Diagnostic {
    pub fn new(span: Range<usize>, title: impl Into<String>, label: impl Into<String>) -> Self {
        Diagnostic { span, title: title.into(), label: label.into(), expected: None, help: None }
    }

    #[must_use]
    pub fn expected(self, expected: impl Into<String>) -> Self {
        Diagnostic { expected: Some(expected.into()), ..self }
    }

    #[must_use]
    pub fn help(self, help: impl Into<String>) -> Self {
        Diagnostic { help: Some(help.into()), ..self }
    }
}

/// Everything that is wrong with one text, in the order in which it stands there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostics {
    /// The name of the text, as its owner knows it: mostly the path of a file.
    pub path: String,
    pub text: String,
    pub list: Vec<Diagnostic>,
}

impl Diagnostics {
    pub fn new(path: &str, text: &str, mut list: Vec<Diagnostic>) -> Self {
        list.sort_by_key(|one| (one.span.start, one.span.end));
        Diagnostics { path: path.to_owned(), text: text.to_owned(), list }
    }

    /// All of them as an operator reads them, one blank line between two.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let each: Vec<String> = self.list.iter().map(|one| self.render_one(one, &renderer)).collect();
        each.join("\n\n")
    }

    fn render_one(&self, one: &Diagnostic, renderer: &Renderer) -> String {
        let snippet = Snippet::source(&self.text)
            .path(&self.path)
            .annotation(AnnotationKind::Primary.span(visible(&self.text, &one.span)).label(&one.label));
        let mut group = Level::ERROR.primary_title(&one.title).element(snippet);
        if let Some(expected) = &one.expected {
            group = group.element(Level::NOTE.with_name("expected").message(expected));
        }
        if let Some(help) = &one.help {
            group = group.element(Level::HELP.message(help));
        }
        renderer.render(&[group])
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

/// The span cut to its first line and to whole characters of the text, whatever a parser said: a long block would
/// bury the message, and a span outside of the text would panic the renderer.
fn visible(text: &str, span: &Range<usize>) -> Range<usize> {
    let floor = |mut at: usize| {
        at = at.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let start = floor(span.start);
    let end = floor(span.end).max(start);
    let line = text[start..end].lines().next().unwrap_or_default().trim_end();
    start..start + line.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_that_is_off_is_shown_as_near_as_it_can_be() {
        for span in [1..2, 0..99, 98..99, 0..0] {
            let one = Diagnostic::new(span, "title", "here");
            let rendered = Diagnostics::new("é.yaml", "éa: ü\nb: 2\n", vec![one]).render(false);
            assert!(rendered.starts_with("error: title\n"), "{rendered}");
        }
    }

    #[test]
    fn a_long_block_is_underlined_in_its_first_line_only() {
        let one = Diagnostic::new(0..11, "title", "here").expected("less").help("write `a: 1`");
        let rendered = Diagnostics::new("a.yaml", "a: 1  \nb: 2\n", vec![one]).render(false);
        insta::assert_snapshot!(rendered, @r"
        error: title
         --> a.yaml:1:1
          |
        1 | a: 1  
          | ^^^^ here
          |
          = expected: less
          = help: write `a: 1`
        ");
    }
}
