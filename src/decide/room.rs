//! Room: a lease that is asked for -> what has to go for it, and whether it is there in the end.
//!
//! Whoever asks is told no with the most that can be had: all that stays under hard when no model is held. Where less is asked
//! for, the best rung that fits beside it goes on serving.

use super::caps::Asked;
use super::command::Command;
use super::controller::Controller;
use super::fit::{Limit, Room};
use super::judge::RECENT;
use super::lease::{Kept, LEASES_MAX, Lease, LeaseEnd, LeaseTold, MAKING_MAX, of};
use super::phase::Phase;
use super::reason::Reason;
use crate::classify::{Pool, PoolAssessment};
use crate::footprint::Footprint;
use crate::policy::{Amounts, Rung, WhenNothingFits};
use crate::units::{Bytes, Moment, Span};

/// What is found when it is looked whether the room is there.
enum Found {
    There,
    /// It is being made, or cannot be seen.
    NotYet,
    Missing,
}

impl Controller {
    pub(super) fn lease_told(&mut self, now: Moment, told: LeaseTold) {
        match told {
            LeaseTold::Asked { id, room, lasts, renew_within } => {
                let base = self.base_of(now, id);
                let lease = Lease {
                    room,
                    base,
                    until: lasts.map(|lasts| now + lasts),
                    renew_within,
                    renewed_at: now,
                    making_until: Some(now + MAKING_MAX),
                };
                if self.leases.all.len() >= LEASES_MAX || self.can_never_be_had(now, room) {
                    return self.refuse(now, id, room);
                }
                self.leases.all.insert(id, lease);
                // It is granted by what is seen from now on.
                self.take_sample(now);
            }
            LeaseTold::Renewed { id } => {
                self.leases.all.entry(id).and_modify(|lease| lease.renewed_at = now);
            }
            LeaseTold::Returned { id } => {
                if self.leases.all.remove(&id).is_some() {
                    self.end_lease(id, LeaseEnd::GivenBack);
                }
            }
            LeaseTold::Kept(kept) => {
                let lease = |kept: Kept| Lease {
                    room: kept.room,
                    base: kept.base,
                    until: kept.lasts.map(|lasts| now + lasts),
                    renew_within: kept.renew_within,
                    renewed_at: now,
                    making_until: None,
                };
                self.leases.all.extend(kept.into_iter().map(|kept| (kept.id, lease(kept))));
            }
        }
        self.words_pass(now);
    }

    /// What is over is ended; whoever still waits for room then is told that it was not to be had.
    pub(super) fn leases_pass(&mut self, now: Moment) {
        let late: Vec<_> = self.leases.all.iter().filter(|(_, lease)| lease.is_late(now)).map(|(id, _)| *id).collect();
        for id in late {
            if let Some(lease) = self.leases.all.remove(&id) {
                self.refuse(now, id, lease.room);
            }
        }
        for (id, end) in self.leases.take_over(now) {
            self.end_lease(id, end);
        }
    }

    fn end_lease(&mut self, id: u64, end: LeaseEnd) {
        // What slept to make room for it may come back at once.
        self.words.at_once = true;
        self.commands.push_back(Command::EndLease { id, reason: Reason::LeaseOver { id, end } });
    }

    fn refuse(&mut self, now: Moment, id: u64, room: Amounts) {
        self.words.at_once = true;
        let most = self.most_to_be_had(now);
        self.commands.push_back(Command::RefuseRoom { id, most, reason: Reason::NoRoom { asked: room, most } });
    }

    /// Whether what is asked for is there now, or will never be.
    pub(super) fn judge_leases(&mut self, now: Moment) {
        let making: Vec<u64> = self.leases.making().collect();
        for id in making {
            match self.look_for_room(now) {
                Found::There => self.grant(now, id),
                Found::NotYet => {}
                Found::Missing => {
                    if let Some(lease) = self.leases.all.remove(&id) {
                        self.refuse(now, id, lease.room);
                    }
                }
            }
        }
    }

    fn grant(&mut self, now: Moment, id: u64) {
        let Some(mut lease) = self.leases.all.remove(&id) else { return };
        (lease.making_until, lease.renewed_at) = (None, now);
        self.leases.all.insert(id, lease);
        let kept = Kept {
            id,
            room: lease.room,
            base: lease.base,
            lasts: lease.until.map(|until| until.since(now)),
            renew_within: lease.renew_within,
        };
        let reason = Reason::RoomMade { room: lease.room, others: lease.base };
        self.commands.push_back(Command::GrantRoom { lease: kept, reason });
        self.words_pass(now);
    }

    /// All models that are held, and every lease, must go together.
    fn look_for_room(&self, now: Moment) -> Found {
        let at_rest = matches!(self.phase, Phase::Steady | Phase::Asleep) && self.switch.is_none();
        let Some(rooms) = self.rooms(now, Span::ZERO).filter(|_| at_rest) else { return Found::NotYet };
        let (held, limit) = match &self.serving {
            Some(serving) => (self.held_by(serving), self.limit_beside_leases(serving)),
            None => (Footprint::default(), self.hard()),
        };
        if self.short_of(&self.leased_of(rooms), held, limit).is_some() {
            return Found::Missing;
        }
        if self.is_seen_free() { Found::There } else { Found::NotYet }
    }

    /// Whatever is held by whomever: a model that somebody else has loaded, or what others took while we loaded one.
    fn is_seen_free(&self) -> bool {
        let making = |pool| -> Bytes {
            let making = self.leases.all.values().filter(|lease| lease.making_until.is_some());
            making.map(|lease| of(lease.room, pool)).sum()
        };
        let hard = self.policy.pressure.hard.use_share;
        let free = |pool: &PoolAssessment| pool.used + making(pool.pool) <= pool.capacity.share(hard);
        self.latest.pools().all(|pool| making(pool.pool) == Bytes::ZERO || free(pool))
    }

    /// The pools of which something is leased: whether a rung fits in the others is not asked here.
    fn leased_of(&self, rooms: Vec<Room>) -> Vec<Room> {
        rooms.into_iter().filter(|room| self.leases.leased(room.pool) > Bytes::ZERO).collect()
    }

    /// What has to make way for room that is asked for, if something has.
    pub(super) fn room_asked(&self, now: Moment, serving: &Rung) -> Option<Asked> {
        self.leases.making().next()?;
        let limit = self.limit_beside_leases(serving);
        let rooms = self.leased_of(self.rooms(now, Span::ZERO)?);
        let short = self.short_of(&rooms, self.held_by(serving), limit)?;
        let place = self.index_of(serving)?;
        let target = self.target_down(now, place + 1, RECENT).map(|(index, _)| index).filter(|index| *index > place);
        let reason =
            Reason::RoomAsked { pool: short.pool, asked: self.leases.leased(short.pool), missing: short.missing };
        Some(Asked { reason, target })
    }

    /// The pinned rung, and the smallest that is to be kept, may go as far as hard.
    fn limit_beside_leases(&self, serving: &Rung) -> Limit {
        let smallest = self.index_of(serving).is_some_and(|index| index + 1 == self.policy.ladder.len());
        let kept = smallest && self.policy.when_nothing_fits == WhenNothingFits::KeepSmallest;
        if kept || self.keeps_pin(serving) { self.hard() } else { Limit::Ceiling }
    }

    fn hard(&self) -> Limit {
        Limit::Share(self.policy.pressure.hard.use_share)
    }

    /// What a rung takes at most of the leased pools, or takes already if that is more.
    fn held_by(&self, serving: &Rung) -> Footprint {
        let bound = self.footprint(serving).unwrap_or_default();
        let own = |pool| self.own_measured(pool).unwrap_or_default();
        let leased = |pool, held| if self.leases.leased(pool) > Bytes::ZERO { held } else { Bytes::ZERO };
        Footprint {
            memory: leased(Pool::Ram, bound.memory.max(own(Pool::Ram))),
            vram: leased(Pool::Vram, bound.vram.max(own(Pool::Vram))),
        }
    }

    /// While room is made, others may come and go: what counts is what they hold at the grant.
    pub(super) fn follow_others(&mut self, now: Moment) {
        let making: Vec<u64> = self.leases.making().collect();
        for id in making {
            let base = self.base_of(now, id);
            self.leases.all.entry(id).and_modify(|lease| lease.base = base);
        }
    }

    /// What others hold of each pool without any lease, when all but this one are counted as taken.
    fn base_of(&self, now: Moment, id: u64) -> Amounts {
        let seen = self.rooms_seen(now, Span::ZERO).unwrap_or_default();
        let mut others = self.leases.clone();
        others.all.remove(&id);
        let held = |pool| {
            let room = seen.iter().find(|room| room.pool == pool);
            let held = room.map(|room| room.foreign.max(others.floor(pool))).unwrap_or_default();
            held.saturating_sub(others.leased(pool))
        };
        Amounts { memory: held(Pool::Ram), vram: held(Pool::Vram) }
    }

    /// The most that a lease may have beside the leases that there are: no model is held then.
    fn most_to_be_had(&self, now: Moment) -> Amounts {
        let rooms = self.rooms(now, Span::ZERO).unwrap_or_default();
        let most = |pool| {
            let room = rooms.iter().find(|room| room.pool == pool);
            room.map(|room| self.hard().of(room).saturating_sub(room.foreign)).unwrap_or_default()
        };
        Amounts { memory: most(Pool::Ram), vram: most(Pool::Vram) }
    }

    fn can_never_be_had(&self, now: Moment, room: Amounts) -> bool {
        let most = self.most_to_be_had(now);
        let short = |pool| of(room, pool) > of(most, pool);
        short(Pool::Ram) || short(Pool::Vram)
    }
}
