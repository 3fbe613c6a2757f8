//! Vocabulary: a persona's own words for what messages are filled with -> amounts, times and places in its language.
//!
//! A fact is a number until it is written here, so that a German message has no English crumbs in it.

use std::collections::BTreeMap;

use crate::classify::Pool;
use crate::policy::diagnostic::Diagnostic;
use crate::policy::yaml::{self, Placed};
use crate::units::{Bytes, Span};

/// Where a word takes its value.
const HOLE: &str = "{}";

/// How one language writes a fact. What a file leaves out is English.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    memory: String,
    gpu_memory: String,
    container_memory: String,
    use_it: String,
    use_it_again: String,
    moment: String,
    minute: String,
    minutes: String,
    hour: String,
    hours: String,
    day: String,
    days: String,
    decimal_point: String,
    and: String,
    while_away: String,
    webhook_gone: String,
}

impl Default for Vocabulary {
    fn default() -> Self {
        let word = str::to_owned;
        Vocabulary {
            memory: word("memory"),
            gpu_memory: word("graphics memory"),
            container_memory: word("container memory"),
            use_it: word("use {}"),
            use_it_again: word("use {} again"),
            moment: word("a moment"),
            minute: word("a minute"),
            minutes: word("{} minutes"),
            hour: word("an hour"),
            hours: word("{} hours"),
            day: word("a day"),
            days: word("{} days"),
            decimal_point: word("."),
            and: word("and"),
            while_away: word("While you were away:"),
            webhook_gone: word(
                "I can no longer reach you in one place ({}): its address does not take my messages any more. Please look at it.",
            ),
        }
    }
}

impl Vocabulary {
    /// The words of a persona file; complaints go to `found`.
    pub fn of(written: &BTreeMap<String, Placed<String>>, found: &mut Vec<Diagnostic>) -> Self {
        let mut vocabulary = Vocabulary::default();
        let mut words = vocabulary.words();
        for (name, word) in written {
            let known: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
            let Some((_, entry)) = words.iter_mut().find(|(known, _)| *known == name.as_str()) else {
                let nearest = yaml::nearest(name, known.iter().copied()).unwrap_or(known[0]);
                let title = format!("no message needs such a word: `{name}`");
                let unknown = Diagnostic::new(word.key.clone(), title, "unknown");
                found.push(unknown.expected(format!("one of {}", known.join(", "))).help(format!("`{nearest}:`")));
                continue;
            };
            if entry.contains(HOLE) != word.value.contains(HOLE) {
                let title =
                    format!("`{name}` is written with `{HOLE}` where its value goes, or without any if it has none");
                found.push(
                    Diagnostic::new(word.span.clone(), title, "as in English").help(format!("`{name}: \"{entry}\"`")),
                );
            }
            entry.clone_from(&word.value);
        }
        vocabulary
    }

    /// Every word, by the name that persona files give it.
    pub(super) fn words(&mut self) -> [(&'static str, &mut String); 16] {
        [
            ("memory", &mut self.memory),
            ("gpu_memory", &mut self.gpu_memory),
            ("container_memory", &mut self.container_memory),
            ("use", &mut self.use_it),
            ("use_again", &mut self.use_it_again),
            ("moment", &mut self.moment),
            ("minute", &mut self.minute),
            ("minutes", &mut self.minutes),
            ("hour", &mut self.hour),
            ("hours", &mut self.hours),
            ("day", &mut self.day),
            ("days", &mut self.days),
            ("decimal_point", &mut self.decimal_point),
            ("and", &mut self.and),
            ("while_away", &mut self.while_away),
            ("webhook_gone", &mut self.webhook_gone),
        ]
    }

    /// How a digest of what came too late begins.
    pub fn while_away(&self) -> &str {
        &self.while_away
    }

    /// That a webhook is gone, with `{}` for the service.
    pub fn webhook_gone(&self) -> &str {
        &self.webhook_gone
    }

    pub fn pool(&self, pool: Pool) -> &str {
        match pool {
            Pool::Ram => &self.memory,
            Pool::Vram => &self.gpu_memory,
            Pool::Cgroup => &self.container_memory,
        }
    }

    /// What could be done with room: use a rung.
    pub fn using(&self, rung: &str) -> String {
        self.use_it.replacen(HOLE, rung, 1)
    }

    /// The same of a rung that was there before.
    pub fn using_again(&self, rung: &str) -> String {
        self.use_it_again.replacen(HOLE, rung, 1)
    }

    pub fn amount(&self, amount: Bytes) -> String {
        amount.to_string().replacen('.', &self.decimal_point, 1)
    }

    /// Programs and what each holds: `Firefox (3.1 GiB) and Steam (1 GiB)`.
    pub fn programs(&self, programs: &[(String, Bytes)]) -> String {
        let each = programs.iter().map(|(name, amount)| format!("{name} ({})", self.amount(*amount)));
        let each: Vec<String> = each.collect();
        match each.split_last() {
            None => String::new(),
            Some((only, [])) => only.clone(),
            Some((last, before)) => format!("{} {} {last}", before.join(", "), self.and),
        }
    }

    /// A length of time as people say it.
    pub fn time(&self, span: Span) -> String {
        let units = [
            (86_400_000, &self.day, &self.days),
            (3_600_000, &self.hour, &self.hours),
            (60_000, &self.minute, &self.minutes),
        ];
        match units.into_iter().find(|(size, ..)| span.0 >= *size) {
            None => self.moment.clone(),
            Some((size, one, _)) if span.0 < 2 * size => one.clone(),
            Some((size, _, many)) => many.replacen(HOLE, &(span.0 / size).to_string(), 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_and_times_are_written_as_people_say_them() {
        let english = Vocabulary::default();
        assert_eq!(english.amount(Bytes(2_254_857_830)), "2.1 GiB");
        let said =
            [30_000, 60_000, 150_000, 3_600_000, 7_300_000, 93_600_000, 180_000_000].map(|ms| english.time(Span(ms)));
        assert_eq!(said, ["a moment", "a minute", "2 minutes", "an hour", "2 hours", "a day", "2 days"]);
        let german = Vocabulary { decimal_point: ",".to_owned(), days: "{} Tagen".to_owned(), ..english };
        assert_eq!(
            (german.amount(Bytes(2_254_857_830)), german.time(Span::hours(50))),
            ("2,1 GiB".to_owned(), "2 Tagen".to_owned())
        );
    }
}
