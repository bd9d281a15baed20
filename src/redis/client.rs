//! The process-wide client: its life, and the calls that are safe to repeat.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use redis::Value;

use super::breaker::Breaker;
use super::claims::{CLOCK_MARGIN, DoubtfulClaims};
use super::config::Config;
use super::connection::{Exchange, Refusal, is_readonly, refused};
use super::pipeline::Pipeline;
use super::pool::{Lease, Pool};
use super::socket::{Patience, close_in_children};
use super::stats::{Snapshot, Stats};
use super::ttl::Renewals;
use super::writer::Writer;
use super::{autostart, tls};
use crate::error::{Error, Kind, Result};
use crate::log::{self, Level, Limit};
use crate::panics;
use crate::process::{self, with_signals_blocked};

/// A pool of connections and all that is known of it.
pub struct Client {
    pub(super) pool: Pool,
    pub(super) stats: Stats,
    /// `None` where lists live for ever.
    pub(super) renewals: Option<Renewals>,
    pub(super) claims: Arc<DoubtfulClaims>,
    /// `None` where a store waits for Redis.
    pub(super) writer: Option<Writer>,
    pub(super) breaker: Breaker,
    /// Itself, for its threads.
    me: Weak<Client>,
    /// The process that made it. A forked child makes its own.
    pid: u32,
}

static CURRENT: ArcSwapOption<Client> = ArcSwapOption::const_empty();
/// The one that is being closed, while it writes what is queued.
static CLOSING: ArcSwapOption<Client> = ArcSwapOption::const_empty();

/// While Redis is away it is looked for at growing intervals, from the first to the last.
const PROBE_INTERVALS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Opens the process's pool; connects to nothing yet, unless it may have to start a server. Once more with equal settings
/// is fine, with others an error.
pub fn open(config: Config) -> Result<()> {
    if let Some(writer) = closing().as_ref().and_then(|client| client.writer.as_ref()) {
        // What is stored from now on belongs behind it.
        writer.queue.await_end();
    }
    loop {
        if let Some(client) = find() {
            if *client.pool.config() == config {
                // The server that was started may have ended.
                return if config.autostart { start_server(&config) } else { Ok(()) };
            }
            let (open, differing) = (client.pool.config(), client.pool.config().differences(&config));
            return Err(Error::config(format!("already open as {open}, with another {differing}; close it first")));
        }
        let tls = tls::Settings::of(&config)?;
        if config.autostart {
            autostart::ensure(&config)?;
        }
        let client = Client::new(Pool::new(config.clone(), tls));
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
        && client.pool.config().address == config.address
    {
        // It looks at these intervals.
        client.breaker.wait(Instant::now() + 2 * PROBE_INTERVALS.1);
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
    let result = client.writer.as_ref().map_or(Ok(()), |writer| writer.close(client.deadline()));
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
    let own = Client::new(client.pool.anew(client.pool.config().pool_size));
    drop(CURRENT.compare_and_swap(&client, Some(own)));
    // The parent's is left as it is, for ever: another thread may have held its locks at the fork.
    std::mem::forget(client);
    find()
}

impl Client {
    fn new(pool: Pool) -> Arc<Self> {
        close_in_children();
        Arc::new_cyclic(|me| Client {
            renewals: pool.config().ttl.map(Renewals::new),
            writer: pool.config().behind.then(|| Writer::new(&pool)),
            pool,
            stats: Stats::default(),
            claims: DoubtfulClaims::of_this_process(),
            breaker: Breaker::default(),
            me: me.clone(),
            pid: process::id(),
        })
    }

    /// Itself, for a thread of its own.
    pub(super) fn arc(&self) -> Option<Arc<Self>> {
        self.me.upgrade()
    }

    pub(super) fn is_this_process(&self) -> bool {
        self.pid == process::id()
    }

    /// When a call that starts now has to end.
    pub fn deadline(&self) -> Instant {
        Instant::now() + self.pool.config().timeout
    }

    /// Whether stores are queued.
    pub fn writes_behind(&self) -> bool {
        self.writer.is_some()
    }

    /// The Redis key of a request id.
    pub(super) fn key(&self, id: &str) -> String {
        format!("{}{id}", self.pool.config().prefix)
    }

    /// A reading of the counters.
    pub fn stats(&self) -> Snapshot {
        let pools = || [Some(&self.pool), self.writer.as_ref().map(|writer| &writer.pool)].into_iter().flatten();
        let read = |queued, queued_max| Snapshot {
            queued,
            queued_max,
            connections: pools().map(|pool| pool.connected.load(Relaxed)).sum(),
            reconnects: pools().map(|pool| pool.reconnected.load(Relaxed)).sum(),
            ..self.stats.snapshot()
        };
        self.writer.as_ref().map_or_else(|| read(0, 0), |writer| writer.queue.observe(read))
    }

    /// Waits until all records that were queued so far are stored. Fails where some, or some before, were not.
    pub fn flush(&self, timeout: Duration) -> Result<()> {
        self.writer.as_ref().map_or(Ok(()), |writer| writer.queue.flush(Instant::now() + timeout))
    }

    /// Has the records of a request that are queued here be seen by what follows.
    pub(super) fn flush_request(&self, id: &str, deadline: Instant) -> Result<()> {
        let flush = |writer: &Writer| writer.queue.await_request(id, deadline, || self.breaker.check());
        self.writer.as_ref().map_or(Ok(()), flush)
    }

    /// Whether Redis answers.
    pub fn ping(&self) -> Result<()> {
        self.ask(&|_| Pipeline::of(&redis::cmd("PING")), self.deadline()).map(drop)
    }

    /// One round trip over some connection of `pool`. Fails only where there is none; the exchange tells of all else.
    ///
    /// `pack` gets the server's time at the deadline, see [`super::pipeline::Script`].
    pub(super) fn exchange(
        &self,
        pool: &Pool,
        pack: impl FnOnce(u64) -> Pipeline,
        patience: Patience,
    ) -> Result<(Pipeline, Exchange)> {
        static BROKEN: Limit = Limit::new();
        let mut connection = self.lend(pool, patience.deadline)?;
        let pipeline = pack(connection.server_time(patience.deadline));
        let start = Instant::now();
        let mut exchange = connection.exchange(&pipeline.packed, pipeline.len(), patience);
        let took = start.elapsed();
        self.stats.round_trips.record(took);
        self.stats.bytes_sent.fetch_add(exchange.sent as u64, Relaxed);
        self.stats.bytes_received.fetch_add(exchange.received as u64, Relaxed);
        let is_new = connection.is_new;
        // Given back before anything is logged: whoever listens may call the library.
        drop(connection);
        if is_new {
            log::emit(Level::Debug, || format!("connected to {}", self.pool.config()));
        }
        if self.pool.config().has_failovers() {
            self.follow_failover(&pipeline, &mut exchange);
        }
        if let Some(error) = &exchange.failure {
            log::emit_limited(&BROKEN, Level::Warning, || format!("{}: {error}", self.pool.config()));
            if error.kind == Kind::Timeout {
                self.unanswered(took);
            }
        }
        Ok((pipeline, exchange))
    }

    /// A server that became a replica refuses what it gets from then on: it was not sent, as far as its callers are concerned, and
    /// the master is elsewhere.
    fn follow_failover(&self, pipeline: &Pipeline, exchange: &mut Exchange) {
        let Some(first) = exchange.replies.iter().position(is_readonly) else { return };
        let message = format!("{}: the server is no master any more", self.pool.config());
        let error = Error::new(Kind::Unavailable, message);
        exchange.replies.truncate(first);
        exchange.sent = pipeline.before(first);
        self.went_away(&error);
        exchange.failure = Some(error);
    }

    fn lend<'p>(&self, pool: &'p Pool, deadline: Instant) -> Result<Lease<'p>> {
        if !self.is_this_process() {
            return Err(Error::new(Kind::Unavailable, "the process was forked within this call"));
        }
        loop {
            self.breaker.check()?;
            let mut lease = pool.lend(deadline).map_err(|refusal| self.refused(refusal))?;
            let start = Instant::now();
            match lease.renew_clock(deadline) {
                Ok(()) => return Ok(lease),
                // The connection was lost while it was idle: there are others.
                Err(error) if error.kind == Kind::Unavailable => {}
                Err(error) => {
                    drop(lease);
                    self.unanswered(start.elapsed());
                    return Err(error.of(format_args!("{}", self.pool.config())));
                }
            }
        }
    }

    /// There is no connection.
    fn refused(&self, refusal: Refusal) -> Error {
        static REFUSED: Limit = Limit::new();
        // A server that is full still serves the connections that there are.
        let is_connected = !self.pool.is_empty() || self.writer.as_ref().is_some_and(|writer| !writer.pool.is_empty());
        let is_there = matches!(refusal, Refusal::Full(_)) && is_connected;
        let error = Error::from(refusal);
        log::emit_limited(&REFUSED, Level::Warning, || error.message.clone());
        if error.kind == Kind::Unavailable && !is_there {
            self.went_away(&error);
        }
        error
    }

    /// No answer came in so much time. A server that let a good part of a call's time pass would do so with the next.
    fn unanswered(&self, took: Duration) {
        let config = self.pool.config();
        if took > config.timeout / 2 {
            self.went_away(&Error::new(Kind::Unavailable, format!("{config} does not answer in {took:.0?}")));
        }
    }

    /// Redis is away: calls fail at once from now on, while a thread looks whether it is back.
    fn went_away(&self, cause: &Error) {
        // In a child that goes on from a log callback, the locks may be held, and it is not for it to look.
        if !self.is_this_process() || !self.breaker.open(cause) {
            return;
        }
        self.pool.forget();
        if let Some(writer) = &self.writer {
            writer.pool.forget();
            writer.queue.nudge();
        }
        let me = self.me.clone();
        let look = move || {
            if panics::contain(|| look_for_redis(&me)).is_err() {
                // Then each call has to find out for itself.
                me.upgrade().map(|client| client.came_back());
            }
        };
        let thread = with_signals_blocked(|| thread::Builder::new().name("pita-probe".into()).spawn(look));
        if thread.is_err() {
            // Then each call has to find out for itself.
            self.came_back();
        }
    }

    /// Redis is to be asked again. Returns how long it was away.
    fn came_back(&self) -> Duration {
        let away = self.breaker.close();
        if let Some(writer) = &self.writer {
            writer.queue.nudge();
        }
        away.unwrap_or_default()
    }

    /// The replies to commands that do no harm when they are executed twice: repeated over new connections until all
    /// are answered, or `deadline`; where nothing was sent yet, only as long as there is a server.
    pub(super) fn ask_each(&self, pack: &dyn Fn(u64) -> Pipeline, deadline: Instant) -> Result<Answer, Lost> {
        let mut was_sent = false;
        for attempt in 0.. {
            let error = match self.exchange(&self.pool, pack, deadline.into()) {
                Ok((_, Exchange { failure: None, replies, .. })) => {
                    return Ok(Answer { replies, is_repeated: was_sent });
                }
                Ok((_, Exchange { failure: Some(error), sent, .. })) => {
                    was_sent |= sent > 0;
                    error
                }
                Err(error) if was_sent => error,
                Err(error) => return Err(Lost { error, was_sent }),
            };
            if error.kind != Kind::Unavailable || !self.pause(attempt, deadline) {
                return Err(Lost { error, was_sent });
            }
        }
        unreachable!("attempts are not counted out")
    }

    /// Waits until Redis is back, or a little longer after each failed attempt. False where `deadline` has come.
    pub(super) fn pause(&self, attempt: u32, deadline: Instant) -> bool {
        if self.breaker.check().is_err() {
            return self.breaker.wait(deadline);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        thread::sleep(Duration::from_millis(1 << attempt.min(6)).min(left));
        Instant::now() < deadline
    }

    /// As [`Self::ask_each`], for commands of which none may be refused.
    pub(super) fn ask(&self, pack: &dyn Fn(u64) -> Pipeline, deadline: Instant) -> Result<Vec<Value>> {
        let answer = self.ask_each(pack, deadline).map_err(|lost| lost.error)?;
        match first_refusal(&answer.replies) {
            Some(error) => Err(error),
            None => Ok(answer.replies),
        }
    }
}

/// The first error among replies.
pub fn first_refusal(replies: &[Value]) -> Option<Error> {
    replies.iter().find_map(|reply| if let Value::ServerError(error) = reply { Some(refused(error)) } else { None })
}

/// The replies, and whether the commands were also sent without an answer before: those may yet reach Redis.
pub struct Answer {
    pub replies: Vec<Value>,
    pub is_repeated: bool,
}

impl Answer {
    /// The answer to a repetition of other commands that were answered so.
    pub fn after(self, before: &Answer) -> Self {
        Answer { is_repeated: self.is_repeated || before.is_repeated, ..self }
    }
}

/// Why there was no answer, and whether Redis may have executed the commands all the same.
pub struct Lost {
    pub error: Error,
    pub was_sent: bool,
}

impl Lost {
    /// As [`Answer::after`].
    pub fn after(self, before: &Answer) -> Self {
        Lost { was_sent: self.was_sent || before.is_repeated, ..self }
    }
}

/// Tries to connect until Redis is back, or the client is gone.
fn look_for_redis(client: &Weak<Client>) {
    let mut interval = PROBE_INTERVALS.0;
    loop {
        thread::sleep(interval);
        let Some(client) = client.upgrade() else { return };
        let probe = client.pool.probe(Instant::now() + client.pool.config().connect_timeout);
        match probe.map_err(Error::from) {
            Err(error) if error.kind == Kind::Unavailable => {
                client.breaker.open(&error);
                interval = (interval * 2).min(PROBE_INTERVALS.1);
            }
            // Whatever else is wrong, a call shall learn from the server itself.
            _ => {
                let away = client.came_back();
                log::emit(Level::Info, || format!("{} is back after {away:.1?}", client.pool.config()));
                // The last of them may have been asked for a moment ago.
                thread::sleep(CLOCK_MARGIN);
                client.settle_claims(client.deadline());
                return;
            }
        }
    }
}

/// An answer that no Redis gives.
pub fn unexpected(reply: &Value) -> Error {
    // It may be long.
    let text: String = format!("{reply:?}").chars().take(200).collect();
    Error::new(Kind::Redis, format!("unexpected answer from Redis: {text}"))
}
