//! Week: all that may happen, for seven virtual days -> nothing that the Controller keeps of it grows.

use serde_json::Value;

use super::*;
use crate::policy::Policy;

const DAYS: usize = 7;
/// What comes and goes with a switch that is under way, or with a word that is said.
const PASSING: usize = 20;

/// How much is in each part of the Controller. It is written down whole, so no collection can be forgotten here.
fn kept(controller: &Controller) -> BTreeMap<String, usize> {
    let Value::Object(parts) = serde_json::to_value(controller).unwrap() else { panic!("it has parts") };
    parts.into_iter().map(|(name, part)| (name, places(&part))).collect()
}

fn places(value: &Value) -> usize {
    match value {
        Value::Array(all) => all.len() + all.iter().map(places).sum::<usize>(),
        Value::Object(all) => all.len() + all.values().map(places).sum::<usize>(),
        Value::String(text) => text.len() / 256,
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

/// The most that was in each part on each day.
fn week(policy: Policy) -> (Vec<BTreeMap<String, usize>>, Rig) {
    let mut rig = Rig::new(policy);
    let mut days = vec![BTreeMap::new(); DAYS];
    for second in 0..DAYS as u64 * 24 * 3600 {
        if second % 3600 == 0 {
            rig.cgroup = (second % 7200 == 0).then_some((23, second % 3));
            rig.foreign = 2 + second / 3600 % 9;
            rig.in_flight = u32::try_from(second / 3600 % 2).unwrap();
            // Late, for what was left because of thrash is not climbed to again.
            rig.refaulted = Permille::percent(u32::from(second > 6 * 24 * 3600 && second / 3600 % 5 == 0) * 30);
        }
        rig.step(Event::ReplyEnds);
        rig.step(Event::Answer { fails: second % 50_000 < 2 });
        rig.step(Event::Pass(1000));
        if second % 1800 == 1799 {
            let day: &mut BTreeMap<String, usize> = &mut days[second as usize / (24 * 3600)];
            for (name, places) in kept(&rig.controller) {
                let most = day.entry(name).or_default();
                *most = places.max(*most);
            }
        }
    }
    (days, rig)
}

#[test]
fn nothing_that_is_kept_grows_over_a_virtual_week() {
    let usual = Policy::for_ladder(policy(false, false).ladder.iter().map(|rung| Rung::clone(rung)).collect()).unwrap();
    let learning = Policy { upgrade: usual.upgrade, ..policy(false, false) };
    assert!(learning.upgrade.learn.is_some(), "it is what people have who say nothing");
    for policy in [policy(false, false), learning] {
        let (days, rig) = week(policy);
        assert!(rig.loads.len() > 3, "something happened in that week: {:?}", rig.loads.len());
        let most = |days: &[BTreeMap<String, usize>], name: &str| days.iter().map(|day| day[name]).max().unwrap();
        for name in days[0].keys() {
            // The first day it is still being filled.
            let (early, late) = (most(&days[1..4], name), most(&days[4..], name));
            assert!(late <= early + early / 10 + PASSING, "`{name}` has grown: {early} places, and then {late}");
        }
        let all: usize = days[DAYS - 1].values().sum();
        println!("{all} places in {} parts", days[0].len());
        // The largest are two hours of seconds for each pool.
        assert!(all < 60_000, "{all}: {:?}", days[DAYS - 1]);
    }
}
