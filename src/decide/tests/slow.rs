//! Slowness, reply by reply: what counts as a slow one, and what says nothing.

use super::*;
use crate::classify::Level;
use crate::decide::slow::Replied;

const QUIET: Option<Permille> = Some(Permille(50));
const BUSY: Option<Permille> = Some(Permille(700));
/// Of a usual reply, in tokens and microseconds.
const USUAL: (u32, u64) = (100, 1_000_000);
const SLOW: (u32, u64) = (100, 4_000_000);

impl Rig {
    /// This many replies of the rung that serves, while others take so much of the processors.
    fn replies(&mut self, count: u32, cpu: Option<Permille>, (tokens, took_us): (u32, u64), in_flight: u32) {
        self.foreign_use.cpu = cpu;
        self.run(Span::seconds(1));
        let rung = self.serving().expect("something serves");
        for _ in 0..count {
            self.tell(Input::Replied(Replied { rung: rung.clone(), tokens, took_us, in_flight }));
        }
        // Until the next look.
        self.run(Span::ms(1100));
    }

    /// What serves when there was time to go down.
    fn soon(&mut self) -> String {
        self.run(Span::seconds(10));
        self.serving().expect("something serves")
    }
}

/// A rung serves, and nothing is known of its speed.
fn untaught(foreign: u64) -> Rig {
    let mut rig = Rig::new(policy(false, false));
    rig.foreign = foreign;
    rig.run(Span::seconds(30));
    rig
}

/// What its usual speed is is known.
fn taught(foreign: u64) -> Rig {
    let mut rig = untaught(foreign);
    rig.replies(20, QUIET, USUAL, 1);
    rig
}

#[test]
fn three_slow_replies_in_a_row_are_trouble_and_fewer_are_not() {
    let mut rig = taught(2);
    rig.replies(2, BUSY, SLOW, 1);
    assert_eq!(rig.soon(), "large", "two may be an accident");
    rig.replies(1, BUSY, USUAL, 1);
    rig.replies(2, BUSY, SLOW, 1);
    assert_eq!(rig.soon(), "large", "one that was not slow came between");
    rig.replies(1, BUSY, SLOW, 1);
    assert_eq!(rig.soon(), "medium");
}

#[test]
fn slow_replies_of_which_the_last_is_long_ago_do_not_count() {
    let mut rig = taught(2);
    rig.replies(2, BUSY, SLOW, 1);
    rig.run(Span::seconds(61));
    rig.replies(1, BUSY, SLOW, 1);
    assert_eq!(rig.soon(), "large");
}

#[test]
fn a_reply_of_few_tokens_says_nothing() {
    let mut rig = taught(2);
    rig.replies(5, BUSY, (15, 4_000_000), 1);
    assert_eq!(rig.soon(), "large");
}

#[test]
fn replies_are_compared_with_those_that_had_as_much_company() {
    let mut rig = taught(2);
    rig.replies(5, BUSY, SLOW, 4);
    assert_eq!(rig.soon(), "large", "nobody knows how quick one of four is");
    rig.replies(20, QUIET, SLOW, 4);
    rig.replies(5, BUSY, SLOW, 3);
    assert_eq!(rig.soon(), "large", "it is what one of four always is");
}

#[test]
fn nothing_is_learned_while_it_is_not_known_what_others_take() {
    let mut rig = untaught(2);
    rig.replies(20, None, USUAL, 1);
    rig.replies(5, BUSY, SLOW, 1);
    assert_eq!(rig.soon(), "large");
}

#[test]
fn what_a_switch_had_a_part_in_says_nothing() {
    let mut rig = taught(2);
    rig.controller.stalls_masked_until = rig.now + Span::seconds(30);
    rig.replies(5, BUSY, SLOW, 1);
    assert_eq!(rig.soon(), "large");
}

#[test]
fn the_smallest_has_no_choice() {
    let mut rig = taught(15);
    assert_eq!(rig.serving().as_deref(), Some("small"));
    rig.replies(5, BUSY, SLOW, 1);
    assert!(rig.controller.severity.level < Level::Soft);
    assert_eq!(rig.soon(), "small");
    let mut rig = taught(10);
    assert_eq!(rig.serving().as_deref(), Some("medium"));
    rig.replies(5, BUSY, SLOW, 1);
    assert_eq!(rig.soon(), "small", "one has");
}

#[test]
fn who_is_not_seen_all_the_time_is_not_known_to_have_gone() {
    let mut rig = taught(2);
    // What they take when it is left is known.
    rig.run(Span::minutes(2));
    rig.replies(3, BUSY, SLOW, 1);
    assert_eq!(rig.soon(), "medium");
    for _ in 0..20 {
        rig.foreign_use.cpu = QUIET;
        rig.run(Span::seconds(5));
        rig.foreign_use.cpu = None;
        rig.run(Span::seconds(1));
    }
    assert_eq!(rig.serving().as_deref(), Some("medium"));
    rig.foreign_use.cpu = QUIET;
    rig.run(Span::minutes(1));
    assert_eq!(rig.serving().as_deref(), Some("large"));
}
