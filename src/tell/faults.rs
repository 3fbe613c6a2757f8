//! Faults: what is wrong with a template of a persona file -> a diagnostic at its place in the file.

use std::ops::Range;

use minijinja::{Error, ErrorKind};

use super::limits::TooLong;
use super::words;
use crate::decide::notice::Notice;
use crate::policy::diagnostic::Diagnostic;
use crate::policy::yaml::{self, Placed};

pub fn empty_list(list: &Placed<Vec<Placed<String>>>) -> Diagnostic {
    Diagnostic::new(list.key.clone(), "nothing to say", "an empty list")
        .expected("at least one message")
        .help("add a line such as `- \"I had to move to {{ to }}.\"`")
}

pub fn does_not_parse(file_text: &str, source: &Placed<String>, error: &Error) -> Diagnostic {
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    Diagnostic::new(place(file_text, source, error), "the template does not parse", detail)
        .expected("text with `{{ variable }}` and `{% if variable %}...{% endif %}` in it")
        .help("write a literal brace as `{{ '{{' }}`")
}

pub fn unknown_variable(
    file_text: &str,
    source: &Placed<String>,
    variable: &str,
    notice: &Notice,
    known: &[&str],
) -> Diagnostic {
    let span = find_word(file_text, &source.span, variable).unwrap_or_else(|| source.span.clone());
    let title = format!("unknown variable in `{}`: `{variable}`", notice.event());
    let label = match variable {
        words::ONLY_IN_TIPS => "only a `tip` may be technical",
        _ => "nothing of this name is known here",
    };
    let nearest = yaml::nearest(variable, known.iter().copied()).unwrap_or("suggestion");
    let help = match variable {
        words::ONLY_IN_TIPS => "move it to `tip: \"{{ reason }}\"`".to_owned(),
        _ => format!("`{{{{ {nearest} }}}}`"),
    };
    Diagnostic::new(span, title, label).expected(format!("one of {}", known.join(", "))).help(help)
}

pub fn cannot_be_filled(file_text: &str, source: &Placed<String>, error: &Error) -> Diagnostic {
    let span = place(file_text, source, error);
    let name = file_text.get(span.clone()).unwrap_or_default().trim_matches(['{', '}', ' ']);
    let kind = error.kind();
    if kind == ErrorKind::UndefinedError {
        return Diagnostic::new(span, "a value that is not always known", "may be absent")
            .help(format!("`{{% if {name} %}}...{{{{ {name} }}}}...{{% endif %}}`"));
    }
    if kind == ErrorKind::OutOfFuel {
        return Diagnostic::new(span, "the template does too much work", "stopped here")
            .help("say it with fewer loops and repetitions");
    }
    let detail = error.detail().map_or_else(|| kind.to_string(), str::to_owned);
    Diagnostic::new(span, "the template cannot be filled", detail).help("leave out the filter or the operator")
}

pub fn says_nothing(source: &Placed<String>) -> Diagnostic {
    Diagnostic::new(source.span.clone(), "the message can be empty", "says nothing when a value is absent")
        .help("put words outside of the `{% if %}`")
}

pub fn too_long(source: &Placed<String>, too_long: TooLong) -> Diagnostic {
    let TooLong { format, length, length_max, unit } = too_long;
    Diagnostic::new(
        source.span.clone(),
        format!("the message is too long for {format}"),
        format!("{length}, with its tip"),
    )
    .expected(format!("at most {length_max} {unit} with sample facts, text and tip together"))
    .help("say it shorter: what is too long would be cut")
}

/// Where in the file the part of a template stands that an error is about; the whole template where that is not plain.
fn place(file_text: &str, source: &Placed<String>, error: &Error) -> Range<usize> {
    let part = error.range().and_then(|range| source.value.get(range)).filter(|part| !part.trim().is_empty());
    part.and_then(|part| {
        let at = file_text.get(source.span.clone())?.find(part)? + source.span.start;
        Some(at..at + part.len())
    })
    .unwrap_or_else(|| source.span.clone())
}

/// Where a word stands in a part of the file, not as a part of a longer one.
fn find_word(file_text: &str, span: &Range<usize>, word: &str) -> Option<Range<usize>> {
    let part = file_text.get(span.clone())?;
    let bounds = |at: usize| {
        let inside = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        !inside(part[..at].chars().next_back()) && !inside(part[at + word.len()..].chars().next())
    };
    // The first one after a brace: the word may also stand in the text.
    let braced =
        part.match_indices(word).find(|(at, _)| bounds(*at) && part[..*at].rfind('{') > part[..*at].rfind('}'));
    let (at, _) = braced?;
    Some(span.start + at..span.start + at + word.len())
}
