//! Storing: appends at most once, indexed records exactly once, a batch in one round trip.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use redis::{Cmd, Value};

use super::client::{Client, unexpected};
use super::connection::refused;
use super::pipeline::Pipeline;
use super::pool::Pool;
use super::queue::Losses;
use super::socket::Patience;
use super::task::{self, Call, Task};
use crate::error::{Error, Kind, Result};
use crate::log::{self, Level, Limit};
use crate::metrics::Metrics;

/// Where records go in their list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Behind the last one, whatever its index.
    Append,
    /// The first one at this index, the others behind it. What is there already is replaced.
    At(u64),
}

/// Records of one request.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// The request's id.
    pub id: &'a str,
    /// Where they go.
    pub placement: Placement,
    /// At least one.
    pub records: &'a [Metrics],
}

/// What went wrong with a round trip.
pub struct Failure {
    pub error: Error,
    /// Whether there was a connection at all.
    pub connected: bool,
    /// Whether all was stored, but not on the replicas that should have it.
    pub lacks_replicas: bool,
}

impl Client {
    /// Stores each write, all in one round trip, or queues them for the writer; one result each. Blocks until the pool's
    /// timeout at most.
    ///
    /// An append whose answer is lost is [`Kind::Uncertain`] at once. An indexed write is sent again until its outcome
    /// is known: doing it twice is doing it once.
    pub fn store(&self, writes: &[Write<'_>]) -> Vec<Result<()>> {
        let mut results = Vec::with_capacity(writes.len());
        self.store_each(writes, |result| results.push(result));
        results
    }

    /// As [`Self::store`], for one.
    pub fn store_one(&self, write: Write<'_>) -> Result<()> {
        let mut only = Ok(());
        self.store_each(&[write], |result| only = result);
        only
    }

    /// Queues each write for which there is room, without waiting for any; one result each. Only with a writer.
    pub fn queue_now(&self, writes: &[Write<'_>]) -> Vec<Result<()>> {
        let mut results = Vec::with_capacity(writes.len());
        if let Some(writer) = &self.writer {
            writer.push(self, writes, Duration::ZERO, |result| results.push(result));
        }
        results
    }

    /// Records that were accepted will never be stored: the next flush fails for that, and they count as refused.
    pub fn give_up(&self, records: u64, first: Error) {
        self.stats.refused.fetch_add(records, Relaxed);
        if let Some(writer) = &self.writer {
            writer.queue.lose(Losses { records, first });
        }
    }

    fn store_each(&self, writes: &[Write<'_>], done: impl FnMut(Result<()>)) {
        let start = Instant::now();
        match &self.writer {
            None => self.store_now(writes).into_iter().for_each(done),
            Some(writer) => writer.push(self, writes, self.pool.config().timeout, done),
        }
        self.stats.store_calls.record(start.elapsed());
    }

    fn store_now(&self, writes: &[Write<'_>]) -> Vec<Result<()>> {
        let deadline = self.deadline();
        let mut tasks: Vec<Task<'_>> = writes.iter().map(|write| Task::new(*write, self)).collect();
        task::keep_order(&mut tasks);
        // What a take of this process left in doubt belongs before what is stored now.
        self.settle_claims(deadline);
        // Time runs out when replicas lack, and says less.
        let mut lack = None;
        for attempt in 0.. {
            if tasks.iter().all(Task::is_done) {
                break;
            }
            let Err(failure) = self.attempt(&self.pool, &mut tasks, deadline.into()) else { continue };
            if failure.lacks_replicas {
                lack = Some(failure.error.clone());
            }
            // Without a server, only what is in doubt is worth waiting for.
            let is_worth_it = failure.connected || tasks.iter().any(|task| task.in_doubt() && !task.is_done());
            if failure.error.kind == Kind::Timeout || !is_worth_it || !self.pause(attempt, deadline) {
                let cause = lack.as_ref().unwrap_or(&failure.error);
                tasks.iter_mut().filter(|task| !task.is_done()).for_each(|task| task.fail(cause));
            }
        }
        tasks.into_iter().map(|task| self.tally(task)).collect()
    }

    /// One round trip over a connection of `pool` for all tasks that are not done.
    pub(super) fn attempt(&self, pool: &Pool, tasks: &mut [Task<'_>], patience: Patience) -> Result<(), Failure> {
        let ttl_ms = self.pool.config().ttl.map_or(0, |ttl| ttl.as_millis() as u64);
        let mut pending: Vec<&mut Task<'_>> = tasks.iter_mut().filter(|task| !task.is_done()).collect();
        // Those that may share a call side by side. Nothing is overtaken: `keep_order` leaves each key one such task, and the
        // writer has one task a key at a time.
        pending.sort_by_key(|task| task.rank());
        let mut calls = task::calls(&mut pending);
        let wait = self.wait_for_replicas(patience);
        let pack = |too_late| {
            let mut pipeline = Pipeline::new();
            calls.iter().for_each(|call| pipeline.push(&call.command(ttl_ms, too_late)));
            wait.iter().for_each(|wait| pipeline.push(wait));
            pipeline
        };
        let exchanged = self.exchange(pool, pack, patience);
        let (pipeline, exchange) =
            exchanged.map_err(|error| Failure { error, connected: false, lacks_replicas: false })?;
        self.stats.retried.fetch_add(calls.iter_mut().map(Call::sent).sum(), Relaxed);
        for (call, reply) in calls.iter_mut().zip(&exchange.replies) {
            call.settle(reply, self);
        }
        if let Some(error) = exchange.failure {
            for (i, call) in calls.iter_mut().enumerate().skip(exchange.replies.len()) {
                if pipeline.was_sent(i, exchange.sent) {
                    call.lost(&error);
                }
            }
            // Whether they are on the replicas is not known.
            calls.iter_mut().filter(|_| wait.is_some()).for_each(|call| call.is_not_replicated(&error));
            return Err(Failure { error, connected: true, lacks_replicas: false });
        }
        match exchange.replies.last().filter(|_| wait.is_some()).and_then(|reply| self.shortage(reply)) {
            None => Ok(()),
            Some(error) => {
                calls.iter_mut().for_each(|call| call.is_not_replicated(&error));
                Err(Failure { error, connected: true, lacks_replicas: true })
            }
        }
    }

    /// What waits until the replicas have what was sent before, if they have to.
    fn wait_for_replicas(&self, patience: Patience) -> Option<Cmd> {
        let config = self.pool.config();
        let left = patience.deadline.saturating_duration_since(Instant::now()).min(patience.stall).min(config.timeout);
        // Time is left for the answer.
        let wait =
            |left: Duration| redis::cmd("WAIT").arg(config.wait_replicas).arg(left.as_millis().max(1) as u64).take();
        (config.wait_replicas > 0).then(|| wait(left / 2))
    }

    /// Why the answer to WAIT is not enough, if so.
    fn shortage(&self, reply: &Value) -> Option<Error> {
        let wanted = self.pool.config().wait_replicas;
        match reply {
            Value::Int(count) if *count >= i64::from(wanted) => None,
            Value::Int(count) => {
                let message = format!("{count} of wait_replicas={wanted} replicas have it in time");
                Some(Error::new(Kind::Unavailable, message))
            }
            Value::ServerError(error) => Some(refused(error).of(format_args!("wait_replicas={wanted}"))),
            other => Some(unexpected(other)),
        }
    }

    fn tally(&self, task: Task<'_>) -> Result<()> {
        static REFUSALS: Limit = Limit::new();
        let (is_news, Write { placement, records, .. }) = (task.is_news(), *task.write());
        let result = task.result();
        if let (true, Err(error)) = (is_news, &result) {
            log::emit_limited(&REFUSALS, Level::Warning, || error.message.clone());
        }
        self.stats.count(placement, records.len() as u64, &result);
        result
    }
}
