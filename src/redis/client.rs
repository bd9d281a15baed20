//! The process-wide client: its life, and the calls that are safe to repeat.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use redis::Value;

use super::config::Config;
use super::connection::{Exchange, refused};
use super::pipeline::Pipeline;
use super::pool::Pool;
use super::stats::{Snapshot, Stats};
use super::ttl::Renewals;
use crate::error::{Error, Kind, Result};
use crate::log::{self, Level};

/// A pool of connections and all that is known of it.
pub struct Client {
    pub(super) pool: Pool,
    pub(super) stats: Stats,
    /// `None` where lists live for ever.
    pub(super) renewals: Option<Renewals>,
}

static CURRENT: RwLock<Option<Arc<Client>>> = RwLock::new(None);

/// Opens the process's pool; connects to nothing yet. Once more with equal settings is fine, with others an error.
pub fn open(config: Config) -> Result<()> {
    {
        let mut current = CURRENT.write();
        match &*current {
            None => *current = Some(Arc::new(Client::new(config.clone()))),
            Some(client) if *client.pool.config() == config => return Ok(()),
            Some(client) => {
                return Err(Error::config(format!(
                    "already open as {} with other settings than those asked for ({config}); close it first",
                    client.pool.config()
                )));
            }
        }
    }
    // Not under the lock: whoever listens may call the library.
    log::emit(Level::Info, || format!("open: {config}, at most {} connections", config.pool_size));
    Ok(())
}

/// The open client.
pub fn current() -> Result<Arc<Client>> {
    let client = CURRENT.read().clone();
    client.ok_or_else(|| Error::new(Kind::NotOpen, "call pita_redis_open first"))
}

/// Closes the pool. Calls under way end as they would have; closing twice is fine.
pub fn close() {
    // Dropped outside the lock.
    let client = CURRENT.write().take();
    drop(client);
}

impl Client {
    fn new(config: Config) -> Self {
        let renewals = config.ttl.map(Renewals::new);
        Client { pool: Pool::new(config), stats: Stats::default(), renewals }
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
        let mut connection = self.pool.lend(deadline)?;
        let start = Instant::now();
        let exchange = connection.exchange(&pipeline.packed, pipeline.len(), deadline);
        self.stats.round_trips.record(start.elapsed());
        self.stats.bytes_sent.fetch_add(exchange.sent as u64, Relaxed);
        self.stats.bytes_received.fetch_add(exchange.received as u64, Relaxed);
        if let Some(error) = &exchange.failure {
            log::emit(Level::Warning, || format!("{}: {error}", self.pool.config()));
        }
        Ok(exchange)
    }

    /// The replies to commands that do no harm when they are executed twice: repeated over new connections until all
    /// are answered, no connection can be made, or `deadline`.
    pub(super) fn ask_each(&self, pipeline: &Pipeline, deadline: Instant) -> Result<Vec<Value>> {
        for attempt in 0.. {
            let exchange = self.exchange(pipeline, deadline)?;
            match exchange.failure {
                None => return Ok(exchange.replies),
                Some(error) if error.kind == Kind::Timeout || !pause(attempt, deadline) => return Err(error),
                Some(_) => {}
            }
        }
        unreachable!("attempts are not counted out")
    }

    /// As [`Self::ask_each`], for commands of which none may be refused.
    pub(super) fn ask(&self, pipeline: &Pipeline, deadline: Instant) -> Result<Vec<Value>> {
        let replies = self.ask_each(pipeline, deadline)?;
        for reply in &replies {
            if let Value::ServerError(error) = reply {
                return Err(refused(error));
            }
        }
        Ok(replies)
    }
}

/// Waits a little longer after each failed attempt. False where `deadline` has come.
pub fn pause(attempt: u32, deadline: Instant) -> bool {
    let left = deadline.saturating_duration_since(Instant::now());
    thread::sleep(Duration::from_millis(1 << attempt.min(6)).min(left));
    Instant::now() < deadline
}

/// An answer that no Redis gives.
pub fn unexpected(reply: &Value) -> Error {
    Error::new(Kind::Redis, format!("unexpected answer from Redis: {reply:?}"))
}
