//! Finding: what was seen, how good that is, and the line that would mend it -> a short page for a terminal.

use std::fmt::Write;

use crate::cli::check::Color;

/// How good it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    Fine,
    /// Not there, and nothing is wrong with that.
    Absent,
    /// It works, and could be better.
    Better,
    /// It does not work.
    Wrong,
}

/// One line of the page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub mark: Mark,
    pub name: String,
    pub says: String,
    /// What to do about it, pasteable where it can be.
    pub mend: Option<String>,
}

impl Finding {
    pub fn fine(name: impl Into<String>, says: impl Into<String>) -> Self {
        Finding { mark: Mark::Fine, name: name.into(), says: says.into(), mend: None }
    }

    pub fn absent(name: impl Into<String>, says: impl Into<String>) -> Self {
        Finding { mark: Mark::Absent, name: name.into(), says: says.into(), mend: None }
    }

    pub fn better(name: impl Into<String>, says: impl Into<String>, mend: impl Into<String>) -> Self {
        Finding { mark: Mark::Better, name: name.into(), says: says.into(), mend: Some(mend.into()) }
    }

    pub fn wrong(name: impl Into<String>, says: impl Into<String>, mend: impl Into<String>) -> Self {
        Finding { mark: Mark::Wrong, name: name.into(), says: says.into(), mend: Some(mend.into()) }
    }
}

/// Findings that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    pub title: String,
    pub findings: Vec<Finding>,
}

/// The whole page, and whether nothing on it is wrong.
pub fn page(sections: &[Section], color: Color) -> (String, bool) {
    let mut text = String::new();
    for section in sections.iter().filter(|section| !section.findings.is_empty()) {
        line(&mut text, &section.title);
        text += &lines(&section.findings, color);
        line(&mut text, "");
    }
    let count = |mark| sections.iter().flat_map(|section| &section.findings).filter(|one| one.mark == mark).count();
    let (better, wrong) = (count(Mark::Better), count(Mark::Wrong));
    let summary = match (wrong, better) {
        (0, 0) => "All is well.".to_owned(),
        (0, better) => format!("It works; {better} could be better."),
        (wrong, 0) => format!("{wrong} must be mended."),
        (wrong, better) => format!("{wrong} must be mended, {better} could be better."),
    };
    line(&mut text, &summary);
    (text, wrong == 0)
}

/// Each with the line that would mend it.
pub fn lines(findings: &[Finding], color: Color) -> String {
    let mut text = String::new();
    for finding in findings {
        line(&mut text, &format!("  {} {:<14} {}", sign(finding.mark, color), finding.name, finding.says));
        if let Some(mend) = &finding.mend {
            mend.lines().for_each(|mend| line(&mut text, &format!("    {:<14} → {mend}", "")));
        }
    }
    text
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{}", line.trim_end()).expect("a string takes all that is written to it");
}

fn sign(mark: Mark, color: Color) -> String {
    let (sign, code) = match mark {
        Mark::Fine => ("✓", "32"),
        Mark::Absent => ("–", "2"),
        Mark::Better => ("!", "33"),
        Mark::Wrong => ("✗", "31"),
    };
    match color {
        Color::Plain => sign.to_owned(),
        Color::Styled => format!("\u{1b}[{code}m{sign}\u{1b}[0m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_says_what_is_wrong_and_how_to_mend_it() {
        let findings = vec![
            Finding::fine("memory", "31.3 GiB"),
            Finding::absent("swap", "none"),
            Finding::better("prompt cache", "may grow to 8 GiB", "start it with: --cache-ram 512"),
            Finding::wrong("processes", "not seen", "one line\nanother line"),
        ];
        let sections = [
            Section { title: "This machine".to_owned(), findings },
            Section { title: "Nothing".to_owned(), findings: Vec::new() },
        ];
        let (text, fine) = page(&sections, Color::Plain);
        insta::assert_snapshot!(text, @r"
        This machine
          ✓ memory         31.3 GiB
          – swap           none
          ! prompt cache   may grow to 8 GiB
                           → start it with: --cache-ram 512
          ✗ processes      not seen
                           → one line
                           → another line

        1 must be mended, 1 could be better.
        ");
        assert!(!fine);
        let well = [Section { title: "All".to_owned(), findings: vec![Finding::fine("memory", "there")] }];
        assert!(page(&well, Color::Plain).1);
    }
}
