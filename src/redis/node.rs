//! One server, as this process talks to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use super::breaker::Breaker;
use super::config::Config;
use super::connection::Means;
use super::pool::{Counts, Pool};
use super::sentinel::Watch;

/// A server, or wherever the sentinels say that it is.
pub struct Node {
    /// Its own. Who wants connections to several nodes at once asks for them in this order, so that no two wait for each other.
    pub number: u64,
    calls: Pool,
    writes: Pool,
    pub breaker: Breaker,
    /// What the sentinels say, where there are some.
    pub watch: Watch,
    /// Whether it has said that the cluster is down: it may be cut off from the others.
    pub is_suspect: AtomicBool,
}

/// Who wants a connection.
#[derive(Clone, Copy)]
pub enum Line {
    /// A caller.
    Calls,
    /// The thread that writes behind, for which one connection is kept.
    Writes,
}

impl Node {
    pub fn new(means: &Means, counts: &Arc<Counts>) -> Arc<Self> {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        Arc::new(Node {
            number: NUMBERS.fetch_add(1, Relaxed),
            calls: Pool::new(means.clone(), means.config.pool_size, counts.clone()),
            writes: Pool::new(means.clone(), 1, counts.clone()),
            breaker: Breaker::default(),
            watch: Watch::new(),
            is_suspect: AtomicBool::new(false),
        })
    }

    /// Its address, and all settings.
    pub fn config(&self) -> &Config {
        self.calls.config()
    }

    pub fn pool(&self, line: Line) -> &Pool {
        match line {
            Line::Calls => &self.calls,
            Line::Writes => &self.writes,
        }
    }

    /// Drops all connections, see [`Pool::forget`].
    pub fn forget(&self) {
        self.calls.forget();
        self.writes.forget();
    }

    /// Whether there is any connection.
    pub fn is_connected(&self) -> bool {
        !self.calls.is_empty() || !self.writes.is_empty()
    }
}
