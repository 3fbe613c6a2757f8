//! Messages: what was asked of people and what came of it, as the store has it -> whether the words work, honestly.

mod interval;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;

use self::interval::{Rate, difference, wilson};
use super::{BAD_CONFIGURATION, NO, PlaceArgs, exit, run};
use crate::store::error::StoreError;
use crate::store::suggestions::{self, Tally};

/// Fewer than this many of either say nothing.
const KNOWN_MIN: u32 = 20;

/// All of it, as `--json` shows it.
#[derive(Debug, PartialEq, Serialize)]
pub struct Report {
    pub variants: Vec<Variant>,
    /// What came where nothing was said.
    pub withheld: Vec<Withheld>,
}

#[derive(Debug, PartialEq, Serialize)]
pub struct Variant {
    pub event: String,
    pub persona: String,
    pub variant: String,
    /// Its words, as they were told last.
    pub text: Option<String>,
    pub told: u32,
    /// Those of which it is known what came, those after which there was room in time, and those that were acknowledged.
    pub known: u32,
    pub followed: u32,
    pub acked: u32,
    pub rate: Option<Rate>,
    /// How much more often than where nothing was said; `null` where that was too seldom.
    pub against_withheld: Option<Rate>,
    pub verdict: Verdict,
}

#[derive(Debug, PartialEq, Serialize)]
pub struct Withheld {
    pub event: String,
    pub persona: String,
    pub withheld: u32,
    pub known: u32,
    pub followed: u32,
    pub rate: Option<Rate>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    TooLittleData,
    /// Enough is known, and it may be no better than to say nothing.
    NoDifferenceSeen,
    Helps,
    Harms,
    /// Such messages are never withheld.
    NothingToCompare,
}

/// Shows it; the sidecar may run meanwhile or not.
pub fn messages(place: PlaceArgs, json: bool) -> ExitCode {
    let report = store(place).and_then(|store| report(&store).map_err(|error| format!("error: {error}")));
    match report {
        Ok(report) if json => println!("{}", serde_json::to_string(&report).expect("a report is plain data")),
        Ok(report) => print!("{}", render(&report)),
        Err(message) => return fail(BAD_CONFIGURATION, &message),
    }
    ExitCode::SUCCESS
}

/// Notes that somebody has seen what was asked.
pub fn ack(place: PlaceArgs, id: Option<&str>) -> ExitCode {
    let acked = store(place).and_then(|store| suggestions::ack(&store, id).map_err(|error| format!("error: {error}")));
    match acked {
        Ok(Some(id)) => println!("noted: {id}"),
        Ok(None) => return fail(NO, "nothing of the kind was asked"),
        Err(message) => return fail(BAD_CONFIGURATION, &message),
    }
    ExitCode::SUCCESS
}

fn store(place: PlaceArgs) -> Result<PathBuf, String> {
    run::place(place)?.store.ok_or_else(|| "error: nothing says where things are kept; write `store: PATH`".to_owned())
}

fn fail(code: u8, message: &str) -> ExitCode {
    eprintln!("{message}");
    exit(code)
}

/// What is in this store.
pub fn report(store: &Path) -> Result<Report, StoreError> {
    Ok(of(&suggestions::read(store)?))
}

fn of(tallies: &[Tally]) -> Report {
    let withheld = tallies.iter().filter(|tally| tally.variant.is_none()).map(|tally| Withheld {
        event: tally.event.clone(),
        persona: tally.persona.clone(),
        withheld: tally.asked,
        known: tally.known,
        followed: tally.followed,
        rate: wilson(tally.followed, tally.known),
    });
    let withheld: Vec<Withheld> = withheld.collect();
    let variants = tallies.iter().filter_map(|tally| variant(tally, &withheld)).collect();
    Report { variants, withheld }
}

fn variant(tally: &Tally, withheld: &[Withheld]) -> Option<Variant> {
    let rate = wilson(tally.followed, tally.known);
    // What comes by itself does not depend on who would have spoken.
    let (known, followed) = withheld
        .iter()
        .filter(|one| one.event == tally.event)
        .fold((0, 0), |(known, followed), one| (known + one.known, followed + one.followed));
    let enough = tally.known >= KNOWN_MIN && known >= KNOWN_MIN;
    let against = rate.zip(wilson(followed, known)).filter(|_| enough).map(|(told, not)| difference(told, not));
    let verdict = match against {
        _ if !crate::tell::experiment::may_withhold(&tally.event) => Verdict::NothingToCompare,
        None => Verdict::TooLittleData,
        Some(Rate { low, .. }) if low > 0.0 => Verdict::Helps,
        Some(Rate { high, .. }) if high < 0.0 => Verdict::Harms,
        Some(_) => Verdict::NoDifferenceSeen,
    };
    Some(Variant {
        event: tally.event.clone(),
        persona: tally.persona.clone(),
        variant: tally.variant.clone()?,
        text: tally.text.clone(),
        told: tally.asked,
        known: tally.known,
        followed: tally.followed,
        acked: tally.acked,
        rate,
        against_withheld: against,
        verdict,
    })
}

/// The human view.
pub fn render(report: &Report) -> String {
    if report.variants.is_empty() && report.withheld.is_empty() {
        return "Nothing was asked of anybody yet, so there is nothing to say about it.\n".to_owned();
    }
    let mut text = String::new();
    for one in &report.variants {
        let line = format!("{} of {}, known of {}: ", one.variant, one.persona, one.known);
        writeln!(text, "{line}{}", followed(one.followed, one.rate)).expect("a string takes all");
        if let Some(words) = &one.text {
            writeln!(text, "    \"{words}\"").expect("a string takes all");
        }
        let acked = if one.acked > 0 { format!(", {} acknowledged", one.acked) } else { String::new() };
        writeln!(text, "    told {}{acked}; {}", one.told, said(one)).expect("a string takes all");
    }
    for one in &report.withheld {
        let line = format!("{}, withheld {} times, known of {}: ", one.event, one.withheld, one.known);
        writeln!(text, "{line}{}", followed(one.followed, one.rate)).expect("a string takes all");
    }
    if report.variants.iter().filter(|one| one.against_withheld.is_some()).count() > 1 {
        text.push_str("Of twenty variants that do nothing, one looks as if it did.\n");
    }
    text
}

fn followed(count: u32, rate: Option<Rate>) -> String {
    match rate {
        None => "nothing is known yet".to_owned(),
        Some(Rate { share, low, high }) => {
            format!(
                "there was room in time after {count} ({:.0} %, between {:.0} and {:.0})",
                share * 100.0,
                low * 100.0,
                high * 100.0
            )
        }
    }
}

fn said(one: &Variant) -> String {
    let points = |share: f64| format!("{:+.0}", share * 100.0);
    let by = one.against_withheld.map_or(String::new(), |Rate { share, low, high }| {
        format!(" ({} points, between {} and {})", points(share), points(low), points(high))
    });
    match one.verdict {
        Verdict::TooLittleData => {
            format!("too little is known to say whether it helps (it takes {KNOWN_MIN} told and {KNOWN_MIN} withheld)")
        }
        Verdict::NoDifferenceSeen => format!("no difference to saying nothing can be seen{by}"),
        Verdict::Helps => format!("more often than where nothing was said{by}"),
        Verdict::Harms => format!("less often than where nothing was said{by}"),
        Verdict::NothingToCompare => {
            "such messages are never withheld, so there is nothing to compare it with".to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tally(event: &str, variant: Option<&str>, counts: [u32; 4]) -> Tally {
        let [asked, known, followed, acked] = counts;
        let variant = variant.map(|name| format!("{event}/{name}"));
        let text = variant.as_ref().map(|_| "Tch. Close something.".to_owned());
        Tally { event: event.to_owned(), persona: "Mai".to_owned(), variant, text, asked, known, followed, acked }
    }

    #[test]
    fn each_variant_is_measured_against_what_comes_by_itself() {
        let report = of(&[
            tally("downgraded", Some("d"), [300, 290, 200, 0]),
            tally("suggested", Some("good"), [200, 190, 150, 9]),
            tally("suggested", Some("same"), [200, 200, 80, 0]),
            tally("suggested", Some("bad"), [100, 100, 10, 0]),
            tally("suggested", Some("new"), [19, 19, 19, 0]),
            tally("suggested", None, [90, 90, 36, 0]),
            tally("resources_wanted", Some("r"), [200, 200, 150, 0]),
            tally("resources_wanted", None, [19, 19, 1, 0]),
        ]);
        let verdicts: Vec<Verdict> = report.variants.iter().map(|one| one.verdict).collect();
        let expected = [
            Verdict::NothingToCompare,
            Verdict::Helps,
            Verdict::NoDifferenceSeen,
            Verdict::Harms,
            Verdict::TooLittleData,
            Verdict::TooLittleData,
        ];
        assert_eq!(verdicts, expected);
        let shown = render(&report);
        for line in [
            "suggested/good of Mai, known of 190: there was room in time after 150 (79 %, between ",
            "    \"Tch. Close something.\"\n    told 200, 9 acknowledged; more often than where nothing was said (+39 points, between ",
            "    told 19; too little is known to say whether it helps",
            "suggested, withheld 90 times, known of 90: there was room in time after 36 (40 %, between ",
            "Of twenty variants",
        ] {
            assert!(shown.contains(line), "{line}\n{shown}");
        }
    }

    #[test]
    fn where_nothing_was_asked_that_is_what_it_says() {
        let nowhere = report(Path::new("/nonexistent/tierkeeper.db")).unwrap();
        assert!(render(&nowhere).starts_with("Nothing was asked"));
    }

    #[test]
    fn the_json_is_what_scripts_rely_on() {
        let tallies = [tally("suggested", Some("a"), [2, 1, 1, 0]), tally("suggested", None, [1, 0, 0, 0])];
        let json = serde_json::to_value(of(&tallies)).unwrap();
        let variant = &json["variants"][0];
        assert_eq!((&variant["told"], &variant["known"], &variant["followed"]), (&json!(2), &json!(1), &json!(1)));
        assert_eq!((&variant["verdict"], &variant["against_withheld"]), (&json!("too_little_data"), &json!(null)));
        assert_eq!(variant["rate"]["share"], json!(1.0));
        assert_eq!((&json["withheld"][0]["withheld"], &json["withheld"][0]["rate"]), (&json!(1), &json!(null)));
    }
}
