//! Samples of a 10 GiB machine -> the assessment that is due to them.

use super::*;
use crate::policy::Rung;
use crate::sample::{CgroupReading, MappedFile, ProcessMemory, Resident, ResidentState, Stall, Thrash};

fn policy() -> Policy {
    let rung = |name: &str| Rung { name: name.to_owned(), model: format!("{name}-model"), context: None };
    Policy::for_ladder(vec![rung("large"), rung("small")]).unwrap()
}

fn ledger() -> Ledger {
    let model = |name: &str, memory: u64, believed: bool| LedgerModel {
        model: format!("{name}-model"),
        memory: Bytes::gib(memory),
        vram: Bytes::ZERO,
        believed,
        inferred: PoolAmounts::default(),
    };
    Ledger { models: vec![model("large", 5, true), model("small", 1, false)], ..Ledger::default() }
}

fn sample(used: Bytes) -> Sample {
    Sample { ram: Some(Reading { capacity: Bytes::gib(10), used }), ..Sample::default() }
}

fn runner(anonymous: Bytes) -> ProcessMemory {
    ProcessMemory { pid: 2, anonymous, shared: Bytes::ZERO, file: Bytes::ZERO, weights: Vec::new(), vram: None }
}

fn resident(model: &str) -> Resident {
    Resident { model: model.to_owned(), state: ResidentState::Loaded, context: None }
}

fn ram(sample: &Sample, ledger: &Ledger) -> PoolAssessment {
    classify(&policy(), sample, ledger).ram.unwrap()
}

#[test]
fn own_is_measured_else_listed_else_believed() {
    let mut sample = sample(Bytes::gib(7));
    let believed = ram(&sample, &ledger());
    assert_eq!((believed.own, believed.own_source), (Bytes::gib(5), OwnSource::Unknown));

    sample.residents = Some(vec![resident("small-model")]);
    let listed = ram(&sample, &ledger());
    assert_eq!((listed.own, listed.own_source), (Bytes::gib(1), OwnSource::Ledger));

    sample.runners = Some(vec![runner(Bytes::gib(4))]);
    let measured = ram(&sample, &ledger());
    assert_eq!((measured.own, measured.own_source), (Bytes::gib(4), OwnSource::Measured));
    assert_eq!(measured.foreign, Bytes::gib(3));
}

#[test]
fn mapped_weights_are_own_and_counted_once() {
    let mut one = runner(Bytes::mib(256));
    one.file = Bytes::gib(3);
    one.weights = vec![MappedFile { inode: 9, size: Bytes::gib(2) }];
    let mut sample = sample(Bytes::gib(6));
    sample.runners = Some(vec![one.clone(), one]);
    assert_eq!(ram(&sample, &ledger()).own, Bytes::mib(512) + Bytes::gib(2));
}

#[test]
fn a_model_of_the_same_server_that_is_no_rung_counts_as_foreign() {
    let mut sample = sample(Bytes::gib(9));
    sample.runners = Some(vec![runner(Bytes::gib(7))]);
    sample.residents = Some(vec![resident("large-model"), resident("someone-elses")]);
    assert_eq!(ram(&sample, &ledger()).foreign, Bytes::gib(4));
}

#[test]
fn what_is_being_unloaded_counts_as_own_until_its_memory_is_back() {
    let mut sample = sample(Bytes::gib(7));
    sample.runners = Some(vec![runner(Bytes::ZERO)]);
    let mut ledger = ledger();
    assert_eq!(ram(&sample, &ledger).foreign, Bytes::gib(7));
    ledger.held.memory = Some(Bytes::gib(5));
    assert_eq!(ram(&sample, &ledger).foreign, Bytes::gib(2));
}

#[test]
fn our_own_process_counts_as_own_however_the_rest_is_known() {
    let mut sample = sample(Bytes::gib(7));
    sample.ourselves = Some(Bytes::mib(12));
    assert_eq!(ram(&sample, &ledger()).own, Bytes::gib(5) + Bytes::mib(12));
    sample.residents = Some(vec![resident("small-model")]);
    assert_eq!(ram(&sample, &ledger()).own, Bytes::gib(1) + Bytes::mib(12));
    sample.runners = Some(vec![runner(Bytes::gib(4))]);
    assert_eq!(ram(&sample, &ledger()).foreign, Bytes::gib(3).saturating_sub(Bytes::mib(12)));
    sample.gpus.insert("0".to_owned(), Some(Reading { capacity: Bytes::gib(8), used: Bytes::gib(1) }));
    let vram = classify(&policy(), &sample, &ledger()).vram.unwrap();
    assert_eq!(vram.own, Bytes::ZERO, "it holds nothing of a GPU");
}

#[test]
fn what_an_unload_left_behind_is_others_until_it_goes() {
    let mut sample = sample(Bytes::gib(7));
    let mut ledger = ledger();
    ledger
        .leaked
        .insert("large-model".to_owned(), PoolAmounts { memory: Some(Bytes::gib(4)), ..PoolAmounts::default() });
    sample.residents = Some(vec![resident("large-model")]);
    assert_eq!(ram(&sample, &ledger).foreign, Bytes::gib(7), "it is still listed, and its processes are hidden");
    sample.runners = Some(vec![runner(Bytes::gib(5))]);
    assert_eq!((ram(&sample, &ledger).own, ram(&sample, &ledger).own_now), (Bytes::gib(1), Bytes::gib(5)));
    sample.runners = Some(vec![runner(Bytes::gib(1))]);
    assert_eq!(ram(&sample, &ledger).own, Bytes::ZERO, "never below nothing");
}

#[test]
fn hidden_models_count_by_what_they_were_seen_to_add_and_else_by_their_bound() {
    let mut sample = sample(Bytes::gib(7));
    sample.residents = Some(vec![resident("large-model"), resident("small-model")]);
    let mut ledger = ledger();
    ledger.models[0].inferred.memory = Some(Bytes::gib(2));
    assert_eq!(ram(&sample, &ledger).own, Bytes::gib(3));
    sample.residents = None;
    assert_eq!(ram(&sample, &ledger).own, Bytes::gib(5), "what is only believed counts by its bound");
}

#[test]
fn the_level_follows_use_and_the_ceiling() {
    let level = |mib: u64| {
        let mut sample = sample(Bytes::mib(mib));
        sample.runners = Some(vec![runner(Bytes::gib(1))]);
        classify(&policy(), &sample, &ledger()).usage.level
    };
    let levels = [6000, 7200, 8200, 9216, 9933].map(level);
    assert_eq!(levels, [Level::Calm, Level::Watch, Level::Soft, Level::Hard, Level::Emergency]);
}

#[test]
fn a_reserve_above_a_fifth_lowers_the_ceiling_and_with_it_soft() {
    let mut policy = policy();
    policy.reserve.memory = Bytes::gib(4);
    let mut sample = sample(Bytes::mib(6200));
    sample.runners = Some(vec![]);
    assert_eq!(classify(&policy, &sample, &ledger()).usage.level, Level::Soft);
}

#[test]
fn at_soft_our_own_growth_does_not_count_but_at_hard_it_does() {
    let mut ledger = ledger();
    ledger.chosen.memory = Some(Bytes::gib(5));
    let level = |used: Bytes, own: Bytes| {
        let mut sample = sample(used);
        sample.runners = Some(vec![runner(own)]);
        classify(&policy(), &sample, &ledger).usage.level
    };
    assert_eq!(level(Bytes::mib(8400), Bytes::mib(6400)), Level::Watch);
    assert_eq!(level(Bytes::mib(8400), Bytes::mib(5000)), Level::Soft);
    assert_eq!(level(Bytes::mib(9400), Bytes::mib(7400)), Level::Hard);
}

#[test]
fn stalls_count_only_with_reclaim() {
    let mut sample = sample(Bytes::gib(5));
    let stall = |some: u32, full: u32, reclaiming: bool| Stall {
        some: Permille::percent(some),
        full: Permille::percent(full),
        reclaiming,
        window: 1,
    };
    let mut level = |stall: Stall| {
        sample.stall = Some(stall);
        classify(&policy(), &sample, &ledger()).stall.level
    };
    assert_eq!(level(stall(12, 0, false)), Level::Calm);
    assert_eq!(level(stall(12, 0, true)), Level::Soft);
    assert_eq!(level(stall(50, 25, true)), Level::Hard);
    assert_eq!(level(stall(60, 45, true)), Level::Emergency);
}

#[test]
fn thrash_counts_only_with_reclaim_and_needs_no_stalls() {
    let mut sample = sample(Bytes::gib(5));
    let mut level = |percent: u32, reclaiming: bool| {
        sample.thrash = Some(Thrash { refaulted: Permille::percent(percent), reclaiming, window: 1 });
        let assessment = classify(&policy(), &sample, &ledger());
        assert_eq!(assessment.stall.level, Level::Calm);
        assessment.thrash.level
    };
    assert_eq!(level(300, false), Level::Calm, "what was dropped for another reason");
    assert_eq!([9, 10, 49, 50, 300].map(|percent| level(percent, true)), {
        use Level::{Calm, Hard, Soft};
        [Calm, Soft, Soft, Hard, Hard]
    });
}

/// The server in a group of 4 GiB, which holds 1 GiB of others, on a machine that is all but free.
fn in_a_group(used: Bytes, weights: Bytes) -> Sample {
    let reading = Reading { capacity: Bytes::gib(4), used };
    let mut sample = sample(Bytes::gib(3));
    sample.cgroup = Some(CgroupReading { reading, weights, oom_kills: Some(0) });
    sample
}

#[test]
fn the_servers_cgroup_is_a_pool_of_its_own_with_no_reserve() {
    let mut sample = in_a_group(Bytes::mib(3000), Bytes::ZERO);
    sample.runners = Some(vec![runner(Bytes::gib(2))]);
    let group = classify(&policy(), &sample, &ledger()).cgroup.unwrap();
    assert_eq!((group.own, group.own_source, group.foreign), (Bytes::gib(2), OwnSource::Measured, Bytes::mib(952)));
    assert_eq!(group.ceiling, Bytes::gib(4).share(Permille(800)));
    let level = |used: u64| {
        let mut sample = sample.clone();
        sample.cgroup.as_mut().unwrap().reading.used = Bytes::mib(used);
        classify(&policy(), &sample, &ledger()).usage
    };
    assert_eq!(level(2800).level, Level::Calm);
    assert_eq!(level(3750).level, Level::Hard);
    assert!(matches!(
        level(4090),
        Finding { level: Level::Emergency, cause: Some(Cause::Use { pool: Pool::Cgroup, .. }) }
    ));
}

#[test]
fn weights_charged_to_another_group_are_no_part_of_what_is_ours_in_this_one() {
    let mut one = runner(Bytes::mib(256));
    one.file = Bytes::gib(2);
    one.weights = vec![MappedFile { inode: 9, size: Bytes::gib(2) }];
    let mut sample = in_a_group(Bytes::mib(256 + 500), Bytes::mib(500));
    sample.runners = Some(vec![one]);
    let assessment = classify(&policy(), &sample, &ledger());
    assert_eq!(assessment.cgroup.unwrap().own, Bytes::mib(756));
    assert_eq!(assessment.ram.unwrap().own, Bytes::mib(256) + Bytes::gib(2));
}

#[test]
fn a_cgroup_without_a_limit_is_no_pool_and_no_blindness() {
    let none = classify(&policy(), &sample(Bytes::gib(3)), &ledger());
    assert!(none.cgroup.is_none() && none.unread == Unread::default());
}

#[test]
fn a_reading_that_is_absent_is_blind_and_not_zero() {
    let none = classify(&policy(), &Sample::default(), &ledger());
    assert!(none.unread == Unread { memory: true, vram: false } && none.ram.is_none());
    let mut sample = sample(Bytes::gib(1));
    sample.gpus.insert("0".to_owned(), None);
    let gpu = classify(&policy(), &sample, &ledger());
    assert!(gpu.unread == Unread { memory: false, vram: true } && gpu.vram.is_none());
    assert!(gpu.ram.is_some(), "nothing else is hidden");
}

#[test]
fn a_card_that_is_lost_does_not_hide_one_that_is_full() {
    let mut sample = sample(Bytes::gib(1));
    sample.gpus.insert("good".to_owned(), Some(Reading { capacity: Bytes::gib(8), used: Bytes::mib(8000) }));
    sample.gpus.insert("lost".to_owned(), None);
    let found = classify(&policy(), &sample, &ledger());
    assert_eq!((found.unread.vram, found.vram.map(|pool| pool.capacity)), (true, Some(Bytes::gib(8))));
    assert_eq!(found.usage.level, Level::Emergency);
}

#[test]
fn the_real_machines_emergency_counts_while_we_pretend() {
    let mut sample = sample(Bytes::gib(1));
    sample.host_use = Some(Permille::percent(96));
    assert_eq!(classify(&policy(), &sample, &ledger()).usage.level, Level::Calm);
    sample.host_use = Some(Permille::percent(98));
    assert_eq!(classify(&policy(), &sample, &ledger()).usage.level, Level::Emergency);
}

#[test]
fn a_rung_that_loads_unlisted_beside_someone_elses_model_is_still_ours() {
    let mut sample = sample(Bytes::gib(7));
    sample.runners = Some(vec![runner(Bytes::gib(4))]);
    sample.residents = Some(vec![resident("someone-elses")]);
    assert_eq!(ram(&sample, &ledger()).foreign, Bytes::gib(3), "Ollama lists no model before it is loaded");
}
