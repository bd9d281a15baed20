//! The process-wide client and its life.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use super::claims::DoubtfulClaims;
use super::config::Config;
use super::connection::Means;
use super::lanes::Lanes;
use super::pool::Counts;
use super::socket::close_in_children;
use super::stats::{Snapshot, Stats};
use super::topology::Topology;
use super::ttl::Renewals;
use super::watch::LONGEST_PROBE_INTERVAL;
use super::{autostart, slot, tls};
use crate::error::{Error, Kind, Result};
use crate::log::{self, Level};
use crate::process;

/// The servers, the connections to them, and all that is known of them.
pub struct Client {
    pub(super) means: Means,
    pub(super) topology: Topology,
    counts: Arc<Counts>,
    pub(super) stats: Stats,
    /// `None` where lists live for ever.
    pub(super) renewals: Option<Renewals>,
    pub(super) claims: Arc<DoubtfulClaims>,
    /// `None` where a store waits for Redis.
    pub(super) lanes: Option<Lanes>,
    /// Itself, for its threads.
    me: Weak<Client>,
    /// The process that made it. A forked child makes its own.
    pid: u32,
}

static CURRENT: ArcSwapOption<Client> = ArcSwapOption::const_empty();
/// The one that is being closed, while it writes what is queued.
static CLOSING: ArcSwapOption<Client> = ArcSwapOption::const_empty();

/// Opens the process's pool; connects to nothing yet, unless it may have to start a server. Once more with equal settings
/// is fine, with others an error.
pub fn open(config: Config) -> Result<()> {
    if let Some(lanes) = closing().as_ref().and_then(|client| client.lanes.as_ref()) {
        // What is stored from now on belongs behind it.
        lanes.await_end();
    }
    loop {
        if let Some(client) = find() {
            if *client.config() == config {
                // The server that was started may have ended.
                return if config.autostart { start_server(&config) } else { Ok(()) };
            }
            let (open, differing) = (client.config(), client.config().differences(&config));
            return Err(Error::config(format!("already open as {open}, with another {differing}; close it first")));
        }
        let tls = tls::Settings::of(&config)?;
        if config.autostart {
            autostart::ensure(&config)?;
        }
        let client = Client::new(Means { config: config.clone(), tls });
        if CURRENT.compare_and_swap(&None::<Arc<Client>>, Some(client)).is_none() {
            let how = if config.behind { ", and one of the thread that writes behind" } else { "" };
            log::emit(Level::Info, || format!("open: {config}, connections at most: {}{how}", config.pool_size));
            return Ok(());
        }
    }
}

/// Sees to it that a server listens there. A pool that is open there has noticed when this returns.
pub fn start_server(config: &Config) -> Result<()> {
    autostart::ensure(config)?;
    if let Some(client) = find()
        && client.config().address == config.address
        && let Topology::One(node) = &client.topology
    {
        // It looks at these intervals.
        node.breaker.wait(Instant::now() + 2 * LONGEST_PROBE_INTERVAL);
    }
    Ok(())
}

/// The open client.
pub fn current() -> Result<Arc<Client>> {
    find().ok_or_else(|| Error::new(Kind::NotOpen, "the pool is not open, or was closed: call pita_redis_open first"))
}

/// Closes the pool. Calls under way end as they would have; closing twice is fine. Records that are queued are written
/// before, for the pool's timeout at most; fails where some were not stored.
pub fn close() -> Result<()> {
    let open = find();
    if let Some(client) = &open {
        CLOSING.store(Some(client.clone()));
        drop(CURRENT.compare_and_swap(client, None));
    }
    let Some(client) = open.or_else(closing) else { return Ok(()) };
    let result = client.lanes.as_ref().map_or(Ok(()), |lanes| lanes.close(client.deadline()));
    drop(CLOSING.compare_and_swap(&client, None));
    result
}

/// The client that another thread of this process is closing, if any.
fn closing() -> Option<Arc<Client>> {
    CLOSING.load_full().filter(|client| client.is_this_process())
}

/// The open client, if any. In a forked child it is one of the child's own, with the parent's settings.
fn find() -> Option<Arc<Client>> {
    let client = CURRENT.load_full()?;
    if client.is_this_process() {
        return Some(client);
    }
    let own = Client::new(client.means.clone());
    drop(CURRENT.compare_and_swap(&client, Some(own)));
    // The parent's is left as it is, for ever: another thread may have held its locks at the fork.
    std::mem::forget(client);
    find()
}

impl Client {
    pub(super) fn new(means: Means) -> Arc<Self> {
        close_in_children();
        let counts = Arc::<Counts>::default();
        let config = &means.config;
        Arc::new_cyclic(|me| Client {
            renewals: config.ttl.map(Renewals::new),
            lanes: config.behind.then(|| Lanes::new(config)),
            topology: Topology::new(means.clone(), counts.clone()),
            counts,
            stats: Stats::default(),
            claims: DoubtfulClaims::of_this_process(),
            me: me.clone(),
            pid: process::id(),
            means: means.clone(),
        })
    }

    pub(super) fn config(&self) -> &Config {
        &self.means.config
    }

    /// Itself, for a thread of its own.
    pub(super) fn weak(&self) -> Weak<Self> {
        self.me.clone()
    }

    pub(super) fn is_this_process(&self) -> bool {
        self.pid == process::id()
    }

    /// When a call that starts now has to end.
    pub fn deadline(&self) -> Instant {
        Instant::now() + self.config().timeout
    }

    /// Whether stores are queued.
    pub fn writes_behind(&self) -> bool {
        self.lanes.is_some()
    }

    /// The Redis key of a request id.
    pub(super) fn key(&self, id: &str) -> String {
        format!("{}{id}", self.config().prefix)
    }

    /// The slot of a key; 0 where there is no cluster.
    pub(super) fn slot(&self, key: &str) -> u16 {
        if self.topology.cluster().is_some() { slot::of(key) } else { 0 }
    }

    /// A reading of the counters.
    pub fn stats(&self) -> Snapshot {
        let read = |queued, queued_max| Snapshot {
            queued,
            queued_max,
            connections: self.counts.connected.load(Relaxed),
            reconnects: self.counts.reconnected.load(Relaxed),
            ..self.stats.snapshot()
        };
        self.lanes.as_ref().map_or_else(|| read(0, 0), |lanes| lanes.observe(read))
    }

    /// Waits until all records that were queued so far are stored. Fails where some, or some before, were not.
    pub fn flush(&self, timeout: Duration) -> Result<()> {
        self.lanes.as_ref().map_or(Ok(()), |lanes| lanes.flush(Instant::now() + timeout))
    }

    /// Has the records of a request that are queued here be seen by what follows.
    pub(super) fn flush_request(&self, id: &str, deadline: Instant) -> Result<()> {
        let Some(lanes) = &self.lanes else { return Ok(()) };
        let key = self.key(id);
        lanes.await_request(id, self.slot(&key), deadline, || self.topology.check(&key))
    }
}
