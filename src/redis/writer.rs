//! Write-behind: a thread that stores what was queued, in its order, however long Redis is away.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::chunk::Chunk;
use super::client::Client;
use super::merge::Merged;
use super::pool::Pool;
use super::queue::{Losses, Queue};
use super::socket::Patience;
use super::store::{Placement, Write};
use super::task::Task;
use crate::error::{Error, Kind, Result};
use crate::log::{self, Level, Limit};
use crate::panics;
use crate::process::with_signals_blocked;
use crate::sync::lock;

/// So long nothing may move in a round trip of the writer's: within these bounds, as long as a call has time. Nobody waits
/// for it, an append whose answer comes too late is lost, and a connection that is dead must not hold it for long.
const STALL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// So long a round trip may take in all, however slow the network.
const LONGEST: Duration = Duration::from_secs(60);
/// Between attempts where Redis is there, but takes nothing: from the first to the last, each so many times the one before.
const RESTS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(1));
const REST_GROWTH: u32 = 4;

/// The queue, and who empties it.
pub struct Writer {
    pub queue: Queue,
    /// Of one connection, which is the thread's alone.
    pub pool: Pool,
    is_started: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    /// One that writes where `pool` does. The thread starts when there is something to write.
    pub fn new(pool: &Pool) -> Self {
        let (queue, pool) = (Queue::new(pool.config().queue), pool.anew(1));
        Writer { queue, pool, is_started: AtomicBool::new(false), thread: Mutex::default() }
    }

    /// Queues each write; one result each. Blocks only while the queue is full, for `timeout` at most.
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
        match self.start(client) {
            Ok(()) => self.queue.push(writes, timeout, note),
            Err(error) => {
                let error = Error::new(Kind::Unavailable, format!("no thread can be started for writing: {error}"));
                writes.iter().map(|_| Err(error.clone())).for_each(note);
            }
        }
        // Now that no lock is held: whoever listens may call the library. Who does not wait tries again.
        if let (Some(message), false) = (refusal, timeout.is_zero()) {
            log::emit_limited(&FULL, Level::Warning, || message);
        }
    }

    fn start(&self, client: &Client) -> io::Result<()> {
        if self.is_started.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut thread = lock(&self.thread);
        // Another thread may have started it; and a client that is about to go has nothing to write.
        let (None, Some(client)) = (&*thread, client.arc()) else { return Ok(()) };
        self.queue.reserve();
        let run = move || client.write_out();
        let started = with_signals_blocked(|| thread::Builder::new().name("pita-writer".into()).spawn(run));
        *thread = Some(started?);
        self.is_started.store(true, Ordering::Release);
        Ok(())
    }

    /// Takes no more records, and waits until those there are written, at most until `deadline`. The thread ends; where it is
    /// in the middle of a round trip, a moment later.
    pub fn close(&self, deadline: Instant) -> Result<()> {
        let result = self.queue.close(deadline);
        let is_written = self.queue.observe(|queued, _| queued == 0);
        // Other losses were logged when they happened.
        if let (Err(error), false) = (&result, is_written) {
            log::emit(Level::Error, || error.message.clone());
        }
        // All is written: the thread does nothing more, unless it is this one.
        if is_written && !self.queue.is_written_here() {
            let thread = lock(&self.thread).take();
            let _ = thread.map(JoinHandle::join);
        }
        result
    }
}

impl Client {
    /// What the thread does.
    fn write_out(self: Arc<Self>) {
        let Some(writer) = &self.writer else { return };
        writer.queue.write_here();
        let result =
            panics::contain(|| while writer.queue.next().is_some_and(|chunks| self.deliver(writer, chunks)) {});
        // In a child that goes on from a log callback, the locks may be held.
        if !self.is_this_process() {
            return;
        }
        let (panic, left) = (result.is_err(), writer.queue.end(result.err()));
        if !panic && left > 0 {
            let line = || format!("{left} queued records were given up: no time was left after the close");
            log::emit(Level::Error, line);
        }
    }

    /// Stores all of `chunks`, or finds out that it cannot be stored. False where there is no time left for that.
    fn deliver(&self, writer: &Writer, chunks: Vec<Chunk>) -> bool {
        let merged = Merged::of(chunks.iter().flat_map(Chunk::entries));
        let mut fates = Vec::new();
        for turn in 0..merged.turns() {
            let (mut tasks, accepted): (Vec<Task<'_>>, Vec<u64>) =
                merged.writes(turn).map(|(write, accepted)| (Task::new(write, self), accepted)).unzip();
            if !self.persist(writer, &mut tasks) {
                return false;
            }
            fates.extend(tasks.into_iter().zip(accepted).map(|(task, accepted)| Fate::of(task, accepted)));
        }
        // A log callback may have forked.
        if !self.is_this_process() {
            return false;
        }
        let losses = fates.iter().filter_map(Fate::loss).reduce(Losses::and);
        drop(merged);
        writer.queue.settle(chunks, losses, || {
            fates.iter().for_each(|fate| self.stats.count(fate.placement, fate.accepted, &fate.result));
        });
        true
    }

    /// Attempts to store tasks, each of another list, until all are done. False where there is no time left for that.
    fn persist(&self, writer: &Writer, tasks: &mut [Task<'_>]) -> bool {
        let (mut rest, mut stall) = (RESTS.0, self.pool.config().timeout.clamp(STALL.0, STALL.1));
        let mut not_ready_since = None;
        while !tasks.iter().all(Task::is_done) {
            // What a take of this process left in doubt belongs before what is stored now.
            self.settle_claims(self.deadline());
            let deadline = Instant::now() + LONGEST;
            let deadline = writer.queue.closing().map_or(deadline, |closing| closing.min(deadline));
            let failure = self.attempt(&writer.pool, tasks, Patience { deadline, stall }).err();
            let not_ready = tasks.iter_mut().filter_map(Task::retry_when_ready).last();
            if let Some(error) = &not_ready {
                not_ready_since.get_or_insert_with(Instant::now);
                self.note_not_ready(writer, error, rest);
            }
            let Some(error) = failure.map(|failure| failure.error).or(not_ready) else { continue };
            let trouble = self.breaker.cause().unwrap_or_else(|| error.message.clone());
            let is_away = || self.breaker.check().is_err();
            if !self.is_this_process() || !writer.queue.rest(trouble, Instant::now() + rest, is_away) {
                return false;
            }
            tasks.iter_mut().for_each(|task| task.was_delayed(self));
            rest = (rest * REST_GROWTH).min(RESTS.1);
            if error.kind == Kind::Timeout {
                // It may be that much work.
                stall = (stall * 2).min(LONGEST);
            }
        }
        if let Some(since) = not_ready_since {
            log::emit(Level::Info, || {
                format!("{} takes records again after {:.1?}", self.pool.config(), since.elapsed())
            });
        }
        true
    }

    /// Redis is there, and refuses for now.
    fn note_not_ready(&self, writer: &Writer, error: &Error, rest: Duration) {
        static NOT_READY: Limit = Limit::new();
        log::emit_limited(&NOT_READY, Level::Warning, || format!("{}: {error}; trying on", self.pool.config()));
        if rest == RESTS.1 {
            // The address may lead to another server by now.
            writer.pool.forget();
        }
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
