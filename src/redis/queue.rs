//! The queue of write-behind: records of many requests in the order in which they came, bounded by their number.
//!
//! Entries lie packed in chunks of memory that are made ahead and used again, so that pushing one copies it and allocates
//! nothing. The writer takes whole chunks: nobody waits while it reads them.

use std::cell::Cell;
use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::chunk::{self, Chunk};
use super::store::Write;
use crate::error::{Error, Kind, Result};
use crate::metrics::Metrics;
use crate::sync::{lock, wait_until};

/// Records at most for which memory is made ahead: 13 MB of addresses. Beyond them a store in some hundred allocates.
const RESERVED: usize = 1 << 17;
/// Ids are told apart by so many numbers; two that share one wait for each other's records.
const SLOTS: usize = 4096;
/// Records that the writer gets at once, about: a server stores them within milliseconds.
const BATCH: usize = 3000;
/// After work the writer looks for more by itself for so long, so that no step of a decoding engine has to wake it: that
/// takes ten times as long as all else in a call.
const LINGER: Duration = Duration::from_millis(100);
/// So often it looks then.
const DOZE: Duration = Duration::from_micros(500);
/// Whether Redis is back is news, but not to be missed.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

thread_local! {
    /// The address of the queue that this thread writes out; 0 for none.
    static WRITES_OUT: Cell<usize> = const { Cell::new(0) };
}

/// A bounded queue of records.
pub struct Queue {
    /// Records that may be in it.
    capacity: usize,
    /// Of ids, for [`State::last`].
    hasher: RandomState,
    state: Mutex<State>,
    /// The writer waits here.
    work: Condvar,
    /// All others wait here, for records to be settled.
    progress: Condvar,
}

struct State {
    /// Entries that nobody has taken yet; all but the last chunk are full.
    chunks: VecDeque<Chunk>,
    spare: Vec<Chunk>,
    /// Records pushed since the beginning.
    accepted: u64,
    /// Those whose fate is known: stored or given up.
    settled: u64,
    /// The most that were ever in the queue.
    most: u64,
    /// By a hash of the id: how many records had been accepted with the last one of that id.
    last: Box<[u64]>,
    writer: Writer,
    /// What was settled when somebody waited for room in vain: nobody else does until there is progress.
    stuck_at: Option<u64>,
    /// Why the writer gets nowhere, if so.
    trouble: Option<String>,
    losses: Option<Losses>,
    /// When the writer has to end.
    closing: Option<Instant>,
    /// Whether somebody waits for that, and tells what was not written.
    is_close_awaited: bool,
    /// Nothing more is written, and why.
    ended: Option<Error>,
}

/// What the thread does.
#[derive(Clone, Copy, PartialEq)]
enum Writer {
    /// It looks into the queue before it waits again.
    Works,
    /// It looks into the queue in a moment by itself.
    Dozes,
    /// It has to be woken.
    Sleeps,
}

/// Records that were accepted but not stored.
pub struct Losses {
    /// How many.
    pub records: u64,
    /// What happened to the first of them.
    pub first: Error,
}

impl Losses {
    /// Both; `later` happened after these.
    pub fn and(self, later: Losses) -> Self {
        Losses { records: self.records + later.records, ..self }
    }

    pub fn into_error(self) -> Error {
        let (records, Error { kind, message }) = (self.records, self.first);
        Error::new(kind, format!("{} lost since the last flush: {message}", counted(records)))
    }
}

/// "1 record was", "7 records were"
fn counted(records: u64) -> String {
    if records == 1 { "1 record was".into() } else { format!("{records} records were") }
}

impl State {
    fn queued(&self) -> u64 {
        self.accepted - self.settled
    }

    /// Accepts a write. False where there is no memory.
    fn add(&mut self, write: &Write<'_>, slot: usize) -> bool {
        if !self.put(write) {
            return false;
        }
        self.accepted += write.records.len() as u64;
        self.most = self.most.max(self.queued());
        self.last[slot] = self.accepted;
        true
    }

    /// Copies a write into the last chunk or a new one. False where there is no memory.
    fn put(&mut self, write: &Write<'_>) -> bool {
        let size = chunk::entry_size(write);
        if !self.chunks.back().is_some_and(|chunk| chunk.has_room(size)) {
            let chunk = if size > chunk::SIZE { None } else { self.spare.pop() };
            let Some(chunk) = chunk.or_else(|| Chunk::new(size)) else { return false };
            self.chunks.push_back(chunk);
        }
        if let Some(chunk) = self.chunks.back_mut() {
            chunk.add(write);
        }
        true
    }

    /// Some full chunks, or the last one.
    fn take(&mut self) -> Vec<Chunk> {
        let mut records = 0;
        let is_room = |chunk: &Chunk| {
            records += chunk.records();
            records <= BATCH
        };
        let count = self.chunks.iter().map(is_room).take_while(|is_room| *is_room).count();
        self.chunks.drain(..count.max(1).min(self.chunks.len())).collect()
    }

    /// Whether nothing more is to be written.
    fn is_over(&self) -> bool {
        self.ended.is_some() || self.closing.is_some_and(|closing| closing <= Instant::now())
    }

    /// Whether the writer is to be woken for what was pushed.
    fn wants_writer(&mut self) -> bool {
        let wants = match self.writer {
            Writer::Works => false,
            // A full chunk is work enough.
            Writer::Dozes => self.chunks.len() > 1,
            Writer::Sleeps => !self.chunks.is_empty(),
        };
        if wants {
            self.writer = Writer::Works;
        }
        wants
    }

    /// What is in the way.
    fn trouble(&self) -> &str {
        self.trouble.as_deref().unwrap_or("Redis is slow, or does not answer")
    }
}

/// A queue as it is.
pub struct Held<'q>(MutexGuard<'q, State>);

impl Held<'_> {
    /// How many records are in the queue.
    pub fn queued(&self) -> u64 {
        self.0.queued()
    }

    /// How many there were at most.
    pub fn most(&self) -> u64 {
        self.0.most
    }

    /// Whether it takes no more records.
    pub fn is_closing(&self) -> bool {
        self.0.closing.is_some() || self.0.ended.is_some()
    }
}

impl Queue {
    /// For `capacity` records. Takes no memory for them yet.
    pub fn new(capacity: usize) -> Self {
        let state = State {
            chunks: VecDeque::new(),
            spare: Vec::new(),
            accepted: 0,
            settled: 0,
            most: 0,
            last: vec![0; SLOTS].into(),
            writer: Writer::Works,
            stuck_at: None,
            trouble: None,
            losses: None,
            closing: None,
            is_close_awaited: false,
            ended: None,
        };
        Queue {
            capacity,
            hasher: RandomState::new(),
            state: Mutex::new(state),
            work: Condvar::new(),
            progress: Condvar::new(),
        }
    }

    /// Makes the chunks that ids of usual length will need, for a queue of usual size. One that is never used costs little
    /// but addresses.
    pub fn reserve(&self) {
        let mut state = lock(&self.state);
        let wanted = chunk::count_for(self.capacity.min(RESERVED));
        let missing = wanted.saturating_sub(state.spare.len() + state.chunks.len());
        // Where memory does not suffice, chunks are made when needed, or the queue counts as full.
        if state.spare.try_reserve(missing).is_ok() && state.chunks.try_reserve(wanted).is_ok() {
            state.spare.extend((0..missing).map_while(|_| Chunk::new(chunk::SIZE)));
        }
    }

    /// Adds each write, and says in their order what came of it. Where the queue is full it waits, for `timeout` at most in
    /// all; while nothing moves, only the first one to find that out does. Who does not wait at all finds out nothing.
    ///
    /// Whether a write belongs here is asked while nothing can be handed over to another queue; a write that does not has no
    /// result.
    pub fn push(
        &self,
        writes: &[Write<'_>],
        timeout: Duration,
        belongs: impl Fn(&Write<'_>) -> bool,
        mut done: impl FnMut(Option<Result<()>>),
    ) {
        let mut state = lock(&self.state);
        // When it ends, and what was settled when it began.
        let mut wait = None;
        for write in writes {
            let slot = self.slot(write.id);
            state = loop {
                if !belongs(write) {
                    done(None);
                    break state;
                }
                if let Some(result) = self.try_add(&mut state, write, slot) {
                    done(Some(result));
                    break state;
                }
                let (deadline, before) = *wait.get_or_insert_with(|| (Instant::now() + timeout, state.settled));
                self.hurry(&mut state);
                match wait_until(&self.progress, state, deadline) {
                    Some(guard) => state = guard,
                    None => {
                        state = lock(&self.state);
                        if !timeout.is_zero() && state.settled == before {
                            state.stuck_at = Some(before);
                        }
                        done(Some(Err(self.full(&state, write))));
                        break state;
                    }
                }
            };
        }
        let wants_writer = state.wants_writer();
        drop(state);
        if wants_writer {
            self.work.notify_one();
        }
    }

    /// `None` where it is worth waiting for room.
    fn try_add(&self, state: &mut State, write: &Write<'_>, slot: usize) -> Option<Result<()>> {
        let (id, count, capacity) = (write.id, write.records.len(), self.capacity);
        if count > capacity {
            let message = format!("request {id:?}: count is {count}: the queue holds at most {capacity} records");
            return Some(Err(Error::invalid(message)));
        }
        match &state.ended {
            Some(error) if error.kind == Kind::Panic => return Some(Err(error.clone())),
            None if state.closing.is_none() => {}
            _ => return Some(Err(Error::new(Kind::NotOpen, "the pool was closed"))),
        }
        if state.queued() + count as u64 <= capacity as u64 && state.add(write, slot) {
            return Some(Ok(()));
        }
        let is_hopeless = self.is_written_here() || state.stuck_at == Some(state.settled);
        is_hopeless.then(|| Err(self.full(state, write)))
    }

    fn full(&self, state: &State, write: &Write<'_>) -> Error {
        let (id, count, queued, capacity) = (write.id, write.records.len(), state.queued(), self.capacity);
        let full = format!("no room for {count} more, {queued} of {capacity} records are queued");
        Error::new(Kind::QueueFull, format!("request {id:?}: not stored: {full}: {}", state.trouble()))
    }

    fn slot(&self, id: &str) -> usize {
        self.hasher.hash_one(id) as usize % SLOTS
    }

    /// While this is held, nothing is accepted or settled.
    pub fn hold(&self) -> Held<'_> {
        Held(lock(&self.state))
    }

    // --- the writer's side ---

    /// Says that the calling thread is the writer's: it is never made to wait for itself.
    pub fn write_here(&self) {
        WRITES_OUT.set(std::ptr::from_ref(self).addr());
    }

    /// Whether the calling thread is the writer's, in a log callback.
    pub fn is_written_here(&self) -> bool {
        WRITES_OUT.get() == std::ptr::from_ref(self).addr()
    }

    /// Waits until there is something to write. False when the queue is closed and all is written, or no time is left.
    pub fn await_work(&self) -> bool {
        let idle_since = Instant::now();
        let mut state = lock(&self.state);
        while !state.is_over() {
            if !state.chunks.is_empty() {
                return true;
            }
            if state.closing.is_some() {
                return false;
            }
            let dozes = idle_since.elapsed() < LINGER;
            state.writer = if dozes { Writer::Dozes } else { Writer::Sleeps };
            state = match dozes {
                true => self.work.wait_timeout(state, DOZE).unwrap_or_else(PoisonError::into_inner).0,
                false => self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
            state.writer = Writer::Works;
        }
        false
    }

    /// The next records to write; none where there are none.
    pub fn next(&self) -> Vec<Chunk> {
        lock(&self.state).take()
    }

    /// Hands records that wait here over to the queues where `to` says that they belong, behind what is there, and before them
    /// those that were `taken` out; then `publish` tells who pushes. Where `to` names this very queue, they go to its end. Only on
    /// the writer's thread, between two batches. Returns how many are lost because there is no memory.
    pub fn hand_over<'q>(
        &self,
        taken: &[Write<'_>],
        to: impl Fn(&str) -> Option<&'q Queue>,
        publish: impl FnOnce(),
    ) -> u64 {
        let mut state = lock(&self.state);
        let chunks = std::mem::take(&mut state.chunks);
        let entries = || chunks.iter().flat_map(Chunk::entries);
        let targets: Vec<Option<&Queue>> = entries().map(|entry| to(entry.id)).collect();
        let mut lost = 0;
        // First what stays, for some may go behind it.
        for (entry, _) in entries().zip(&targets).filter(|(_, target)| target.is_none()) {
            let records: Vec<Metrics> = entry.records().collect();
            if !state.put(&Write { id: entry.id, placement: entry.placement, records: &records }) {
                state.accepted -= records.len() as u64;
                lost += records.len() as u64;
            }
        }
        let mut move_to = |target: &Queue, write: &Write<'_>| {
            let (count, slot) = (write.records.len() as u64, target.slot(write.id));
            state.accepted -= count;
            let is_here = std::ptr::eq(target, self);
            let is_kept = if is_here { state.add(write, slot) } else { lock(&target.state).add(write, slot) };
            lost += if is_kept { 0 } else { count };
        };
        taken.iter().for_each(|write| to(write.id).into_iter().for_each(|target| move_to(target, write)));
        for (entry, target) in entries().zip(&targets) {
            let Some(target) = target else { continue };
            let records: Vec<Metrics> = entry.records().collect();
            move_to(target, &Write { id: entry.id, placement: entry.placement, records: &records });
        }
        state.spare.extend(chunks.into_iter().filter_map(Chunk::emptied));
        publish();
        drop(state);
        self.progress.notify_all();
        lost
    }

    /// The fate of all records in `chunks` is known, but for those that were handed over, or given up: `unsettled`. `tally` counts
    /// them, so that nobody sees them twice or not at all.
    pub fn settle(&self, chunks: Vec<Chunk>, unsettled: u64, losses: Option<Losses>, tally: impl FnOnce()) {
        let mut state = lock(&self.state);
        tally();
        state.settled += chunks.iter().map(|chunk| chunk.records() as u64).sum::<u64>() - unsettled;
        state.spare.extend(chunks.into_iter().filter_map(Chunk::emptied));
        state.spare.truncate(chunk::count_for(self.capacity));
        if unsettled == 0 {
            state.trouble = None;
        }
        state.losses = state.losses.take().into_iter().chain(losses).reduce(Losses::and);
        drop(state);
        self.progress.notify_all();
    }

    /// Records that were accepted, but never came into the queue.
    pub fn lose(&self, losses: Losses) {
        let mut state = lock(&self.state);
        state.losses = state.losses.take().into_iter().chain([losses]).reduce(Losses::and);
    }

    /// Waits until `until`, or while Redis is away until it is back. False where the writer has to give up.
    pub fn rest(&self, trouble: String, until: Instant, is_away: impl Fn() -> bool) -> bool {
        let mut state = lock(&self.state);
        state.trouble = Some(trouble);
        let mut was_away = false;
        while !state.is_over() {
            let away = is_away();
            let left = if away { LOOK_AGAIN } else { until.saturating_duration_since(Instant::now()) };
            if (was_away && !away) || left.is_zero() {
                return true;
            }
            was_away = away;
            let left =
                state.closing.map_or(left, |closing| left.min(closing.saturating_duration_since(Instant::now())));
            // Nobody comes back unseen: whoever says so takes the lock.
            state = self.work.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        false
    }

    /// The writer writes nothing more, maybe for a reason of its own. Returns how many records are left of which nobody is told.
    pub fn end(&self, reason: Option<Error>) -> u64 {
        let mut state = lock(&self.state);
        let left = if state.is_close_awaited { 0 } else { state.queued() };
        state.ended.get_or_insert_with(|| reason.unwrap_or_else(|| Error::new(Kind::NotOpen, "the pool was closed")));
        drop(state);
        self.nudge();
        left
    }

    /// When the writer has to end, if that is known.
    pub fn closing(&self) -> Option<Instant> {
        lock(&self.state).closing
    }

    /// Has everybody look again: Redis is back, or has gone away.
    pub fn nudge(&self) {
        // Nobody is between looking and waiting then.
        drop(lock(&self.state));
        self.work.notify_all();
        self.progress.notify_all();
    }

    // --- waiting for it ---

    /// Waits until all that was pushed so far is settled, or handed over.
    pub fn await_all(&self, deadline: Instant) -> Result<()> {
        let position = lock(&self.state).accepted;
        self.await_settled(position, deadline, || Ok(()))
    }

    /// What was lost since this was last asked.
    pub fn take_losses(&self) -> Option<Losses> {
        lock(&self.state).losses.take()
    }

    /// Waits until what was pushed of a request is settled, as long as `is_hopeful`.
    pub fn await_request(&self, id: &str, deadline: Instant, is_hopeful: impl Fn() -> Result<()>) -> Result<()> {
        let position = lock(&self.state).last[self.slot(id)];
        self.await_settled(position, deadline, is_hopeful)
    }

    fn await_settled(&self, position: u64, deadline: Instant, is_hopeful: impl Fn() -> Result<()>) -> Result<()> {
        let mut state = lock(&self.state);
        // What is handed over takes up no position here.
        while state.settled < position.min(state.accepted) {
            is_hopeful()?;
            let given_up = |state: &State| {
                let panic = state.ended.as_ref().filter(|error| error.kind == Kind::Panic);
                let left = position.min(state.accepted).saturating_sub(state.settled);
                let are = if left == 1 { "1 record is".into() } else { format!("{left} records are") };
                let message = format!("{are} still in the queue: {}", state.trouble());
                Err(panic.cloned().unwrap_or_else(|| Error::new(Kind::Timeout, message)))
            };
            if state.ended.is_some() || self.is_written_here() {
                return given_up(&state);
            }
            self.hurry(&mut state);
            match wait_until(&self.progress, state, deadline) {
                Some(guard) => state = guard,
                None => return given_up(&lock(&self.state)),
            }
        }
        Ok(())
    }

    /// Has the writer look into the queue now.
    fn hurry(&self, state: &mut MutexGuard<'_, State>) {
        if state.writer != Writer::Works {
            state.writer = Writer::Works;
            self.work.notify_one();
        }
    }

    /// Takes no more records, and writes those there are until `deadline`.
    pub fn begin_close(&self, deadline: Instant) {
        let mut state = lock(&self.state);
        state.closing.get_or_insert(deadline);
        state.is_close_awaited |= !self.is_written_here();
        drop(state);
        self.nudge();
    }

    /// Waits until the records are written that there were when a close began. Fails where some were not, also before.
    pub fn end_close(&self) -> Result<()> {
        let Some(deadline) = self.closing().filter(|_| !self.is_written_here()) else { return Ok(()) };
        let written = self.await_all(deadline);
        self.end(None);
        let mut state = lock(&self.state);
        let losses = state.losses.take().map(Losses::into_error);
        match (written, losses) {
            (Err(Error { kind, message }), losses) if state.queued() > 0 => {
                let why = if kind == Kind::Panic { &message } else { state.trouble() };
                let left = format!("{} given up, and may be stored all the same: {why}", counted(state.queued()));
                Err(Error::new(kind, losses.map_or(left.clone(), |losses| format!("{left}; {losses}"))))
            }
            (_, Some(losses)) => Err(losses),
            (written, None) => written,
        }
    }

    /// Waits for a close under way: until all is written, or given up.
    pub fn await_end(&self) {
        let mut state = lock(&self.state);
        while !self.is_written_here() && state.ended.is_none() && state.queued() > 0 {
            let Some(closing) = state.closing else { return };
            let Some(guard) = wait_until(&self.progress, state, closing) else { return };
            state = guard;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::Placement;
    use std::thread;

    const LONG: Duration = Duration::from_secs(60);

    fn push(queue: &Queue, count: usize, timeout: Duration) -> Result<()> {
        let records = vec![Metrics::default(); count];
        let mut result = Ok(());
        let write = Write { id: "a", placement: Placement::Append, records: &records };
        queue.push(&[write], timeout, |_| true, |it| result = it.unwrap());
        result
    }

    fn is_full(result: &Result<()>) -> bool {
        matches!(result, Err(error) if error.kind == Kind::QueueFull)
    }

    /// Who wants more room than there comes to be is refused alone.
    #[test]
    fn while_something_moves_everybody_waits_for_room() {
        let queue = Queue::new(10);
        push(&queue, 6, LONG).unwrap();
        let chunks = queue.next();
        push(&queue, 4, LONG).unwrap();
        thread::scope(|scope| {
            let greedy = scope.spawn(|| push(&queue, 8, Duration::from_millis(300)));
            thread::sleep(Duration::from_millis(50));
            queue.settle(chunks, 0, None, || {});
            assert!(is_full(&greedy.join().unwrap()));
        });
        push(&queue, 6, LONG).unwrap();
        for waits in [true, false] {
            let start = Instant::now();
            assert!(is_full(&push(&queue, 1, Duration::from_millis(100))));
            assert_eq!(start.elapsed() >= Duration::from_millis(100), waits);
        }
    }

    #[test]
    fn chunks_come_in_order_and_some_at_a_time() {
        let queue = Queue::new(1 << 20);
        for _ in 0..20_000 {
            push(&queue, 1, LONG).unwrap();
        }
        push(&queue, 200_000, LONG).unwrap();
        let (mut seen, mut sizes) = (0, Vec::new());
        while seen < 220_000 {
            let chunks = queue.next();
            sizes.push(chunks.iter().map(Chunk::records).sum::<usize>());
            seen += sizes[sizes.len() - 1];
            queue.settle(chunks, 0, None, || {});
        }
        assert!(sizes[..sizes.len() - 1].iter().all(|size| *size <= BATCH), "{sizes:?}");
        assert_eq!(sizes.last(), Some(&200_000));
        let held = queue.hold();
        assert_eq!((held.queued(), held.most()), (0, 220_000));
    }

    #[test]
    fn a_writer_that_ends_by_a_bug_is_told_to_all() {
        let queue = Queue::new(10);
        push(&queue, 3, LONG).unwrap();
        assert_eq!(queue.end(Some(Error::new(Kind::Panic, "a bug"))), 3);
        assert_eq!(push(&queue, 1, LONG).unwrap_err().kind, Kind::Panic);
        assert_eq!(queue.await_all(Instant::now() + LONG).unwrap_err().kind, Kind::Panic);
        queue.begin_close(Instant::now() + LONG);
        let error = queue.end_close().unwrap_err();
        assert_eq!(
            (error.kind, error.message.as_str()),
            (Kind::Panic, "3 records were given up, and may be stored all the same: a bug")
        );
    }

    fn push_of(queue: &Queue, id: &str, number: f64) {
        let records = [Metrics { log_norm: number, ..Metrics::default() }];
        queue.push(
            &[Write { id, placement: Placement::Append, records: &records }],
            LONG,
            |_| true,
            |it| {
                it.unwrap().unwrap();
            },
        );
    }

    fn shown(queue: &Queue) -> Vec<(String, f64)> {
        let chunks = queue.next();
        let show = |entry: chunk::Entry<'_>| {
            let id = entry.id.to_string();
            entry.records().map(move |record| (id.clone(), record.log_norm)).collect::<Vec<_>>()
        };
        let all = chunks.iter().flat_map(Chunk::entries).flat_map(show).collect();
        queue.settle(chunks, 0, None, || {});
        all
    }

    #[test]
    fn what_is_handed_over_keeps_its_order() {
        let (from, to) = (Queue::new(100), Queue::new(100));
        push_of(&to, "c", 0.0);
        for number in 0..3 {
            push_of(&from, "a", f64::from(number));
            push_of(&from, "b", f64::from(number));
        }
        let lost = from.hand_over(&[], |id| (id == "b").then_some(&to), || {});
        assert_eq!((lost, from.hold().queued(), to.hold().queued()), (0, 3, 4));
        push_of(&to, "b", 3.0);
        let numbered =
            |id: &str, numbers: std::ops::Range<i32>| numbers.map(|n| (id.into(), f64::from(n))).collect::<Vec<_>>();
        assert_eq!(shown(&from), numbered("a", 0..3));
        assert_eq!(shown(&to), [numbered("c", 0..1), numbered("b", 0..4)].concat());
    }

    #[test]
    fn what_was_taken_out_goes_first() {
        let (from, to) = (Queue::new(100), Queue::new(100));
        for number in 0..2 {
            push_of(&from, "a", f64::from(number));
            push_of(&from, "b", f64::from(number));
        }
        let chunks = from.next();
        push_of(&from, "b", 2.0);
        let merged: Vec<Metrics> =
            (0..2).map(|number| Metrics { log_norm: f64::from(number), ..Metrics::default() }).collect();
        let write = Write { id: "b", placement: Placement::Append, records: &merged };
        from.hand_over(&[write], |id| (id == "b").then_some(&to), || {});
        assert_eq!((from.hold().queued(), to.hold().queued()), (2, 3));
        from.settle(chunks, 2, None, || {});
        assert_eq!(from.hold().queued(), 0);
        from.await_all(Instant::now()).unwrap();
        assert_eq!(shown(&to), (0..3).map(|number| ("b".into(), f64::from(number))).collect::<Vec<_>>());
    }

    #[test]
    fn what_goes_to_the_end_of_its_own_queue_is_waited_for_there() {
        let queue = Queue::new(100);
        push_of(&queue, "a", 0.0);
        let chunks = queue.next();
        for id in ["a", "b"] {
            push_of(&queue, id, 1.0);
        }
        let write = Write { id: "a", placement: Placement::Append, records: &[Metrics::default()] };
        queue.hand_over(&[write], |id| (id == "a").then_some(&queue), || {});
        queue.settle(chunks, 1, None, || {});
        assert_eq!(queue.hold().queued(), 3);
        assert!(queue.await_request("a", Instant::now(), || Ok(())).is_err());
        assert_eq!(shown(&queue), [("b".into(), 1.0), ("a".into(), 0.0), ("a".into(), 1.0)]);
        queue.await_request("a", Instant::now(), || Ok(())).unwrap();
    }

    /// Who waits for what was handed over waits here for no more than there is.
    #[test]
    fn who_waits_learns_of_what_was_handed_over() {
        let (from, to) = (Queue::new(4), Queue::new(4));
        (0..4).for_each(|number| push_of(&from, "b", f64::from(number)));
        thread::scope(|scope| {
            let waiting = scope.spawn(|| from.await_all(Instant::now() + LONG));
            // Until there is room.
            let pushing = scope.spawn(|| push(&from, 1, LONG));
            thread::sleep(Duration::from_millis(20));
            from.hand_over(&[], |_| Some(&to), || {});
            pushing.join().unwrap().unwrap();
            assert_eq!(shown(&from).len(), 1);
            waiting.join().unwrap().unwrap();
        });
        assert!(to.await_request("b", Instant::now(), || Ok(())).is_err());
        assert_eq!(shown(&to).len(), 4);
        to.await_request("b", Instant::now(), || Ok(())).unwrap();
    }

    /// Its place may have changed while it waited for room.
    #[test]
    fn a_write_that_belongs_elsewhere_has_no_result() {
        let queue = Queue::new(4);
        let write = Write { id: "a", placement: Placement::Append, records: &[Metrics::default()] };
        let mut results = Vec::new();
        queue.push(&[write, write], LONG, |_| false, |result| results.push(result.is_none()));
        assert_eq!((results, queue.hold().queued()), (vec![true, true], 0));
    }
}
