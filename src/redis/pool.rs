//! Connections of this process: at most `pool_size`, made when needed, kept while they work.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use super::config::Config;
use super::connection::{Connection, Means, Refusal};
use crate::error::{Error, Kind, Result};
use crate::sync::{lock, wait_until};

/// A bounded set of connections with equal settings.
pub struct Pool {
    means: Means,
    /// Connections at most.
    size: usize,
    state: Mutex<State>,
    freed: Condvar,
    counts: Arc<Counts>,
}

/// Of all pools of a client.
#[derive(Default)]
pub struct Counts {
    /// Connections made.
    pub connected: AtomicU64,
    /// Of these, those in the place of one that was lost.
    pub reconnected: AtomicU64,
}

struct State {
    idle: Vec<Connection>,
    /// Idle ones, lent ones, and those being made.
    open: usize,
    /// Connections lost, and not made anew so far.
    lost: usize,
    /// Grows each time that the connections there are become worthless.
    generation: u64,
}

/// A connection on loan. Dropping it gives it back, or gives up its place when it is of no more use.
pub struct Lease<'a> {
    pool: &'a Pool,
    connection: Option<Connection>,
    /// The pool's when it was lent.
    generation: u64,
    /// Whether the connection was made for this loan.
    pub is_new: bool,
}

impl Pool {
    /// An empty one, for `size` connections.
    pub fn new(means: Means, size: usize, counts: Arc<Counts>) -> Self {
        let state = Mutex::new(State { idle: Vec::new(), open: 0, lost: 0, generation: 0 });
        Pool { means, size, state, freed: Condvar::new(), counts }
    }

    pub fn config(&self) -> &Config {
        &self.means.config
    }

    /// Lends a connection: an idle one that still lives, a new one, or the next that is given back before `deadline`. `None`
    /// where that has to be waited for, and `may_wait` forbids it. [`Refusal::Forgotten`] as by [`Self::forget`].
    pub fn lend(&self, deadline: Instant, may_wait: bool) -> Result<Option<Lease<'_>>, Refusal> {
        let found = self.idle_or_place(deadline, may_wait)?;
        let Some((connection, generation)) = found else { return Ok(None) };
        let mut lease = Lease { pool: self, connection, generation, is_new: false };
        if lease.connection.is_none() {
            // If this fails, dropping the lease gives up the place.
            lease.connection = Some(self.connect(deadline)?);
            lease.is_new = true;
        }
        Ok(Some(lease))
    }

    /// Drops the idle connections, and those on loan when they are given back. Who waits for one does so in vain.
    pub fn forget(&self) {
        let mut state = lock(&self.state);
        state.generation += 1;
        state.open -= state.idle.len();
        state.lost += state.idle.len();
        let idle = std::mem::take(&mut state.idle);
        drop(state);
        drop(idle);
        self.freed.notify_all();
    }

    /// Whether there is a connection that nobody uses.
    pub fn has_idle(&self) -> bool {
        !lock(&self.state).idle.is_empty()
    }

    /// Whether there is no connection at all, not even one that is being made.
    pub fn is_empty(&self) -> bool {
        lock(&self.state).open == 0
    }

    /// Whether a connection can be made. It is kept where there is room for it.
    pub fn probe(&self, deadline: Instant) -> Result<(), Refusal> {
        let connection = self.connect(deadline)?;
        let mut state = lock(&self.state);
        if state.open < self.size {
            state.open += 1;
            state.idle.push(connection);
        }
        Ok(())
    }

    fn connect(&self, deadline: Instant) -> Result<Connection, Refusal> {
        let start = Instant::now();
        let connection = Connection::open(&self.means, deadline).map_err(|refusal| {
            // Cut short by a call that had little time left, which says nothing of the server.
            let is_cut_short = Instant::now() >= deadline && start.elapsed() < self.config().timeout / 2;
            if !is_cut_short || start.elapsed() >= self.config().connect_timeout {
                return refusal;
            }
            let Error { message, .. } = refusal.into();
            Refusal::Other(Error::new(Kind::Timeout, message))
        })?;
        self.counts.connected.fetch_add(1, Relaxed);
        let mut state = lock(&self.state);
        if state.lost > 0 {
            state.lost -= 1;
            self.counts.reconnected.fetch_add(1, Relaxed);
        }
        drop(state);
        Ok(connection)
    }

    /// An idle connection, or `None` and a place for a new one; and the pool's generation. As [`Self::lend`].
    #[allow(clippy::type_complexity)] // Whose parts are said above.
    fn idle_or_place(&self, deadline: Instant, may_wait: bool) -> Result<Option<(Option<Connection>, u64)>, Refusal> {
        let mut state = lock(&self.state);
        let generation = state.generation;
        loop {
            while let Some(connection) = state.idle.pop() {
                if !connection.is_dead() {
                    return Ok(Some((Some(connection), generation)));
                }
                state.open -= 1;
                state.lost += 1;
            }
            if state.open < self.size {
                state.open += 1;
                return Ok(Some((None, generation)));
            }
            if !may_wait {
                return Ok(None);
            }
            let open = state.open;
            state = wait_until(&self.freed, state, deadline).ok_or_else(|| {
                let message = format!("all {open} connections were in use for {:?}", self.config().timeout);
                Refusal::Other(Error::new(Kind::Timeout, message))
            })?;
            if state.generation != generation {
                return Err(Refusal::Forgotten);
            }
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.pool.state);
        let connection = self.connection.take();
        match connection {
            Some(connection) if !connection.is_broken() && self.generation == state.generation => {
                state.idle.push(connection);
                drop(state);
            }
            worthless => {
                state.open -= 1;
                state.lost += usize::from(worthless.is_some());
                drop(state);
                drop(worthless);
            }
        }
        self.pool.freed.notify_one();
    }
}

impl Deref for Lease<'_> {
    type Target = Connection;
    fn deref(&self) -> &Connection {
        self.connection.as_ref().expect("a lease that was handed out holds a connection")
    }
}

impl DerefMut for Lease<'_> {
    fn deref_mut(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("a lease that was handed out holds a connection")
    }
}
