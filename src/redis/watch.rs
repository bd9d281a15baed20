//! Servers that are away: calls fail at once, while a thread looks whether they are back, or others have their keys.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::claims::CLOCK_MARGIN;
use super::client::Client;
use super::config::Address;
use super::node::{Line, Node};
use super::sentinel::{self, Due};
use super::slot;
use super::topology::{Cluster, Map, Topology};
use crate::error::{Error, Kind, Result};
use crate::log::{self, Level, Limit};
use crate::panics;
use crate::process::with_signals_blocked;

/// A server that is away is looked for at growing intervals, from the first to the last.
const FIRST_PROBE_INTERVAL: Duration = Duration::from_millis(50);
pub(super) const LONGEST_PROBE_INTERVAL: Duration = Duration::from_secs(1);

impl Client {
    /// A server is away: calls fail at once from now on, while a thread looks for it. True where that is news.
    pub(super) fn went_away(&self, node: &Arc<Node>, cause: &Error) -> bool {
        // In a child that goes on from a log callback, the locks may be held, and it is not for it to look.
        if !self.is_this_process() || !node.breaker.open(cause) {
            return false;
        }
        node.forget();
        if let Some(lanes) = &self.lanes {
            lanes.nudge();
        }
        let (me, its) = (self.weak(), Arc::downgrade(node));
        let look = move || {
            if panics::contain(|| look_for(&me, &its)).is_err()
                && let (Some(client), Some(node)) = (me.upgrade(), its.upgrade())
            {
                // Then each call has to find out for itself.
                client.came_back(&node);
            }
        };
        if start("pita-probe", look).is_err() {
            // Then each call has to find out for itself.
            self.came_back(node);
        }
        true
    }

    /// All of a call's time has passed. A server for which the cluster is down would let the next one's pass as well.
    pub(super) fn leave_suspect(&self, node: &Arc<Node>, cause: &Error) {
        if node.is_suspect.load(Relaxed) && self.went_away(node, cause) {
            log::emit(Level::Warning, || format!("{cause}; it counts as away"));
        }
    }

    /// A server is to be asked again, or others in its place. Returns how long it was away, if it was.
    fn came_back(&self, node: &Arc<Node>) -> Option<Duration> {
        let away = node.breaker.close();
        if let Some(lanes) = &self.lanes {
            lanes.nudge();
        }
        away
    }

    /// Has the sentinels say where the master is, if it is time for that. Blocks only where nobody has asked them for long, half of
    /// the connect timeout at most.
    pub(super) fn watch_the_master(&self, node: &Arc<Node>, deadline: Instant) {
        if !node.config().has_failovers() {
            return;
        }
        match node.watch.begin() {
            Due::Not => {}
            Due::Now => self.ask_sentinels(node, deadline.min(Instant::now() + self.config().connect_timeout / 2)),
            Due::Soon => {
                let (me, its) = (self.weak(), Arc::downgrade(node));
                let ask = move || {
                    if let (Some(client), Some(node)) = (me.upgrade(), its.upgrade()) {
                        client.ask_sentinels(&node, Instant::now() + client.config().connect_timeout);
                    }
                };
                if start("pita-look", ask).is_err() {
                    node.watch.end(None);
                }
            }
        }
    }

    /// Whatever is wrong with them, the master may be fine.
    fn ask_sentinels(&self, node: &Node, deadline: Instant) {
        let Address::Sentinel(sentinels) = &node.config().address else { return };
        let named = panics::contain(|| sentinel::master(sentinels, &self.means, deadline));
        node.watch.end(named.ok().and_then(Result::ok));
    }

    /// Who has a key, by the cluster's map, which is asked for where nothing is known yet.
    pub(super) fn route(&self, key: &str, deadline: Instant) -> Result<Arc<Node>> {
        match &self.topology {
            Topology::One(node) => Ok(node.clone()),
            Topology::Cluster(cluster) => {
                let slot = slot::of(key);
                self.map(cluster, deadline)?.node_of(slot).cloned().ok_or_else(|| {
                    self.look_again(cluster);
                    let message = format!("no server of {} has slot {slot}, where the key belongs", self.config());
                    Error::new(Kind::Unavailable, message)
                })
            }
        }
    }

    /// The cluster's map.
    pub(super) fn map(&self, cluster: &Cluster, deadline: Instant) -> Result<Arc<Map>> {
        static UNKNOWN: Limit = Limit::new();
        if let Some(map) = cluster.map() {
            return Ok(map);
        }
        cluster.entry.breaker.check()?;
        let looked = self.look(cluster, deadline.min(Instant::now() + self.config().connect_timeout));
        if let Err(error) = looked {
            log::emit_limited(&UNKNOWN, Level::Warning, || error.message.clone());
            if error.kind == Kind::Unavailable && Instant::now() < deadline {
                self.went_away(&cluster.entry, &error);
            }
            return Err(error);
        }
        self.map(cluster, deadline)
    }

    /// Asks for the cluster's map. Who waits for a server that has no slots any more need not.
    pub(super) fn look(&self, cluster: &Cluster, deadline: Instant) -> Result<()> {
        for node in cluster.look(deadline)? {
            node.forget();
            self.came_back(&node);
            log::emit(Level::Info, || format!("{} has no slots any more", node.config()));
        }
        Ok(())
    }

    /// Has a thread ask for the cluster's map, unless that was done a moment ago.
    pub(super) fn look_again(&self, cluster: &Cluster) {
        // In a child that goes on from a log callback, the locks may be held.
        if !self.is_this_process() || !cluster.wants_look() {
            return;
        }
        let me = self.weak();
        let look = move || {
            let Some(client) = me.upgrade() else { return };
            if let Some(cluster) = client.topology.cluster() {
                // Whatever is wrong, a call learns it from the servers themselves.
                let _ = panics::contain(|| client.look(cluster, Instant::now() + client.config().connect_timeout));
            }
        };
        // Where no thread can be started, the servers say of one slot after the other where it is.
        let _ = start("pita-look", look);
    }
}

fn start(name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    with_signals_blocked(|| thread::Builder::new().name(name.into()).spawn(body)).map(drop)
}

/// Tries to connect until the server is back, or nobody needs it.
fn look_for(client: &Weak<Client>, node: &Weak<Node>) {
    let mut interval = FIRST_PROBE_INTERVAL;
    loop {
        thread::sleep(interval);
        let (Some(client), Some(node)) = (client.upgrade(), node.upgrade()) else { return };
        match client.probe(&node) {
            Err(error) if error.kind == Kind::Unavailable => {
                node.breaker.open(&error);
                interval = (interval * 2).min(LONGEST_PROBE_INTERVAL);
            }
            // Whatever else is wrong, a call shall learn from the server itself.
            _ => {
                if let Some(away) = client.came_back(&node) {
                    log::emit(Level::Info, || format!("{} is back after {away:.1?}", node.config()));
                }
                // The last of them may have been asked for a moment ago.
                thread::sleep(CLOCK_MARGIN);
                client.settle_claims(client.deadline(), usize::MAX, |_| true);
                return;
            }
        }
    }
}

impl Client {
    /// Whether a server is there, or others have its keys.
    fn probe(&self, node: &Arc<Node>) -> Result<()> {
        let deadline = || Instant::now() + self.config().connect_timeout;
        if let Some(cluster) = self.topology.cluster() {
            let looked = self.look(cluster, deadline());
            if Arc::ptr_eq(node, &cluster.entry) || cluster.map().is_some_and(|map| !map.has(node)) {
                return looked;
            }
        }
        if let Some(cluster) = self.topology.cluster() {
            cluster.is_up(node, deadline())?;
        }
        node.pool(Line::Calls).probe(deadline()).map_err(Error::from)
    }
}
