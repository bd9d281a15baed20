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
use super::store::{Placement, Write};
use super::task::{self, Task};
use crate::error::{Error, Kind, Result};
use crate::log::{self, Level, Limit};
use crate::process::with_signals_blocked;
use crate::sync::lock;

/// A round trip of the writer's may take so long even where calls have less time: nobody waits for it, and an append whose
/// answer comes too late is lost.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between attempts where Redis is there, but takes nothing: from the first to the last.
const RESTS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(1));

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

    /// Queues each write; one result each. Blocks only while the queue is full.
    pub fn push(&self, client: &Client, writes: &[Write<'_>], mut done: impl FnMut(Result<()>)) {
        match self.start(client) {
            Ok(()) => self.queue.push(writes, client.pool.config().timeout, done),
            Err(error) => {
                let error = Error::new(Kind::Unavailable, format!("no thread can be started for writing: {error}"));
                writes.iter().for_each(|_| done(Err(error.clone())));
            }
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
        if let Err(error) = &result {
            log::emit(Level::Error, || error.message.clone());
        }
        // All is written: the thread does nothing more, unless it is this one.
        if self.queue.observe(|queued, _| queued == 0) && !self.queue.is_written_here() {
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
        while let Some(chunks) = writer.queue.next() {
            if !self.deliver(writer, chunks) {
                return;
            }
        }
    }

    /// Stores all of `chunks`, or finds out that it cannot be stored. False where nobody waits for that any more.
    fn deliver(&self, writer: &Writer, chunks: Vec<Chunk>) -> bool {
        let merged = Merged::of(chunks.iter().flat_map(Chunk::entries));
        let (mut tasks, accepted): (Vec<Task<'_>>, Vec<u64>) =
            merged.writes().map(|(write, accepted)| (Task::new(write, self), accepted)).unzip();
        task::keep_order(&mut tasks);
        let mut rest = RESTS.0;
        while !tasks.iter().all(Task::is_done) {
            let deadline = Instant::now() + self.pool.config().timeout.max(PATIENCE);
            let deadline = writer.queue.closing().map_or(deadline, |closing| closing.min(deadline));
            self.settle_claims(deadline);
            let failure = self.attempt(&writer.pool, &mut tasks, deadline).err().map(|failure| failure.error);
            let not_ready = tasks.iter_mut().filter_map(Task::retry_when_ready).last();
            if let Some(error) = failure.or(not_ready) {
                let is_away = || self.breaker.check().is_err();
                if !self.is_this_process() || !writer.queue.rest(&error, Instant::now() + rest, is_away) {
                    return false;
                }
                rest = (rest * 2).min(RESTS.1);
            }
        }
        let fates: Vec<Fate> =
            tasks.into_iter().zip(accepted).map(|(task, accepted)| Fate::of(task, accepted)).collect();
        let losses = fates.iter().filter_map(Fate::loss).reduce(Losses::and);
        drop(merged);
        writer.queue.settle(chunks, losses, || {
            fates.iter().for_each(|fate| self.stats.count(fate.placement, fate.accepted, &fate.result));
        });
        true
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
        static LOST: Limit = Limit::new();
        let placement = task.write().placement;
        let result = task.result();
        if let Err(error) = &result {
            log::emit_limited(&LOST, Level::Error, || error.message.clone());
        }
        Fate { placement, accepted, result }
    }

    fn loss(&self) -> Option<Losses> {
        let first = self.result.as_ref().err()?.clone();
        Some(Losses { records: self.accepted, first })
    }
}
