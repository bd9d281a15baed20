//! Connections of this process: at most `pool_size`, made when needed, kept while they work.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::config::Config;
use super::connection::Connection;
use crate::error::{Error, Kind, Result};

/// A bounded set of connections with equal settings.
pub struct Pool {
    config: Config,
    state: Mutex<State>,
    freed: Condvar,
    /// Connections made since the pool began.
    pub connected: AtomicU64,
}

struct State {
    idle: Vec<Connection>,
    /// Idle ones, lent ones, and those being made.
    open: usize,
}

/// A connection on loan. Dropping it gives it back, or gives up its place when it is broken.
pub struct Lease<'a> {
    pool: &'a Pool,
    connection: Option<Connection>,
    /// Whether the connection was made for this loan.
    pub is_new: bool,
}

impl Pool {
    pub fn new(config: Config) -> Self {
        let state = Mutex::new(State { idle: Vec::new(), open: 0 });
        Pool { config, state, freed: Condvar::new(), connected: AtomicU64::new(0) }
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Lends a connection: an idle one that still lives, a new one, or the next that is given back before `deadline`.
    pub fn lend(&self, deadline: Instant) -> Result<Lease<'_>> {
        let mut lease = Lease { pool: self, connection: self.idle_or_place(deadline)?, is_new: false };
        if lease.connection.is_none() {
            // If this fails, dropping the lease gives up the place.
            lease.connection = Some(Connection::open(&self.config, deadline)?);
            lease.is_new = true;
            self.connected.fetch_add(1, Ordering::Relaxed);
        }
        Ok(lease)
    }

    /// An idle connection, or `None` and a place for a new one.
    fn idle_or_place(&self, deadline: Instant) -> Result<Option<Connection>> {
        let mut state = self.state.lock();
        loop {
            while let Some(connection) = state.idle.pop() {
                if !connection.is_dead() {
                    return Ok(Some(connection));
                }
                state.open -= 1;
            }
            if state.open < self.config.pool_size {
                state.open += 1;
                return Ok(None);
            }
            if self.freed.wait_until(&mut state, deadline).timed_out() {
                let message = format!("all {} connections were in use for {:?}", state.open, self.config.timeout);
                return Err(Error::new(Kind::Timeout, message));
            }
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let mut state = self.pool.state.lock();
        match self.connection.take() {
            Some(connection) if !connection.is_broken() => state.idle.push(connection),
            _ => state.open -= 1,
        }
        drop(state);
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
