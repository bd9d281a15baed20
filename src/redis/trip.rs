//! Round trips: a connection is lent, commands go there and answers come back, and what they say of the server is noted.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use redis::Value;

use super::client::Client;
use super::connection::{Exchange, Refusal, Sent, is_readonly};
use super::node::{Line, Node};
use super::pipeline::Pipeline;
use super::pool::Lease;
use super::socket::{self, Patience, Socket};
use crate::error::{Error, Kind, Result};
use crate::log::{self, Level, Limit};

/// A round trip under way: the commands were sent.
pub struct Trip<'n> {
    node: &'n Arc<Node>,
    connection: Lease<'n>,
    pipeline: Pipeline,
    start: Instant,
    sent: Sent,
}

impl Trip<'_> {
    pub fn node(&self) -> &Arc<Node> {
        self.node
    }
}

/// How to set out.
#[derive(Clone, Copy)]
pub struct Start {
    /// How long connecting, and sending, may take.
    pub patience: Patience,
    /// Whether to wait for a connection that somebody else uses.
    pub may_wait: bool,
}

/// Which of some round trips has an answer first; `None` where none comes by `deadline`.
pub fn first_answered<'t, 'n: 't>(trips: impl Iterator<Item = &'t Trip<'n>>, deadline: Instant) -> Option<usize> {
    let sockets: Vec<&Socket> = trips.map(|trip| trip.connection.socket()).collect();
    socket::first_readable(&sockets, deadline)
}

impl Client {
    /// One round trip over some connection to `node`. Fails only where there is none; the exchange tells of all else.
    ///
    /// `pack` gets the server's time at the deadline, see [`super::pipeline::Script`].
    pub(super) fn exchange(
        &self,
        node: &Arc<Node>,
        pack: impl FnOnce(u64) -> Pipeline,
        patience: Patience,
    ) -> Result<(Pipeline, Exchange)> {
        loop {
            let start = Start { patience, may_wait: true };
            if let Some(connection) = self.lend(node, Line::Calls, start)? {
                let trip = Self::send(node, connection, pack, patience.deadline, patience);
                return Ok(self.receive(trip, patience));
            }
        }
    }

    /// The first half of a round trip that has to end by `deadline`.
    pub(super) fn send<'n>(
        node: &'n Arc<Node>,
        mut connection: Lease<'n>,
        pack: impl FnOnce(u64) -> Pipeline,
        deadline: Instant,
        patience: Patience,
    ) -> Trip<'n> {
        let pipeline = pack(connection.server_time(deadline));
        let start = Instant::now();
        let sent = connection.send(&pipeline.packed, patience);
        Trip { node, connection, pipeline, start, sent }
    }

    /// The second half of a round trip.
    pub(super) fn receive(&self, trip: Trip<'_>, patience: Patience) -> (Pipeline, Exchange) {
        static BROKEN: Limit = Limit::new();
        let Trip { node, mut connection, pipeline, start, sent } = trip;
        let mut exchange = connection.receive(pipeline.replies(), sent, patience);
        pipeline.strip(&mut exchange.replies);
        let took = start.elapsed();
        self.stats.round_trips.record(took);
        self.stats.bytes_sent.fetch_add(exchange.sent as u64, Relaxed);
        self.stats.bytes_received.fetch_add(exchange.received as u64, Relaxed);
        let (is_new, master) = (connection.is_new, connection.master().cloned());
        // Given back before anything is logged: whoever listens may call the library.
        drop(connection);
        let server = || match &master {
            Some(master) => format!("{}, {master}", node.config()),
            None => node.config().to_string(),
        };
        if is_new {
            log::emit(Level::Debug, || format!("connected to {}", server()));
        }
        if node.is_suspect.load(Relaxed) && exchange.replies.iter().any(|reply| !matches!(reply, Value::ServerError(_)))
        {
            node.is_suspect.store(false, Relaxed);
        }
        if node.config().has_failovers() {
            self.follow_failover(node, &pipeline, &mut exchange);
        }
        if let Some(error) = &exchange.failure {
            log::emit_limited(&BROKEN, Level::Warning, || format!("{}: {error}", server()));
            if error.kind == Kind::Timeout {
                self.unanswered(node, took);
            }
        }
        (pipeline, exchange)
    }

    /// A server that became a replica refuses what it gets from then on: it was not sent, as far as its callers are concerned, and
    /// the master is elsewhere.
    fn follow_failover(&self, node: &Arc<Node>, pipeline: &Pipeline, exchange: &mut Exchange) {
        let Some(first) = exchange.replies.iter().position(is_readonly) else { return };
        let message = format!("{}: the server is no master any more", node.config());
        let error = Error::new(Kind::Unavailable, message);
        exchange.replies.truncate(first);
        exchange.sent = pipeline.before(first);
        self.went_away(node, &error);
        exchange.failure = Some(error);
    }

    /// A connection to a node; `None` as by [`super::pool::Pool::lend`].
    pub(super) fn lend<'n>(&self, node: &'n Arc<Node>, line: Line, how: Start) -> Result<Option<Lease<'n>>> {
        static REPLACED: Limit = Limit::new();
        let Start { patience: Patience { deadline, stall }, may_wait } = how;
        loop {
            // By a log callback.
            if !self.is_this_process() {
                return Err(Error::new(Kind::Unavailable, "the process was forked within this call"));
            }
            node.breaker.check()?;
            let soon = || Instant::now().checked_add(stall).map_or(deadline, |stalled| stalled.min(deadline));
            let by = if may_wait { deadline } else { soon() };
            self.watch_the_master(node, by);
            let mut lease = match node.pool(line).lend(by, may_wait) {
                Ok(Some(lease)) => lease,
                Ok(None) => return Ok(None),
                Err(Refusal::Forgotten) => continue,
                Err(refusal) => return Err(self.refused(node, refusal)),
            };
            if let Some(successor) = lease.master().and_then(|master| node.watch.successor(master)) {
                // What it would take from now on is lost when it becomes a replica.
                lease.abandon();
                drop(lease);
                log::emit_limited(&REPLACED, Level::Info, || format!("{}: {successor} has taken over", node.config()));
                continue;
            }
            let start = Instant::now();
            match lease.renew_clock(soon()) {
                Ok(()) => return Ok(Some(lease)),
                // The connection was lost while it was idle: there are others.
                Err(error) if error.kind == Kind::Unavailable => {}
                Err(error) => {
                    drop(lease);
                    self.unanswered(node, start.elapsed());
                    return Err(error.of(format_args!("{}", node.config())));
                }
            }
        }
    }

    /// There is no connection.
    fn refused(&self, node: &Arc<Node>, refusal: Refusal) -> Error {
        static REFUSED: Limit = Limit::new();
        // A server that is full still serves the connections that there are.
        let is_there = matches!(refusal, Refusal::Full(_)) && node.is_connected();
        let mut error = Error::from(refusal);
        if self.topology.cluster().is_some_and(|cluster| !cluster.was_told(node)) {
            // It may be an address that is of use only to the servers themselves.
            error = error.of(format_args!("a server that {} announces", self.config()));
        }
        log::emit_limited(&REFUSED, Level::Warning, || error.message.clone());
        if error.kind == Kind::Unavailable && !is_there {
            self.went_away(node, &error);
        }
        error
    }

    /// No answer came in so much time. A server that let a good part of a call's time pass would do so with the next.
    fn unanswered(&self, node: &Arc<Node>, took: Duration) {
        let config = node.config();
        if took > config.timeout / 2 {
            self.went_away(node, &Error::new(Kind::Unavailable, format!("{config} does not answer in {took:.0?}")));
        }
    }
}
