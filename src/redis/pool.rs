//! Connections of this process: at most `pool_size`, made when needed, kept while they work.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Instant;

use super::config::Config;
use super::connection::{Connection, Refusal};
use super::tls;
use crate::error::{Error, Kind, Result};
use crate::sync::{lock, wait_until};

/// A bounded set of connections with equal settings.
pub struct Pool {
    config: Config,
    tls: Option<tls::Settings>,
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
    pub fn new(config: Config, tls: Option<tls::Settings>) -> Self {
        let state = Mutex::new(State { idle: Vec::new(), open: 0 });
        Pool { config, tls, state, freed: Condvar::new(), connected: AtomicU64::new(0) }
    }

    /// As empty as it began, with the same settings: for a forked child.
    pub fn anew(&self) -> Self {
        Self::new(self.config.clone(), self.tls.clone())
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Lends a connection: an idle one that still lives, a new one, or the next that is given back before `deadline`.
    pub fn lend(&self, deadline: Instant) -> Result<Lease<'_>, Refusal> {
        let connection = self.idle_or_place(deadline).map_err(Refusal::Other)?;
        let mut lease = Lease { pool: self, connection, is_new: false };
        if lease.connection.is_none() {
            // If this fails, dropping the lease gives up the place.
            lease.connection = Some(self.connect(deadline)?);
            lease.is_new = true;
        }
        Ok(lease)
    }

    /// Whether there is no connection at all, not even one that is being made.
    pub fn is_empty(&self) -> bool {
        lock(&self.state).open == 0
    }

    /// Whether a connection can be made. It is kept where there is room for it.
    pub fn probe(&self, deadline: Instant) -> Result<(), Refusal> {
        let connection = self.connect(deadline)?;
        let mut state = lock(&self.state);
        if state.open < self.config.pool_size {
            state.open += 1;
            state.idle.push(connection);
        }
        Ok(())
    }

    fn connect(&self, deadline: Instant) -> Result<Connection, Refusal> {
        let connection = Connection::open(&self.config, self.tls.as_ref(), deadline)?;
        self.connected.fetch_add(1, Ordering::Relaxed);
        Ok(connection)
    }

    /// An idle connection, or `None` and a place for a new one.
    fn idle_or_place(&self, deadline: Instant) -> Result<Option<Connection>> {
        let mut state = lock(&self.state);
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
            let open = state.open;
            state = wait_until(&self.freed, state, deadline).ok_or_else(|| {
                let message = format!("all {open} connections were in use for {:?}", self.config.timeout);
                Error::new(Kind::Timeout, message)
            })?;
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.pool.state);
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
