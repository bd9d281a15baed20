//! The queues of write-behind. Each server of a cluster has one, and a thread that empties it: one that is away holds up nobody
//! else's records.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::client::Client;
use super::config::{Address, Config};
use super::queue::{Losses, Queue};
use super::slot;
use super::store::Write;
use super::topology::Map;
use crate::error::{Error, Kind, Result};
use crate::log::{self, Level, Limit};
use crate::process::with_signals_blocked;
use crate::sync::lock;

/// A queue, and who empties it.
pub struct Lane {
    pub queue: Queue,
    number: u16,
    /// The version of the plan by which it has what belongs there.
    arranged: AtomicU64,
    is_started: AtomicBool,
    /// When it last had records that it cannot store go behind others, while all is being closed.
    gave_way: Mutex<Option<Instant>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// All queues of a client.
pub struct Lanes {
    /// Records that each may hold.
    capacity: usize,
    /// The one that is always there.
    first: Arc<Lane>,
    /// By their numbers. None ever goes.
    all: ArcSwap<Vec<Arc<Lane>>>,
    /// Which one takes the records of each slot; where there is no cluster, there is one slot.
    of_slot: Box<[AtomicU16]>,
    /// Where they should go. Who has it locked may hand records over, or hold several queues.
    plan: Mutex<Plan>,
    /// How often records were handed over.
    moves: AtomicU64,
}

/// Which lane should take the records of each slot.
struct Plan {
    /// The version of the map that it was made by.
    version: u64,
    of_slot: Vec<u16>,
    /// One that no server has, or the next number: for slots that no server has, either.
    aside: u16,
}

/// While all is being closed, what cannot be stored for now is tried so often at least, and holds up others for so long at most.
const GIVES_WAY_EVERY: Duration = Duration::from_millis(10);

impl Lane {
    fn new(number: u16, capacity: usize) -> Arc<Self> {
        let (queue, is_started) = (Queue::new(capacity), AtomicBool::new(false));
        let gave_way = Mutex::default();
        Arc::new(Lane { queue, number, arranged: AtomicU64::new(0), is_started, gave_way, thread: Mutex::default() })
    }

    /// Starts the thread, if there is none.
    fn start(self: &Arc<Self>, client: &Client) -> io::Result<()> {
        if self.is_started.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut thread = lock(&self.thread);
        // Another thread may have started it; and a client that is about to go has nothing to write.
        let (None, Some(client)) = (&*thread, client.weak().upgrade()) else { return Ok(()) };
        self.queue.reserve();
        let me = self.clone();
        let run = move || client.write_out(&me);
        let started = with_signals_blocked(|| thread::Builder::new().name("pita-writer".into()).spawn(run));
        *thread = Some(started?);
        self.is_started.store(true, Ordering::Release);
        Ok(())
    }
}

impl Lanes {
    /// The threads start when there is something to write.
    pub fn new(config: &Config) -> Self {
        let slots = if matches!(config.address, Address::Cluster(_)) { slot::COUNT } else { 1 };
        let first = Lane::new(0, config.queue);
        Lanes {
            capacity: config.queue,
            all: ArcSwap::from_pointee(vec![first.clone()]),
            first,
            of_slot: (0..slots).map(|_| AtomicU16::new(0)).collect(),
            plan: Mutex::new(Plan { version: 0, of_slot: vec![0; slots], aside: 1 }),
            moves: AtomicU64::new(0),
        }
    }

    fn lane_of(&self, slot: u16) -> Arc<Lane> {
        self.all.load()[usize::from(self.number_of(slot))].clone()
    }

    fn number_of(&self, slot: u16) -> u16 {
        // Written while the lane's queue is locked.
        self.of_slot[usize::from(slot)].load(Ordering::Acquire)
    }

    /// Queues each write; one result each. Blocks only while a queue is full, for `timeout` at most.
    pub fn push(&self, client: &Client, writes: &[Write<'_>], timeout: Duration, mut done: impl FnMut(Result<()>)) {
        static FULL: Limit = Limit::new();
        let mut refusal = None;
        let note = |result: Result<()>| {
            if let (None, Err(error)) = (&refusal, &result)
                && error.kind == Kind::QueueFull
            {
                refusal = Some(error.message.clone());
            }
            done(result);
        };
        match self.of_slot.len() {
            1 => self.push_to(&self.first, client, writes, timeout, |_| true, note),
            _ => self.push_by_slot(client, writes, timeout, note),
        }
        // Now that no lock is held: whoever listens may call the library. Who does not wait tries again.
        if let (Some(message), false) = (refusal, timeout.is_zero()) {
            log::emit_limited(&FULL, Level::Warning, || message);
        }
    }

    fn push_by_slot(&self, client: &Client, writes: &[Write<'_>], timeout: Duration, mut done: impl FnMut(Result<()>)) {
        let deadline = Instant::now() + timeout;
        let slots: Vec<u16> = writes.iter().map(|write| client.slot(&client.key(write.id))).collect();
        let mut results: Vec<Option<Result<()>>> = writes.iter().map(|_| None).collect();
        let (mut full, mut held_up) = (HashSet::new(), HashSet::new());
        // A queue that is full holds up what belongs there, and nothing else.
        for waits in [false, true] {
            for ((write, slot), result) in writes.iter().zip(&slots).zip(&mut results) {
                // Behind what has to wait there, all has to, even if its slot is another queue's by now.
                let is_behind = || full.contains(&self.number_of(*slot)) || held_up.contains(slot);
                if result.is_some() || (!waits && is_behind()) {
                    continue;
                }
                let left = if waits { deadline.saturating_duration_since(Instant::now()) } else { Duration::ZERO };
                let (lane, pushed) = self.push_one(client, write, *slot, left);
                match &pushed {
                    Err(error) if error.kind == Kind::QueueFull && !waits && !timeout.is_zero() => {
                        full.insert(lane);
                        held_up.insert(*slot);
                    }
                    _ => *result = Some(pushed),
                }
            }
        }
        results.into_iter().flatten().for_each(&mut done);
    }

    /// Queues a write; says in which lane.
    fn push_one(&self, client: &Client, write: &Write<'_>, slot: u16, timeout: Duration) -> (u16, Result<()>) {
        loop {
            let (lane, mut result) = (self.lane_of(slot), None);
            let belongs = |_: &Write<'_>| self.number_of(slot) == lane.number;
            self.push_to(&lane, client, std::slice::from_ref(write), timeout, belongs, |pushed| result = Some(pushed));
            if let Some(result) = result {
                return (lane.number, result);
            }
        }
    }

    /// Of a write that does not belong there any more, nothing is told.
    fn push_to(
        &self,
        lane: &Arc<Lane>,
        client: &Client,
        writes: &[Write<'_>],
        timeout: Duration,
        belongs: impl Fn(&Write<'_>) -> bool,
        mut done: impl FnMut(Result<()>),
    ) {
        match lane.start(client) {
            Ok(()) => lane.queue.push(writes, timeout, belongs, |result| result.into_iter().for_each(&mut done)),
            Err(error) => {
                let error = Error::new(Kind::Unavailable, format!("no thread can be started for writing: {error}"));
                writes.iter().map(|_| Err(error.clone())).for_each(done);
            }
        }
    }

    /// A view of how many records are queued now, and were at most in each queue, while nothing is settled.
    pub fn observe<T>(&self, view: impl FnOnce(u64, u64) -> T) -> T {
        let _plan = lock(&self.plan);
        let all = self.all.load();
        let held: Vec<_> = all.iter().map(|lane| lane.queue.hold()).collect();
        view(held.iter().map(|queue| queue.queued()).sum(), held.iter().map(|queue| queue.most()).sum())
    }

    /// Has everybody look again: a server is back, or has gone away.
    pub fn nudge(&self) {
        self.all.load().iter().for_each(|lane| lane.queue.nudge());
    }

    /// Records that were accepted, but never came into a queue.
    pub fn lose(&self, losses: Losses) {
        self.first.queue.lose(losses);
    }

    /// Waits until all that was pushed so far is settled. Fails where some of it, or of what came since the last flush, was
    /// not stored.
    pub fn flush(&self, deadline: Instant) -> Result<()> {
        self.until_nothing_moves(|| self.all.load().iter().try_for_each(|lane| lane.queue.await_all(deadline)))?;
        let all = self.all.load();
        let losses = all.iter().filter_map(|lane| lane.queue.take_losses()).reduce(Losses::and);
        losses.map_or(Ok(()), |losses| Err(losses.into_error()))
    }

    /// Waits until what was pushed of a request is settled, as long as `is_hopeful`.
    pub fn await_request(
        &self,
        id: &str,
        slot: u16,
        deadline: Instant,
        is_hopeful: impl Fn() -> Result<()>,
    ) -> Result<()> {
        self.until_nothing_moves(|| self.lane_of(slot).queue.await_request(id, deadline, &is_hopeful))
    }

    /// Waits once more where records were handed over meanwhile.
    fn until_nothing_moves(&self, wait: impl Fn() -> Result<()>) -> Result<()> {
        loop {
            let before = self.moves.load(Ordering::Acquire);
            wait()?;
            if self.moves.load(Ordering::Acquire) == before {
                return Ok(());
            }
        }
    }

    /// Takes no more records, and waits until those there are written, at most until `deadline`. The threads end; where one is
    /// in the middle of a round trip, a moment later.
    pub fn close(&self, deadline: Instant) -> Result<()> {
        let plan = lock(&self.plan);
        let all = self.all.load_full();
        all.iter().for_each(|lane| lane.queue.begin_close(deadline));
        drop(plan);
        let mut failure: Option<Error> = None;
        for lane in all.iter() {
            let Err(error) = lane.queue.end_close() else { continue };
            // Other losses were logged when they happened.
            if lane.queue.hold().queued() > 0 {
                log::emit(Level::Error, || error.message.clone());
            }
            failure = Some(match failure {
                Some(first) => Error::new(first.kind, format!("{first}; {error}")),
                None => error,
            });
        }
        // All is written: the threads do nothing more, unless this is one of them.
        if !all.iter().any(|lane| lane.queue.is_written_here()) {
            for lane in all.iter().filter(|lane| lane.queue.hold().queued() == 0) {
                let thread = lock(&lane.thread).take();
                let _ = thread.map(JoinHandle::join);
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// Waits for a close under way: until all is written, or given up.
    pub fn await_end(&self) {
        self.all.load().iter().for_each(|lane| lane.queue.await_end());
    }

    /// Hands over what is in the queue of a lane but belongs into others, now that the servers have the slots as in `map`. Only on
    /// the lane's thread, between two batches, so that nothing of what is handed over is on its way.
    pub fn arrange(&self, lane: &Lane, client: &Client, map: &Map) {
        let mut plan = lock(&self.plan);
        if plan.version < map.version {
            *plan = self.plan(map);
        }
        if lane.arranged.swap(plan.version, Ordering::Relaxed) != plan.version && !self.is_closing() {
            self.hand_over(plan, lane, client, &[]);
        }
    }

    /// Whether [`Self::set_aside`] lets a lane go on that cannot store some records though no server of its own is in trouble:
    /// once it is their lane, after a change of the map alone; while all is being closed, every few milliseconds.
    pub fn may_set_aside(&self, lane: &Lane, map: &Map) -> bool {
        let is_aside = lock(&self.plan).aside == lane.number;
        match self.is_closing() {
            true => lock(&lane.gave_way).is_none_or(|last| last.elapsed() > GIVES_WAY_EVERY),
            false => !is_aside || lane.arranged.load(Ordering::Relaxed) != map.version,
        }
    }

    /// Hands what a lane has `taken` out and cannot store, though its server is fine, over to another lane, with all that is
    /// queued for these slots, until the map changes. As [`Self::arrange`]. In the lane for such records, and while all is being
    /// closed, they go behind all others there.
    pub fn set_aside(&self, lane: &Lane, client: &Client, taken: &[Write<'_>]) {
        let mut plan = lock(&self.plan);
        let is_closing = self.is_closing();
        if is_closing {
            *lock(&lane.gave_way) = Some(Instant::now());
        }
        if is_closing || plan.aside == lane.number {
            return self.put_back(plan, lane, client, taken);
        }
        let mut all = Vec::clone(&self.all.load());
        if usize::from(plan.aside) == all.len() {
            all.push(Lane::new(plan.aside, self.capacity));
            self.all.store(Arc::new(all));
        }
        let aside = plan.aside;
        for write in taken {
            plan.of_slot[usize::from(client.slot(&client.key(write.id)))] = aside;
        }
        self.hand_over(plan, lane, client, taken);
    }

    /// Puts what a lane has `taken` out behind all others there, with what is queued for these slots.
    fn put_back(&self, plan: MutexGuard<'_, Plan>, lane: &Lane, client: &Client, taken: &[Write<'_>]) {
        let slot_of = |id: &str| client.slot(&client.key(id));
        let slots: HashSet<u16> = taken.iter().map(|write| slot_of(write.id)).collect();
        let to = |id: &str| slots.contains(&slot_of(id)).then_some(&lane.queue);
        let publish = || {
            self.moves.fetch_add(1, Ordering::Release);
        };
        let lost = lane.queue.hand_over(taken, to, publish);
        drop(plan);
        Self::tell_lost(client, lost);
    }

    /// Hands what a lane has `taken` out, and what is in its queue, over to the lanes where the plan has it.
    fn hand_over(&self, plan: MutexGuard<'_, Plan>, lane: &Lane, client: &Client, taken: &[Write<'_>]) {
        let target = |slot: u16| plan.of_slot[usize::from(slot)];
        let is_misplaced = |slot: u16| self.number_of(slot) == lane.number && target(slot) != lane.number;
        let misplaced: Vec<u16> = (0..slot::COUNT as u16).filter(|slot| is_misplaced(*slot)).collect();
        if misplaced.is_empty() {
            return;
        }
        let all = self.all.load_full();
        let to = |id: &str| {
            let slot = client.slot(&client.key(id));
            is_misplaced(slot).then(|| &all[usize::from(target(slot))].queue)
        };
        let publish = || {
            for slot in &misplaced {
                self.of_slot[usize::from(*slot)].store(target(*slot), Ordering::Release);
            }
            self.moves.fetch_add(1, Ordering::Release);
        };
        let lost = lane.queue.hand_over(taken, to, publish);
        drop(plan);
        self.wake(&all, client);
        Self::tell_lost(client, lost);
    }

    fn tell_lost(client: &Client, lost: u64) {
        if lost > 0 {
            client.give_up(lost, Error::new(Kind::Unavailable, "there was no memory to hand them over"));
        }
    }

    fn is_closing(&self) -> bool {
        self.all.load().iter().any(|lane| lane.queue.hold().is_closing())
    }

    /// Has them write what was handed over to them.
    fn wake(&self, all: &[Arc<Lane>], client: &Client) {
        for lane in all.iter().filter(|lane| lane.queue.hold().queued() > 0) {
            static NO_THREAD: Limit = Limit::new();
            if let Err(error) = lane.start(client) {
                // The next store tries again.
                log::emit_limited(&NO_THREAD, Level::Error, || {
                    format!("no thread can be started for writing: {error}")
                });
            }
            lane.queue.nudge();
        }
    }

    /// A lane for each node: the one that has most of its slots, if no other node has more there. Else one that has no node, or a
    /// new one.
    fn plan(&self, map: &Map) -> Plan {
        let slots = || 0..slot::COUNT as u16;
        let mut shares = HashMap::<(usize, u16), usize>::new();
        for slot in slots() {
            if let Some(node) = map.index_of(slot) {
                *shares.entry((node, self.number_of(slot))).or_default() += 1;
            }
        }
        let mut shares: Vec<_> = shares.into_iter().collect();
        shares.sort_unstable_by_key(|((node, lane), count)| (std::cmp::Reverse(*count), *node, *lane));
        let mut of_node = HashMap::<usize, u16>::new();
        let mut all = Vec::clone(&self.all.load());
        let mut is_taken = vec![false; all.len()];
        for ((node, lane), _) in &shares {
            if !of_node.contains_key(node) && !is_taken[usize::from(*lane)] {
                is_taken[usize::from(*lane)] = true;
                of_node.insert(*node, *lane);
            }
        }
        for ((node, _), _) in &shares {
            of_node.entry(*node).or_insert_with(|| {
                let lane = is_taken.iter().position(|is_taken| !is_taken).unwrap_or(all.len());
                if lane == all.len() {
                    all.push(Lane::new(lane as u16, self.capacity));
                    is_taken.push(true);
                }
                is_taken[lane] = true;
                lane as u16
            });
        }
        let aside = is_taken.iter().position(|is_taken| !is_taken).unwrap_or(all.len()) as u16;
        self.all.store(Arc::new(all));
        let target = |slot| map.index_of(slot).map_or_else(|| self.number_of(slot), |node| of_node[&node]);
        Plan { version: map.version, of_slot: slots().map(target).collect(), aside }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::redis::connection::Means;
    use crate::redis::store::Placement;
    use crate::redis::topology::NOBODY;

    /// The lanes of some slots, when all is arranged by a map.
    fn planned(lanes: &Lanes, map: &Map, slots: &[usize]) -> Vec<u16> {
        let plan = lanes.plan(map);
        for (its, planned) in lanes.of_slot.iter().zip(&plan.of_slot) {
            its.store(*planned, Ordering::Release);
        }
        slots.iter().map(|slot| plan.of_slot[*slot]).collect()
    }

    #[test]
    fn each_node_has_a_lane_and_keeps_it() {
        let lanes = Lanes::new(&Config::from_url("redis+cluster://h").unwrap());
        let slots = [0, 6000, 12000];
        let thirds = |slot: usize| (slot / 5462) as u16;
        let first = planned(&lanes, &Map::of(1, thirds), &slots);
        assert_eq!(std::collections::BTreeSet::from_iter(first.clone()).len(), 3);
        // Replicas took over: other nodes, in another order, with the same slots.
        assert_eq!(planned(&lanes, &Map::of(2, |slot| 2 - thirds(slot)), &slots), first);
        // Some slots of the first node are the last one's now.
        let moved =
            planned(&lanes, &Map::of(3, |slot| if slot < 100 { 2 } else { thirds(slot) }), &[0, 100, 6000, 12000]);
        assert_eq!(moved, [first[2], first[0], first[1], first[2]]);
        // The first node is gone, and its slots are the second one's.
        let merged = planned(&lanes, &Map::of(4, |slot| thirds(slot).saturating_sub(1)), &slots);
        assert_eq!((merged[0] == merged[1], merged[2]), (true, first[2]));
        // A new one takes the lane that is left.
        let again = planned(&lanes, &Map::of(5, thirds), &slots);
        assert_eq!((again[1] != again[0], again[2], lanes.all.load().len()), (true, first[2], 3));
    }

    #[test]
    fn a_slot_without_a_server_stays_where_it_is() {
        let lanes = Lanes::new(&Config::from_url("redis+cluster://h").unwrap());
        let before = planned(&lanes, &Map::of(1, |slot| (slot / 8192) as u16), &[0, 9000]);
        let after = planned(&lanes, &Map::of(2, |slot| if slot == 9000 { NOBODY } else { 0 }), &[0, 9000]);
        assert_eq!(after[1], before[1]);
    }

    #[test]
    fn what_is_set_aside_goes_to_the_lane_for_that_which_may_be_its_own_by_then() {
        let config = Config::from_url("redis+cluster://127.0.0.1:1?write=behind").unwrap();
        let client = Client::new(Means { config, tls: None });
        let lanes = client.lanes.as_ref().unwrap();
        let write = Write { id: "a", placement: Placement::Append, records: &[Metrics::default()] };
        lanes.first.queue.push(&[write], Duration::ZERO, |_| true, |pushed| pushed.unwrap().unwrap());
        let set_aside = |aside: u16| {
            let taken = lanes.first.queue.next();
            lock(&lanes.plan).aside = aside;
            lanes.set_aside(&lanes.first, &client, &[write]);
            lanes.first.queue.settle(taken, 1, None, || ());
            let lane = lanes.lane_of(slot::of("a"));
            let queued = lane.queue.hold().queued();
            (lane.number, queued, lanes.first.queue.hold().queued())
        };
        // By a map that came meanwhile.
        assert_eq!(set_aside(0), (0, 1, 1));
        assert_eq!(set_aside(1), (1, 1, 0));
        assert!(lanes.close(Instant::now()).is_err(), "there is no server");
    }
}
