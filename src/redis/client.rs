//! The process-wide client: its life, and the calls that are safe to repeat.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use redis::Value;

use super::config::Config;
use super::connection::{Exchange, refused};
use super::pipeline::Pipeline;
use super::pool::Pool;
use super::stats::{Snapshot, Stats};
use super::take::DoubtfulClaims;
use super::ttl::Renewals;
use crate::error::{Error, Kind, Result};
use crate::log::{self, Level};

/// A pool of connections and all that is known of it.
pub struct Client {
    pub(super) pool: Pool,
    pub(super) stats: Stats,
    /// `None` where lists live for ever.
    pub(super) renewals: Option<Renewals>,
    pub(super) claims: Arc<DoubtfulClaims>,
    /// The process that made it. A forked child makes its own.
    pid: u32,
}

static CURRENT: ArcSwapOption<Client> = ArcSwapOption::const_empty();

/// Opens the process's pool; connects to nothing yet. Once more with equal settings is fine, with others an error.
pub fn open(config: Config) -> Result<()> {
    loop {
        if let Some(client) = find() {
            if *client.pool.config() == config {
                return Ok(());
            }
            let (open, differing) = (client.pool.config(), client.pool.config().differences(&config));
            return Err(Error::config(format!("already open as {open}, with another {differing}; close it first")));
        }
        let client = Arc::new(Client::new(config.clone()));
        if CURRENT.compare_and_swap(&None::<Arc<Client>>, Some(client)).is_none() {
            log::emit(Level::Info, || format!("open: {config}, at most {} connections", config.pool_size));
            return Ok(());
        }
    }
}

/// The open client.
pub fn current() -> Result<Arc<Client>> {
    find().ok_or_else(|| Error::new(Kind::NotOpen, "the pool is not open, or was closed: call pita_redis_open first"))
}

/// Closes the pool. Calls under way end as they would have; closing twice is fine.
pub fn close() {
    let _ = find();
    CURRENT.store(None);
}

/// The open client, if any. In a forked child it is one of the child's own, with the parent's settings.
fn find() -> Option<Arc<Client>> {
    let client = CURRENT.load_full()?;
    if client.pid == std::process::id() {
        return Some(client);
    }
    let own = Arc::new(Client::new(client.pool.config().clone()));
    drop(CURRENT.compare_and_swap(&client, Some(own)));
    // The parent's is left as it is, for ever: another thread may have held its locks at the fork.
    std::mem::forget(client);
    find()
}

impl Client {
    fn new(config: Config) -> Self {
        let renewals = config.ttl.map(Renewals::new);
        Client {
            pool: Pool::new(config),
            stats: Stats::default(),
            renewals,
            claims: DoubtfulClaims::of_this_process(),
            pid: std::process::id(),
        }
    }

    /// When a call that starts now has to end.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.pool.config().timeout
    }

    /// The Redis key of a request id.
    pub(super) fn key(&self, id: &str) -> String {
        format!("{}{id}", self.pool.config().prefix)
    }

    /// A reading of the counters.
    pub fn stats(&self) -> Snapshot {
        self.stats.snapshot(self.pool.connected.load(Relaxed))
    }

    /// Whether Redis answers.
    pub fn ping(&self) -> Result<()> {
        self.ask(&Pipeline::of(&redis::cmd("PING")), self.deadline()).map(drop)
    }

    /// One round trip over some connection. Fails only where there is none; the exchange tells of all else.
    pub(super) fn exchange(&self, pipeline: &Pipeline, deadline: Instant) -> Result<Exchange> {
        let mut connection = self.pool.lend(deadline).inspect_err(|error| {
            log::emit(Level::Warning, || error.message.clone());
        })?;
        let start = Instant::now();
        let exchange = connection.exchange(&pipeline.packed, pipeline.len(), deadline);
        self.stats.round_trips.record(start.elapsed());
        self.stats.bytes_sent.fetch_add(exchange.sent as u64, Relaxed);
        self.stats.bytes_received.fetch_add(exchange.received as u64, Relaxed);
        let is_new = connection.is_new;
        // Given back before anything is logged: whoever listens may call the library.
        drop(connection);
        if is_new {
            log::emit(Level::Debug, || format!("connected to {}", self.pool.config()));
        }
        if let Some(error) = &exchange.failure {
            log::emit(Level::Warning, || format!("{}: {error}", self.pool.config()));
        }
        Ok(exchange)
    }

    /// The replies to commands that do no harm when they are executed twice: repeated over new connections until all
    /// are answered, no connection can be made, or `deadline`.
    pub(super) fn ask_each(&self, pipeline: &Pipeline, deadline: Instant) -> Result<Vec<Value>, Lost> {
        let mut was_sent = false;
        for attempt in 0.. {
            let exchange = self.exchange(pipeline, deadline).map_err(|error| Lost { error, was_sent })?;
            was_sent |= exchange.sent > 0;
            match exchange.failure {
                None => return Ok(exchange.replies),
                Some(error) if error.kind == Kind::Timeout || !pause(attempt, deadline) => {
                    return Err(Lost { error, was_sent });
                }
                Some(_) => {}
            }
        }
        unreachable!("attempts are not counted out")
    }

    /// As [`Self::ask_each`], for commands of which none may be refused.
    pub(super) fn ask(&self, pipeline: &Pipeline, deadline: Instant) -> Result<Vec<Value>> {
        let replies = self.ask_each(pipeline, deadline).map_err(|lost| lost.error)?;
        match first_refusal(&replies) {
            Some(error) => Err(error),
            None => Ok(replies),
        }
    }
}

/// The first error among replies.
pub fn first_refusal(replies: &[Value]) -> Option<Error> {
    replies.iter().find_map(|reply| if let Value::ServerError(error) = reply { Some(refused(error)) } else { None })
}

/// Why there was no answer, and whether Redis may have executed the commands all the same.
pub struct Lost {
    pub error: Error,
    pub was_sent: bool,
}

/// Waits a little longer after each failed attempt. False where `deadline` has come.
pub fn pause(attempt: u32, deadline: Instant) -> bool {
    let left = deadline.saturating_duration_since(Instant::now());
    thread::sleep(Duration::from_millis(1 << attempt.min(6)).min(left));
    Instant::now() < deadline
}

/// An answer that no Redis gives.
pub fn unexpected(reply: &Value) -> Error {
    // It may be long.
    let text: String = format!("{reply:?}").chars().take(200).collect();
    Error::new(Kind::Redis, format!("unexpected answer from Redis: {text}"))
}
