//! Storing: appends at most once, indexed records exactly once, a batch in one round trip.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use redis::{Cmd, Value};

use super::ask::unexpected;
use super::claims::DELETED_AT_ONCE;
use super::client::Client;
use super::connection::refused;
use super::node::{Line, Node};
use super::pipeline::Pipeline;
use super::queue::Losses;
use super::socket::Patience;
use super::task::{self, Call, Task};
use super::trip::{self, Start, Trip};
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

/// What came of an attempt.
pub struct Attempted {
    pub setbacks: Vec<Setback>,
    /// Whether some tasks that are not done may be attempted again at once.
    pub wants_another: bool,
}

/// Why some tasks are not done after an attempt.
pub struct Setback {
    pub error: Error,
    /// The server; `None` where it is not known who has the key.
    pub node: Option<Arc<Node>>,
    /// Whether there was a connection at all.
    pub connected: bool,
    /// Whether the server itself is fine: it has sent commands elsewhere, and nobody knows where, or serves some slots not now.
    is_of_slots: bool,
}

impl Setback {
    /// Notes it with the tasks that it hits. A caller's are given up, unless the server may be asked again in a moment: without
    /// one, only what is in doubt is worth waiting for.
    fn hits(self, calls: &mut [Call<'_, '_, '_>], line: Line) -> Self {
        let is_worth_it = self.connected || calls.iter().any(Call::in_doubt);
        let is_hopeless = matches!(line, Line::Calls) && (self.error.kind == Kind::Timeout || !is_worth_it);
        calls.iter_mut().for_each(|call| call.set_back(&self.error, is_hopeless));
        self
    }

    /// Whether it is a trouble of this server's, with all that it has.
    pub fn is_of(&self, node: &Arc<Node>) -> bool {
        !self.is_of_slots && self.node.as_ref().is_some_and(|its| Arc::ptr_eq(its, node))
    }

    /// Whether the server is known to be away.
    pub fn is_away(&self) -> bool {
        self.node.as_ref().is_some_and(|node| node.breaker.check().is_err())
    }
}

/// What of an attempt goes to one server.
struct Part<'t, 'a> {
    node: Arc<Node>,
    /// Whether there is a connection that nobody uses.
    is_at_hand: bool,
    tasks: Vec<&'t mut Task<'a>>,
}

/// To read an answer that has come when there is no time left.
const GRACE: Duration = Duration::from_millis(10);

/// It is on its way.
struct Leg<'n, 't, 'a> {
    trip: Trip<'n>,
    calls: Vec<Call<'n, 't, 'a>>,
    /// Whether the last command is a WAIT.
    waits: bool,
}

/// The round trips of an attempt.
struct Round<'c, 'n, 't, 'a> {
    client: &'c Client,
    line: Line,
    patience: Patience,
    /// See [`Client::share`].
    share: Duration,
    /// Under way.
    legs: Vec<Leg<'n, 't, 'a>>,
    setbacks: Vec<Setback>,
    /// See [`Attempted`].
    wants_another: bool,
}

impl<'n, 't, 'a> Round<'_, 'n, 't, 'a> {
    /// Leaves time for others. The writer's thread has time.
    fn hasty(&self) -> Patience {
        let share = match self.line {
            Line::Calls => self.share,
            Line::Writes => self.patience.stall,
        };
        Patience { stall: self.patience.stall.min(share), ..self.patience }
    }

    /// Sends tasks to their server; where that has to be waited for and may not be, they stay.
    fn set_out(&mut self, node: &'n Arc<Node>, part: &mut Option<&'n mut Part<'t, 'a>>, start: Start) {
        let connection = match self.client.lend(node, self.line, start) {
            Ok(None) => return,
            Ok(Some(connection)) => Ok(connection),
            Err(error) => Err(Setback { error, node: Some(node.clone()), connected: false, is_of_slots: false }),
        };
        let Some(part) = part.take() else { return };
        // Those that may share a call side by side. Nothing is overtaken: `keep_order` leaves each key one such task, and the
        // writer has one task a key at a time.
        part.tasks.sort_by_key(|task| task.rank());
        let mut calls = task::calls(&mut part.tasks);
        let connection = match connection {
            Ok(connection) => connection,
            Err(setback) => return self.setbacks.push(setback.hits(&mut calls, self.line)),
        };
        let (client, wait) = (self.client, self.client.wait_for_replicas(self.patience));
        let ttl_ms = client.config().ttl.map_or(0, |ttl| ttl.as_millis() as u64);
        let pack = |too_late| {
            let mut pipeline = Pipeline::new();
            for call in &calls {
                let command = call.command(ttl_ms, too_late);
                if call.is_asking() { pipeline.push_asking(&command) } else { pipeline.push(&command) }
            }
            wait.iter().for_each(|wait| pipeline.push(wait));
            pipeline
        };
        let trip = Client::send(node, connection, pack, self.patience.deadline, start.patience);
        client.stats.retried.fetch_add(calls.iter_mut().map(Call::sent).sum(), Relaxed);
        self.legs.push(Leg { trip, calls, waits: wait.is_some() });
    }

    /// Takes in answers in the order in which they come: `all`, or those that come while others may be waited for.
    fn arrive(&mut self, all: bool) {
        let now = Instant::now();
        let limit = if all { self.patience.stall } else { self.share };
        let limit = now.checked_add(limit).map_or(self.patience.deadline, |limit| limit.min(self.patience.deadline));
        while !self.legs.is_empty() {
            let mut patience = self.patience;
            let first = match self.legs.len() {
                // Its own time will do.
                1 if all && Instant::now() < limit => 0,
                _ => match trip::first_answered(self.legs.iter().map(|leg| &leg.trip), limit) {
                    Some(first) => {
                        // What has come is not lost because somebody else took all the time.
                        patience.deadline = patience.deadline.max(Instant::now() + GRACE);
                        first
                    }
                    None if all => {
                        patience.deadline = Instant::now();
                        0
                    }
                    None => return,
                },
            };
            let mut leg = self.legs.swap_remove(first);
            let setback = self.client.arrive(leg.trip, &mut leg.calls, leg.waits, self.line, patience);
            self.setbacks.extend(setback);
            self.wants_another |= leg.calls.iter().any(Call::wants_another);
        }
    }
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
        if let Some(lanes) = &self.lanes {
            lanes.push(self, writes, Duration::ZERO, |result| results.push(result));
        }
        results
    }

    /// Records that were accepted will never be stored: the next flush fails for that, and they count as refused.
    pub fn give_up(&self, records: u64, first: Error) {
        self.stats.refused.fetch_add(records, Relaxed);
        if let Some(lanes) = &self.lanes {
            lanes.lose(Losses { records, first });
        }
    }

    fn store_each(&self, writes: &[Write<'_>], done: impl FnMut(Result<()>)) {
        let start = Instant::now();
        match &self.lanes {
            None => self.store_now(writes).into_iter().for_each(done),
            Some(lanes) => lanes.push(self, writes, self.config().timeout, done),
        }
        self.stats.store_calls.record(start.elapsed());
    }

    fn store_now(&self, writes: &[Write<'_>]) -> Vec<Result<()>> {
        let deadline = self.deadline();
        let mut tasks: Vec<Task<'_>> = writes.iter().map(|write| Task::new(*write, self)).collect();
        task::keep_order(&mut tasks);
        for attempt in 0.. {
            if tasks.iter().all(Task::is_done) {
                break;
            }
            let attempted = self.attempt(Line::Calls, &mut tasks, deadline.into());
            let goes_on = attempted.wants_another || tasks.iter().all(Task::is_done);
            // Replicas that lack would not have it in the little that is left, which the answer may need.
            let left = deadline.saturating_duration_since(Instant::now());
            let is_over =
                left < self.config().timeout / 8 && tasks.iter().all(|task| task.is_done() || task.lacks_replicas());
            if !goes_on && (is_over || !self.pause_for(&attempted.setbacks, attempt, deadline)) {
                tasks.iter_mut().for_each(Task::give_up);
                self.leave_suspects(&attempted.setbacks);
            }
        }
        tasks.into_iter().map(|task| self.tally(task)).collect()
    }

    /// As [`Self::leave_suspect`], for all in whose way something is.
    pub(super) fn leave_suspects(&self, setbacks: &[Setback]) {
        for Setback { node, error, .. } in setbacks {
            node.iter().for_each(|node| self.leave_suspect(node, error));
        }
    }

    /// As [`Self::pause`]. Where several servers are troubled, some may soon be there.
    fn pause_for(&self, setbacks: &[Setback], attempt: u32, deadline: Instant) -> bool {
        let node = match setbacks {
            [only] => only.node.as_deref(),
            _ => None,
        };
        self.pause(node, attempt, deadline)
    }

    /// One round trip to each server that has keys of tasks that are not done. Afterwards each of these has its outcome, or
    /// knows what is in its way, or may be attempted again at once.
    pub(super) fn attempt(&self, line: Line, tasks: &mut [Task<'_>], patience: Patience) -> Attempted {
        let mut setbacks = Vec::new();
        let mut parts = self.parts(line, tasks, patience.deadline, &mut setbacks);
        self.settle_before(&parts, patience.deadline);
        let nodes: Vec<Arc<Node>> = parts.iter().map(|part| part.node.clone()).collect();
        let mut round = Round {
            client: self,
            line,
            patience,
            share: self.share(parts.len()),
            legs: Vec::new(),
            setbacks,
            wants_another: false,
        };
        let mut at_home: Vec<Option<&mut Part<'_, '_>>> = parts.iter_mut().map(Some).collect();
        // First to those to whom there is a connection at hand: who has to connect, or to wait, holds up nobody else.
        if nodes.len() > 1 {
            for (node, part) in nodes.iter().zip(&mut at_home) {
                if part.as_ref().is_some_and(|part| part.is_at_hand) {
                    let start = Start { patience: round.hasty(), may_wait: false };
                    round.set_out(node, part, start);
                }
            }
            round.arrive(!at_home.iter().any(Option::is_some));
        }
        let mut left = at_home.iter().flatten().count() as u32;
        for (node, part) in nodes.iter().zip(&mut at_home).filter(|(_, part)| part.is_some()) {
            let deadline = Instant::now() + patience.deadline.saturating_duration_since(Instant::now()) / left;
            round.set_out(node, part, Start { patience: Patience { deadline, ..patience }, may_wait: true });
            left -= 1;
            round.arrive(left == 0);
        }
        // Of one list, others may wait until the first is done.
        let wants_another = round.wants_another || round.setbacks.is_empty();
        Attempted { setbacks: round.setbacks, wants_another }
    }

    /// Where several servers are asked, so long each may take to let us set out, and hold up the others.
    fn share(&self, parts: usize) -> Duration {
        self.config().timeout / (2 * parts.max(1) as u32)
    }

    /// What a take of this process left in doubt belongs before what is stored now.
    fn settle_before(&self, parts: &[Part<'_, '_>], deadline: Instant) {
        // One server that does not answer leaves time for the others.
        let share = self.config().timeout / if parts.len() > 1 { 4 } else { 1 };
        let is_here = |key: &str| parts.iter().any(|part| self.topology.is_at(key, &part.node));
        self.settle_claims(deadline.min(Instant::now() + share), DELETED_AT_ONCE, is_here);
    }

    /// Splits tasks by the servers that have their keys.
    fn parts<'t, 'a>(
        &self,
        line: Line,
        tasks: &'t mut [Task<'a>],
        deadline: Instant,
        setbacks: &mut Vec<Setback>,
    ) -> Vec<Part<'t, 'a>> {
        let mut parts: Vec<Part<'t, 'a>> = Vec::new();
        for task in task::pending(tasks, self.topology.cluster().is_some()) {
            let node = match task.route(self, deadline) {
                Ok(node) => node,
                Err(error) => {
                    let setback = Setback { error, node: None, connected: false, is_of_slots: true };
                    setbacks.push(setback.hits(&mut task::calls(&mut [task]), line));
                    continue;
                }
            };
            match parts.iter_mut().find(|part| Arc::ptr_eq(&part.node, &node)) {
                Some(part) => part.tasks.push(task),
                None => {
                    let is_at_hand = node.pool(line).has_idle();
                    parts.push(Part { node, is_at_hand, tasks: vec![task] });
                }
            }
        }
        // Who waits for a connection has those to servers that come before, and nobody waits in a circle.
        parts.sort_by_key(|part| part.node.number);
        parts
    }

    /// Takes in a server's answers.
    fn arrive(
        &self,
        trip: Trip<'_>,
        calls: &mut [Call<'_, '_, '_>],
        waits: bool,
        line: Line,
        patience: Patience,
    ) -> Option<Setback> {
        let node = trip.node().clone();
        let (pipeline, exchange) = self.receive(trip, patience);
        for (call, reply) in calls.iter_mut().zip(&exchange.replies) {
            call.settle(reply, &node, self);
        }
        let error = if let Some(error) = exchange.failure {
            for (i, call) in calls.iter_mut().enumerate().skip(exchange.replies.len()) {
                if pipeline.was_sent(i, exchange.sent) {
                    call.lost(&error);
                }
            }
            // Whether they are on the replicas is not known.
            calls.iter_mut().filter(|_| waits).for_each(|call| call.may_not_be_replicated(&error));
            error
        } else if let Some(error) = exchange.replies.last().filter(|_| waits).and_then(|reply| self.shortage(reply)) {
            calls.iter_mut().for_each(|call| call.is_not_replicated(&error));
            error
        } else {
            // What was sent elsewhere, nobody knows where.
            let error = calls.iter().find_map(|call| call.setback().cloned())?;
            let is_of_slots = !node.is_suspect.load(Relaxed);
            return Some(Setback { error, node: Some(node), connected: true, is_of_slots });
        };
        Some(Setback { error, node: Some(node), connected: true, is_of_slots: false }.hits(calls, line))
    }

    /// What waits until the replicas have what was sent before, if they have to.
    fn wait_for_replicas(&self, patience: Patience) -> Option<Cmd> {
        let config = self.config();
        let left = patience.deadline.saturating_duration_since(Instant::now()).min(patience.stall).min(config.timeout);
        // Time is left for the answer.
        let wait =
            |left: Duration| redis::cmd("WAIT").arg(config.wait_replicas).arg(left.as_millis().max(1) as u64).take();
        (config.wait_replicas > 0).then(|| wait(left / 2))
    }

    /// Why the answer to WAIT is not enough, if so.
    fn shortage(&self, reply: &Value) -> Option<Error> {
        let wanted = self.config().wait_replicas;
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
