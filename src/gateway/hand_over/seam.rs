//! Seam: the text that a client has, and what another model says on from it -> what is new.
//!
//! A server that is given a reply to go on with repeats it first, whole or without the spaces at its ends. And words at
//! which a reply is to stop may have begun on one side of the seam and end on the other.

/// Whether a server says what it was given once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeats {
    Given,
    Nothing,
}

/// What there is to pass on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Passed {
    More(String),
    /// A stop string that had begun before the seam is complete: the reply ends here, with nothing more.
    Stopped(String),
}

#[derive(Debug)]
pub struct Seam {
    sent: String,
    /// What is perhaps a repetition of it.
    got: String,
    stage: Stage,
    stops: Vec<String>,
    /// New text that is perhaps the end of a stop string.
    held: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Repeating,
    /// The next words may complete a stop string.
    Crossing,
    Through,
}

impl Seam {
    pub fn new(sent: &str, repeats: Repeats, stops: Vec<String>) -> Self {
        let stage = if sent.is_empty() || repeats == Repeats::Nothing { Stage::Crossing } else { Stage::Repeating };
        let stops = stops.into_iter().filter(|stop| !stop.is_empty()).collect();
        Seam { sent: sent.to_owned(), got: String::new(), stage, stops, held: String::new() }
    }

    pub fn pass(&mut self, text: &str) -> Passed {
        match self.stage {
            Stage::Through => Passed::More(text.to_owned()),
            Stage::Crossing => self.cross(text),
            Stage::Repeating => {
                self.got.push_str(text);
                let may_go_on = |whole: &str| whole.len() > self.got.len() && whole.starts_with(&self.got);
                if may_go_on(&self.sent) || may_go_on(self.sent.trim_start()) {
                    return Passed::More(String::new());
                }
                self.stage = Stage::Crossing;
                let got = std::mem::take(&mut self.got);
                self.cross(beyond(&self.sent, &got))
            }
        }
    }

    /// What was held back, when nothing more comes. Of a repetition that never got to its end nothing is new.
    pub fn finish(&mut self) -> String {
        self.stage = Stage::Through;
        std::mem::take(&mut self.held)
    }

    fn cross(&mut self, text: &str) -> Passed {
        self.held.push_str(text);
        let mut may_be_one = false;
        for stop in &self.stops {
            for begun in begun(&self.sent, stop) {
                let rest = &stop[begun..];
                if self.held.starts_with(rest) {
                    self.stage = Stage::Through;
                    self.held.clear();
                    return Passed::Stopped(stop.clone());
                }
                may_be_one |= rest.starts_with(&self.held);
            }
        }
        if may_be_one {
            return Passed::More(String::new());
        }
        self.stage = Stage::Through;
        Passed::More(std::mem::take(&mut self.held))
    }
}

/// How much of a stop string the text ends with: all the ways there are.
fn begun<'a>(text: &'a str, stop: &'a str) -> impl Iterator<Item = usize> + 'a {
    stop.char_indices().map(|(at, _)| at).filter(move |at| *at > 0 && text.ends_with(&stop[..*at]))
}

/// What of `got` goes beyond a repetition of `sent`. The longest common beginning is one only if it leaves nothing of
/// `sent` out but spaces; everything is new otherwise.
fn beyond<'a>(sent: &str, got: &'a str) -> &'a str {
    for given in [sent, sent.trim_start()] {
        let common = common_beginning(given, got);
        if !given[..common].is_empty() && given[common..].trim().is_empty() {
            return &got[common..];
        }
    }
    got
}

/// In bytes, and never within a character.
fn common_beginning(one: &str, other: &str) -> usize {
    let mut pairs = one.char_indices().zip(other.chars());
    let differs = pairs.find(|((_, one), other)| one != other).map(|((at, _), _)| at);
    differs.unwrap_or(one.len().min(other.len()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All that comes through when the text comes in these pieces, and whether it was stopped.
    fn through(seam: &mut Seam, pieces: &[&str]) -> (String, bool) {
        let mut text = String::new();
        for piece in pieces {
            match seam.pass(piece) {
                Passed::More(more) => text.push_str(&more),
                Passed::Stopped(_) => return (text, true),
            }
        }
        text.push_str(&seam.finish());
        (text, false)
    }

    fn after(sent: &str, repeats: Repeats, stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let stops = stops.iter().map(|stop| (*stop).to_owned()).collect();
        through(&mut Seam::new(sent, repeats, stops), pieces)
    }

    #[test]
    fn a_repetition_is_taken_off_however_it_comes() {
        for (sent, pieces, new) in [
            ("Hello my ", &["Hello my  gul", " gar"][..], " gul gar"),
            ("Hello", &["Hel", "lo", " you"], " you"),
            ("Hello", &["H", "ello you"], " you"),
            // Without the spaces at its ends.
            (" Hello", &["Hello", " you"], " you"),
            ("Hello \n", &["Hello", "you"], "you"),
            ("日本語", &["日本", "語は"], "は"),
            // What is no repetition is new, also where it begins alike.
            ("Hello you", &["Hello me"], "Hello me"),
            ("日本", &["日曜"], "日曜"),
            ("", &["Hello"], "Hello"),
            // It ends before it says anything new.
            ("Hello you", &["Hello you"], ""),
            ("Hello you", &["Hello"], ""),
        ] {
            assert_eq!(after(sent, Repeats::Given, &[], pieces), (new.to_owned(), false), "{sent:?} {pieces:?}");
        }
        assert_eq!(after("Hello", Repeats::Nothing, &[], &["Hello"]).0, "Hello", "this server repeats nothing");
    }

    #[test]
    fn a_stop_string_is_found_across_the_seam() {
        for (sent, stops, pieces, expected) in [
            ("the EN", &["END"][..], &["D of"][..], ("", true)),
            ("the EN", &["END"], &["", "D"], ("", true)),
            ("the E", &["END"], &["N", "D"], ("", true)),
            ("the E", &["END"], &["N", "D", "x"], ("", true)),
            ("the E", &["END"], &["N", "x"], ("Nx", false)),
            ("the E", &["END"], &["N"], ("N", false)),
            // One that begins after the seam is for the server to find.
            ("the", &["END"], &["END"], ("END", false)),
            ("aab", &["abc", "babaa"], &["a", "bab"], ("abab", false)),
            ("x日", &["日本語"], &["本", "語"], ("", true)),
            ("ababa", &["ababab"], &["b"], ("", true)),
        ] {
            assert_eq!(
                after(sent, Repeats::Nothing, stops, pieces),
                (expected.0.to_owned(), expected.1),
                "{sent} {pieces:?}"
            );
            let mut repeated = vec![sent];
            repeated.extend(pieces);
            assert_eq!(
                after(sent, Repeats::Given, stops, &repeated),
                (expected.0.to_owned(), expected.1),
                "{sent} {pieces:?}"
            );
        }
    }

    proptest! {
        /// Wherever a reply is broken off, and in whatever pieces it then comes, nothing is lost and nothing said twice.
        #[test]
        fn nothing_is_lost_and_nothing_said_twice(text in "[ab \\n日é]{0,12}", at in 0_usize..13, cuts in prop::collection::vec(0_usize..13, 0..4)) {
            let chars: Vec<char> = text.chars().collect();
            let at = at.min(chars.len());
            let (sent, _) = (chars[..at].iter().collect::<String>(), ());
            prop_assume!(!sent.trim().is_empty() || sent.is_empty());
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(chars.len())).chain([0, chars.len()]).collect();
            cuts.sort_unstable();
            let pieces: Vec<String> = cuts.windows(2).map(|cut| chars[cut[0]..cut[1]].iter().collect()).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let (new, _) = after(&sent, Repeats::Given, &[], &pieces);
            prop_assert_eq!(format!("{sent}{new}"), text);
        }

        /// As one scan of the whole text would find it.
        #[test]
        fn a_stop_string_that_crosses_the_seam_is_found_as_in_one_piece(sent in "[ab]{0,6}", new in "[ab]{0,6}", stop in "[ab]{1,4}", cut in 0_usize..7) {
            let whole = format!("{sent}{new}");
            let crosses = whole.match_indices(&stop).count() > 0
                && (0..sent.len()).any(|at| whole[at..].starts_with(&stop) && at + stop.len() > sent.len());
            let cut = cut.min(new.len());
            let (_, stopped) = after(&sent, Repeats::Nothing, &[&stop], &[&new[..cut], &new[cut..]]);
            prop_assert_eq!(stopped, crosses);
        }
    }
}
