//! Taking: a list is claimed under a name of the taker's own, read, and only then deleted.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use redis::{ServerErrorKind, Value};

use super::client::{Answer, Client, Lost, first_refusal, unexpected};
use super::connection::refused;
use super::pipeline::{CLAIM, Pipeline, RESTORE};
use crate::error::{Error, Kind, Result};
use crate::log::{self, Level};
use crate::metrics::Metrics;
use crate::record;
use crate::sync::lock;

/// What a take came to.
#[derive(Debug)]
pub enum Taken {
    /// All the records, in order; none where there was no list. They are gone from Redis.
    All(Vec<Metrics>),
    /// More records than there is room for. Nothing was taken.
    TooMany(usize),
    /// Fewer records than wanted, when all of the time was waited. Nothing was taken.
    #[allow(missing_docs)]
    TooFew { found: usize, wanted: usize, waited: Duration },
}

/// How many records a taker wants.
#[derive(Clone, Copy)]
struct Wanted {
    least: usize,
    most: usize,
}

/// The life of a claim on a list that lived for ever. A claim on another list lives as long as that would have.
const CLAIM_LIFE: Duration = Duration::from_secs(3600);
/// By how much our reckoning of the server's clock may be off.
pub const CLOCK_MARGIN: Duration = Duration::from_millis(100);

/// Claims that may lie in Redis though their take has ended, of all pools that this process has opened: Redis was asked for
/// them without our having read them, or to delete them without an answer.
///
/// Each is kept until it is settled for sure: the request may still be on its way to a frozen server.
pub struct DoubtfulClaims {
    pid: u32,
    doubts: Mutex<Vec<Doubt>>,
    /// How many there are, readable without the lock.
    count: AtomicUsize,
    /// In a forked child the parent's, which is never touched: another thread may have held its lock at the fork.
    _inherited: Option<Arc<DoubtfulClaims>>,
}

#[derive(Clone, PartialEq)]
struct Doubt {
    /// The server, as messages name it.
    server: String,
    key: String,
    claim: String,
    fate: Fate,
    /// When the claim would have expired.
    until: Instant,
}

/// What is to become of a claim.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    /// Its records were delivered: it is deleted.
    Deleted,
    /// Nobody has seen its records, if there are any: it goes back to its list.
    GivenBack {
        lives_for_ever: bool,
        /// The server's time from which on the claim cannot be made any more; 0 where that is not known.
        too_late: u64,
        /// The same by our clock, and a little more.
        due: Instant,
    },
}

impl DoubtfulClaims {
    /// Those of this process. A forked child begins with none: its parent sees to the others.
    pub fn of_this_process() -> Arc<Self> {
        static CURRENT: ArcSwapOption<DoubtfulClaims> = ArcSwapOption::const_empty();
        let pid = std::process::id();
        let current = CURRENT.load_full();
        if let Some(claims) = current.as_ref().filter(|claims| claims.pid == pid) {
            return claims.clone();
        }
        let own =
            DoubtfulClaims { pid, doubts: Mutex::default(), count: AtomicUsize::new(0), _inherited: current.clone() };
        drop(CURRENT.compare_and_swap(&current, Some(Arc::new(own))));
        Self::of_this_process()
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Doubt>)) {
        let mut doubts = lock(&self.doubts);
        change(&mut doubts);
        self.count.store(doubts.len(), Relaxed);
    }

    fn add(&self, doubt: Doubt) {
        self.change(|doubts| {
            doubts.retain(|doubt| doubt.until > Instant::now());
            doubts.push(doubt);
        });
    }

    fn settle(&self, settled: &Doubt) {
        self.change(|doubts| doubts.retain(|doubt| doubt != settled));
    }

    fn which(&self, wanted: impl Fn(&Doubt) -> bool) -> Vec<Doubt> {
        if self.count.load(Relaxed) == 0 {
            return Vec::new();
        }
        lock(&self.doubts).iter().filter(|doubt| wanted(doubt)).cloned().collect()
    }
}

impl Client {
    /// Takes all records of a request, unless there are more than `room`. Blocks until the pool's timeout at most.
    pub fn take(&self, id: &str, room: usize) -> Result<Taken> {
        self.take_if(&self.key(id), Wanted { least: 0, most: room }, self.deadline())
    }

    /// Takes all records once there are `expected`, or says how many there are when `timeout` has passed.
    ///
    /// Blocks for `timeout`, and the pool's timeout more.
    pub fn take_wait(&self, id: &str, expected: usize, timeout: Duration, room: usize) -> Result<Taken> {
        let (key, end) = (self.key(id), Instant::now() + timeout);
        let mut nap = Duration::from_micros(50);
        loop {
            let taken = self.take_if(&key, Wanted { least: expected, most: room }, self.deadline())?;
            let left = end.saturating_duration_since(Instant::now());
            match taken {
                Taken::TooFew { found, wanted, .. } if left.is_zero() => {
                    return Ok(Taken::TooFew { found, wanted, waited: timeout });
                }
                Taken::TooFew { .. } => {}
                taken => return Ok(taken),
            }
            thread::sleep(nap.min(left));
            // Adds a tenth to what was waited so far: short waits stay short, long ones cost nothing.
            nap = (nap * 11 / 10).min(Duration::from_millis(20));
        }
    }

    /// Takes all records, if there are as many as wanted.
    fn take_if(&self, key: &str, wanted: Wanted, deadline: Instant) -> Result<Taken> {
        self.settle_list(key, deadline)?;
        let claim = claim_name(key);
        let (answer, too_late) = self.claim(key, &claim, wanted, deadline);
        let give_back = |lives_for_ever| {
            let fate = Fate::GivenBack { lives_for_ever, too_late, due: deadline + CLOCK_MARGIN };
            self.claims.add(self.doubt(key, &claim, fate));
        };
        let pool_lives_for_ever = self.pool.config().ttl.is_none();
        // What was sent without an answer may arrive late, and claim what is stored until then.
        if answer.as_ref().map_or_else(|lost| lost.was_sent, |answer| answer.is_repeated) {
            give_back(pool_lives_for_ever);
        }
        let replies = answer.map_err(|lost| lost.error)?.replies;
        let [Value::Array(claimed), elements] = replies.as_slice() else {
            return Err(first_refusal(&replies).unwrap_or_else(|| unexpected(&replies[0])));
        };
        let [Value::Int(length), Value::Int(lived_for_ever)] = claimed.as_slice() else {
            return Err(unexpected(&replies[0]));
        };
        match *length as usize {
            found if found < wanted.least => {
                return Ok(Taken::TooFew { found, wanted: wanted.least, waited: Duration::ZERO });
            }
            found if found > wanted.most => return Ok(Taken::TooMany(found)),
            0 => return Ok(Taken::All(Vec::new())),
            _ => {}
        }
        match parse_all(elements) {
            Ok(records) => {
                self.acknowledge(key, &claim, deadline);
                self.stats.taken.fetch_add(records.len() as u64, Relaxed);
                Ok(Taken::All(records))
            }
            Err(error) => {
                give_back(if *lived_for_ever < 0 { pool_lives_for_ever } else { *lived_for_ever == 1 });
                self.settle_list(key, deadline)?;
                Err(error)
            }
        }
    }

    /// Claims a list and reads the claim, in one round trip. Says as well when it would have been too late for that.
    fn claim(&self, key: &str, claim: &str, wanted: Wanted, deadline: Instant) -> (Result<Answer, Lost>, u64) {
        let number = |count: usize| count.min(i64::MAX as usize);
        let args = [number(wanted.least), number(wanted.most), CLAIM_LIFE.as_millis() as usize];
        let latest = Cell::new(0);
        let ask = |at_any_time: bool| {
            let commands = |whole, too_late| {
                let too_late = if at_any_time { 0 } else { too_late };
                latest.set(too_late);
                let mut pipeline = Pipeline::of(CLAIM.call(whole, &[key, claim], too_late).arg(&args));
                pipeline.push(redis::cmd("LRANGE").arg(claim).arg(0).arg(-1));
                pipeline
            };
            self.ask_script(commands, deadline)
        };
        let answer = match ask(false) {
            // Too late by a clock that has been put forward, for somebody is still waiting.
            Ok(answer) if answer.replies[0] == Value::Nil => ask(true),
            answer => answer,
        };
        (answer, latest.get())
    }

    /// The records are here: deletes the claim, now or when Redis is back.
    fn acknowledge(&self, key: &str, claim: &str, deadline: Instant) {
        let doubt = self.doubt(key, claim, Fate::Deleted);
        if let Err(error) = self.delete(&doubt, deadline) {
            log::emit(Level::Warning, || format!("{claim} will be deleted later: {error}"));
            self.claims.add(doubt);
        }
    }

    fn doubt(&self, key: &str, claim: &str, fate: Fate) -> Doubt {
        let life = self.pool.config().ttl.map_or(CLAIM_LIFE, |ttl| ttl.max(CLAIM_LIFE));
        Doubt { server: self.server(), key: key.into(), claim: claim.into(), fate, until: Instant::now() + life }
    }

    fn server(&self) -> String {
        self.pool.config().to_string()
    }

    fn delete(&self, doubt: &Doubt, deadline: Instant) -> Result<()> {
        self.ask(&|_| Pipeline::of(redis::cmd("UNLINK").arg(&doubt.claim)), deadline).map(drop)
    }

    /// Settles every claim in doubt for which the time has come. What fails is tried again at another time.
    pub(super) fn settle_claims(&self, deadline: Instant) {
        let is_due = |doubt: &Doubt| match doubt.fate {
            Fate::Deleted => true,
            Fate::GivenBack { too_late, due, .. } => too_late > 0 && due <= Instant::now(),
        };
        let doubts = self.claims.which(|doubt| is_due(doubt) && doubt.server == self.server());
        for doubt in doubts {
            let error = match doubt.fate {
                Fate::Deleted => self.delete(&doubt, deadline).map(|()| self.claims.settle(&doubt)),
                Fate::GivenBack { .. } => self.give_back(&doubt, deadline).map(drop),
            };
            match error {
                Err(error) if matches!(error.kind, Kind::Unavailable | Kind::Timeout) => return,
                // It will not be allowed another time either.
                Err(error) => {
                    log::emit(Level::Warning, || format!("{} is left to expire: {error}", doubt.claim));
                    self.claims.settle(&doubt);
                }
                Ok(()) => {}
            }
        }
    }

    /// Gives back what earlier takes of this process may have claimed of a list without reading it.
    fn settle_list(&self, key: &str, deadline: Instant) -> Result<()> {
        let of_list = |doubt: &Doubt| matches!(doubt.fate, Fate::GivenBack { .. }) && doubt.key == key;
        for doubt in self.claims.which(|doubt| of_list(doubt) && doubt.server == self.server()) {
            while !self.give_back(&doubt, deadline)? {
                // Is it to be known for sure in a moment? If that has passed, the server's clock is not what it was.
                let Fate::GivenBack { too_late: 1.., due, .. } = doubt.fate else { break };
                let left = due.saturating_duration_since(Instant::now());
                if left.is_zero() || left > CLOCK_MARGIN || !self.pause(0, deadline) {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Gives a claim back to its list, if it is there; false where it may yet come to be.
    fn give_back(&self, doubt: &Doubt, deadline: Instant) -> Result<bool> {
        let Fate::GivenBack { lives_for_ever, too_late, .. } = doubt.fate else { return Ok(true) };
        let keys = [doubt.key.as_str(), &doubt.claim];
        let commands = |whole, _| Pipeline::of(RESTORE.call(whole, &keys, too_late).arg(i32::from(lives_for_ever)));
        match self.ask_script(commands, deadline).map_err(|lost| lost.error)?.replies.as_slice() {
            [Value::Int(-1)] => Ok(false),
            [Value::Int(_)] => {
                self.claims.settle(doubt);
                Ok(true)
            }
            replies => Err(first_refusal(replies).unwrap_or_else(|| unexpected(&replies[0]))),
        }
    }

    /// How many records a request has.
    pub fn count(&self, id: &str) -> Result<usize> {
        let (deadline, key) = (self.deadline(), self.key(id));
        self.settle_list(&key, deadline)?;
        let replies = self.ask(&|_| Pipeline::of(redis::cmd("LLEN").arg(&key)), deadline)?;
        match replies[0] {
            Value::Int(count) => Ok(count as usize),
            ref other => Err(unexpected(other)),
        }
    }

    /// Deletes all records of a request. Refused like all else where the key holds no list.
    pub fn discard(&self, id: &str) -> Result<()> {
        let (deadline, key) = (self.deadline(), self.key(id));
        self.settle_list(&key, deadline)?;
        // Unlike DEL, a trim to nothing leaves a foreign value alone.
        self.ask(&|_| Pipeline::of(redis::cmd("LTRIM").arg(&key).arg(1).arg(0)), deadline).map(drop)
    }

    /// As [`Self::ask_each`], for commands that begin with a script: packed with its hash (false), or whole where the server
    /// does not know that.
    fn ask_script(&self, pack: impl Fn(bool, u64) -> Pipeline, deadline: Instant) -> Result<Answer, Lost> {
        let answer = self.ask_each(&|too_late| pack(false, too_late), deadline)?;
        match &answer.replies[0] {
            // One that got lost before would not be known there either.
            Value::ServerError(error) if error.kind() == Some(ServerErrorKind::NoScript) => {
                self.ask_each(&|too_late| pack(true, too_late), deadline)
            }
            _ => Ok(answer),
        }
    }
}

fn parse_all(elements: &Value) -> Result<Vec<Metrics>> {
    let elements = match elements {
        Value::Array(elements) => elements,
        Value::ServerError(error) => return Err(refused(error)),
        other => return Err(unexpected(other)),
    };
    let parse = |(i, element): (usize, &Value)| {
        let Value::BulkString(text) = element else { return Err(unexpected(element)) };
        record::parse(text).ok_or_else(|| {
            let start = String::from_utf8_lossy(&text[..text.len().min(80)]);
            Error::new(Kind::BadRecord, format!("element {i} is {start:?}, not log_norm,log_norm_temp,entropy"))
        })
    };
    elements.iter().enumerate().map(parse).collect()
}

/// A name nobody else uses, in the key's own cluster slot, which is that of its hash tag: the first `{...}` that is not
/// empty. A key without one becomes the tag, unless it has a `}` that would end the tag early; on a cluster such a key
/// can be stored but not taken.
fn claim_name(key: &str) -> String {
    // Each RandomState is keyed differently, from the system's randomness; only a fork makes two alike.
    let token = RandomState::new().hash_one(std::process::id());
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).filter(|(tag, _)| !tag.is_empty());
    if tag.is_some() || key.contains('}') {
        format!("{key}:pita-claim:{token:016x}")
    } else {
        format!("{{{key}}}:pita-claim:{token:016x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_has_its_keys_hash_tag() {
        for (key, start) in [
            ("plain", "{plain}:"),
            ("x{y", "{x{y}:"),
            ("a{b}c", "a{b}c:"),
            ("{tag}", "{tag}:"),
            // No tag at all, and none that can be made.
            ("a}b", "a}b:"),
            ("{}x", "{}x:"),
        ] {
            assert!(claim_name(key).starts_with(start), "{key}");
        }
        assert_ne!(claim_name("a"), claim_name("a"));
    }
}
