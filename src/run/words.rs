//! Words: what the operator has said -> the store, which has it over a restart, and back to what the Controller hears of it.

use super::clock;
use crate::decide::input::Input;
use crate::decide::word::{Said, Stay, Words};
use crate::store::words::WordRow;
use crate::units::{Moment, Span};

const PIN: &str = "pin";
const SLEEP: &str = "sleep";

/// What is to be kept of what holds now.
pub fn rows(now: Moment, words: &Words) -> Vec<WordRow> {
    let unix_ms = clock::unix_ms();
    let row = |word: &str, rung: Option<String>, stay: Stay| {
        let at = |at: Option<Moment>| at.map(|at| unix_ms.saturating_add(at.since(now).0));
        WordRow { word: word.to_owned(), rung, ends_unix_ms: at(stay.until), rests_until_unix_ms: at(stay.rests_until) }
    };
    let pin = words.pin.as_ref().map(|pin| row(PIN, Some(pin.rung.clone()), pin.stay));
    pin.into_iter().chain(words.sleep.map(|sleep| row(SLEEP, None, sleep))).collect()
}

/// What was said in an earlier run and is not over, as if it were said now.
pub fn kept(rows: &[WordRow]) -> Vec<Input> {
    said(rows, clock::unix_ms()).into_iter().map(Input::OperatorSaid).collect()
}

fn said(rows: &[WordRow], now: u64) -> Vec<Said> {
    let left = |at: Option<u64>| at.map(|at| Span(at.saturating_sub(now)));
    let mut said = Vec::new();
    // The pin first: to resume takes back all that was said before it.
    for word in [PIN, SLEEP] {
        let holds = |row: &&WordRow| row.word == word && row.ends_unix_ms.is_none_or(|ends| ends > now);
        let Some(row) = rows.iter().find(holds) else { continue };
        let lasts = left(row.ends_unix_ms);
        let rests = left(row.rests_until_unix_ms).filter(|rests| *rests > Span::ZERO);
        match &row.rung {
            Some(rung) => said.push(Said::Pin { rung: rung.clone(), lasts }),
            None => said.push(Said::Sleep { lasts }),
        }
        let taken_back = |lasts| if word == PIN { Said::Resume { lasts } } else { Said::Wake { lasts } };
        said.extend(rests.map(|rests| taken_back(Some(rests))));
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(word: &str, rung: Option<&str>, ends: Option<u64>, rests: Option<u64>) -> WordRow {
        let rung = rung.map(str::to_owned);
        WordRow { word: word.to_owned(), rung, ends_unix_ms: ends, rests_until_unix_ms: rests }
    }

    #[test]
    fn what_was_said_holds_for_the_rest_of_its_time_and_what_is_over_does_not() {
        let pin = row(PIN, Some("small"), Some(9000), Some(3000));
        let sleep = row(SLEEP, None, None, Some(2000));
        let expected = [
            Said::Pin { rung: "small".to_owned(), lasts: Some(Span(8000)) },
            Said::Resume { lasts: Some(Span(2000)) },
            Said::Sleep { lasts: None },
            Said::Wake { lasts: Some(Span(1000)) },
        ];
        assert_eq!(said(&[sleep.clone(), pin.clone()], 1000), expected);
        let later = [Said::Pin { rung: "small".to_owned(), lasts: Some(Span(1000)) }, Said::Sleep { lasts: None }];
        assert_eq!(said(&[sleep.clone(), pin.clone()], 8000), later);
        assert_eq!(said(&[sleep, pin], 9000), [Said::Sleep { lasts: None }]);
        assert_eq!(said(&[], 1000), []);
    }
}
