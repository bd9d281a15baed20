//! Write-behind: threads that store what was queued, in its order, however long Redis is away.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::chunk::Chunk;
use super::client::Client;
use super::lanes::Lane;
use super::merge::Merged;
use super::node::{Line, Node};
use super::queue::Losses;
use super::socket::Patience;
use super::store::{Attempted, Placement, Setback, Write};
use super::task::Task;
use crate::error::{Error, Kind, Result};
use crate::log::{self, Level, Limit};
use crate::panics;

/// So long nothing may move in a round trip of the writer's: within these bounds, as long as a call has time. Nobody waits
/// for it, an append whose answer comes too late is lost, and a connection that is dead must not hold it for long.
const STALL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// So long a round trip may take in all, however slow the network.
const LONGEST: Duration = Duration::from_secs(60);
/// Between attempts where Redis is there, but takes nothing: from the first to the last, each so many times the one before.
const RESTS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(1));
const REST_GROWTH: u32 = 4;

impl Client {
    /// What the thread of a lane does.
    pub(super) fn write_out(self: Arc<Self>, lane: &Lane) {
        lane.queue.write_here();
        let result = panics::contain(|| {
            while lane.queue.await_work() && self.arrange(lane) && self.deliver(lane, lane.queue.next()) {}
        });
        // In a child that goes on from a log callback, the locks may be held.
        if !self.is_this_process() {
            return;
        }
        let (panic, left) = (result.is_err(), lane.queue.end(result.err()));
        if !panic && left > 0 {
            let line = || format!("{left} queued records were given up: no time was left after the close");
            log::emit(Level::Error, line);
        }
    }

    /// Has each record in the lane of the server that has its key. False where there is no time left to learn which that is.
    fn arrange(&self, lane: &Lane) -> bool {
        let (Some(lanes), Some(cluster)) = (&self.lanes, self.topology.cluster()) else { return true };
        let mut rest = RESTS.0;
        loop {
            match self.map(cluster, self.deadline()) {
                Ok(map) => {
                    lanes.arrange(lane, self, &map);
                    return true;
                }
                Err(error) => {
                    let is_away = || cluster.entry.breaker.check().is_err();
                    if !self.is_this_process() || !lane.queue.rest(error.message, Instant::now() + rest, is_away) {
                        return false;
                    }
                    rest = (rest * REST_GROWTH).min(RESTS.1);
                }
            }
        }
    }

    /// Stores all of `chunks`, or finds out that it cannot be stored. False where there is no time left for that.
    fn deliver(&self, lane: &Lane, chunks: Vec<Chunk>) -> bool {
        let merged = Merged::of(chunks.iter().flat_map(Chunk::entries));
        let (mut fates, mut stray, mut has_time) = (Vec::new(), Stray::default(), true);
        for turn in 0..merged.turns() {
            if !has_time {
                break;
            }
            let (mut tasks, mut accepted) = (Vec::new(), Vec::new());
            for (write, count) in merged.writes(turn) {
                let task = Task::new(write, self);
                // Behind what has to wait, all of its slot has to.
                if stray.slots.contains(&task.slot()) {
                    stray.add(&task, count);
                } else {
                    tasks.push(task);
                    accepted.push(count);
                }
            }
            has_time = self.persist(lane, &mut tasks);
            // A log callback may have forked.
            if !self.is_this_process() {
                return false;
            }
            for (task, count) in tasks.into_iter().zip(accepted) {
                if task.is_done() { fates.push(Fate::of(task, count)) } else { stray.add(&task, count) }
            }
        }
        if let (Some(lanes), true, false) = (&self.lanes, has_time, stray.writes.is_empty()) {
            lanes.set_aside(lane, self, &stray.writes);
            if !self.is_this_process() {
                return false;
            }
        }
        let losses = fates.iter().filter_map(Fate::loss).reduce(Losses::and);
        let (unsettled, replaced) = match has_time {
            true => (stray.records(), stray.replaced),
            false => {
                let accepted: usize = chunks.iter().map(Chunk::records).sum();
                (accepted as u64 - fates.iter().map(|fate| fate.accepted).sum::<u64>(), 0)
            }
        };
        drop(stray);
        drop(merged);
        lane.queue.settle(chunks, unsettled, losses, || {
            fates.iter().for_each(|fate| self.stats.count(fate.placement, fate.accepted, &fate.result));
            self.stats.indexed.fetch_add(replaced, Relaxed);
        });
        has_time
    }

    /// Whether none of the tasks that are not done is for a server that is in trouble: each is for a slot that no server has, or
    /// one that is on its way to another server, which is.
    fn are_stray(&self, lane: &Lane, tasks: &[Task<'_>], setbacks: &[Setback]) -> bool {
        let (Some(lanes), Some(cluster)) = (&self.lanes, self.topology.cluster()) else { return false };
        let is_stray = |task: &Task<'_>| {
            let node = self.topology.known_node(task.key());
            node.is_none_or(|node| !setbacks.iter().any(|setback| setback.is_of(&node)))
        };
        cluster.map().is_some_and(|map| lanes.may_set_aside(lane, &map))
            && tasks.iter().filter(|task| !task.is_done()).all(is_stray)
    }

    /// Attempts to store tasks, each of another list, until all are done, but for stray ones. False where there is no time left for
    /// that.
    fn persist(&self, lane: &Lane, tasks: &mut [Task<'_>]) -> bool {
        let (mut rest, mut stall) = (RESTS.0, self.config().timeout.clamp(STALL.0, STALL.1));
        let mut not_ready_since = None;
        let start = Instant::now();
        while !tasks.iter().all(Task::is_done) {
            let deadline = Instant::now() + LONGEST;
            let deadline = lane.queue.closing().map_or(deadline, |closing| closing.min(deadline));
            let Attempted { setbacks, wants_another } = self.attempt(Line::Writes, tasks, Patience { deadline, stall });
            let not_ready = tasks.iter_mut().filter_map(Task::retry_when_ready).last();
            if let Some(error) = &not_ready {
                not_ready_since.get_or_insert_with(Instant::now);
                self.note_not_ready(tasks, error, rest);
            }
            let Some(error) = setbacks.first().map(|setback| &setback.error).or(not_ready.as_ref()) else { continue };
            if wants_another && !setbacks.is_empty() {
                continue;
            }
            if not_ready.is_none() && self.are_stray(lane, tasks, &setbacks) {
                break;
            }
            let is_away =
                || setbacks.iter().any(Setback::is_away) && setbacks.iter().all(|it| it.is_away() || it.node.is_none());
            if start.elapsed() > self.config().timeout {
                self.leave_suspects(&setbacks);
            }
            let away = setbacks.iter().find_map(|setback| setback.node.as_ref()?.breaker.cause());
            let trouble = away.unwrap_or_else(|| error.message.clone());
            if !self.is_this_process() || !lane.queue.rest(trouble, Instant::now() + rest, is_away) {
                return false;
            }
            tasks.iter_mut().for_each(|task| task.was_delayed(self));
            rest = (rest * REST_GROWTH).min(RESTS.1);
            if setbacks.iter().any(|setback| setback.error.kind == Kind::Timeout) {
                // It may be that much work.
                stall = (stall * 2).min(LONGEST);
            }
        }
        if let Some(since) = not_ready_since {
            log::emit(Level::Info, || format!("{} takes records again after {:.1?}", self.config(), since.elapsed()));
        }
        true
    }

    /// Redis is there, and refuses for now.
    fn note_not_ready(&self, tasks: &[Task<'_>], error: &Error, rest: Duration) {
        static NOT_READY: Limit = Limit::new();
        log::emit_limited(&NOT_READY, Level::Warning, || format!("{}: {error}; trying on", self.config()));
        if rest == RESTS.1 {
            // The address may lead to another server by now.
            let has_key = |node: &Arc<Node>| tasks.iter().any(|task| self.topology.is_at(task.key(), node));
            self.topology.nodes().into_iter().filter(has_key).for_each(|node| node.pool(Line::Writes).forget());
        }
    }
}

/// Writes that can go no way for now, though all servers of the lane are fine.
#[derive(Default)]
struct Stray<'m> {
    writes: Vec<Write<'m>>,
    slots: HashSet<u16>,
    /// Records that others of these have replaced.
    replaced: u64,
}

impl<'m> Stray<'m> {
    fn add(&mut self, task: &Task<'m>, accepted: u64) {
        let write = *task.write();
        self.replaced += accepted - write.records.len() as u64;
        self.writes.push(write);
        self.slots.insert(task.slot());
    }

    fn records(&self) -> u64 {
        self.writes.iter().map(|write| write.records.len() as u64).sum()
    }
}

/// What became of a write.
struct Fate {
    placement: Placement,
    /// Records that were pushed for it.
    accepted: u64,
    result: Result<()>,
}

impl Fate {
    /// Logs what is lost: nobody else hears of it before the next flush.
    fn of(task: Task<'_>, accepted: u64) -> Self {
        static UNCERTAIN: Limit = Limit::new();
        static GAPS: Limit = Limit::new();
        static REFUSED: Limit = Limit::new();
        let placement = task.write().placement;
        let result = task.result();
        if let Err(error) = &result {
            let limit = match error.kind {
                Kind::Uncertain => &UNCERTAIN,
                Kind::Gap => &GAPS,
                _ => &REFUSED,
            };
            log::emit_limited(limit, Level::Error, || format!("lost ({accepted} records): {error}"));
        }
        Fate { placement, accepted, result }
    }

    fn loss(&self) -> Option<Losses> {
        let first = self.result.as_ref().err()?.clone();
        Some(Losses { records: self.accepted, first })
    }
}
