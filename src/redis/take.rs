//! Taking: a list is claimed under a name of the taker's own, read, and only then deleted.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use redis::{Cmd, ServerErrorKind, Value};

use super::client::{Client, Lost, first_refusal, unexpected};
use super::connection::refused;
use super::pipeline::{CLAIM, Pipeline, RESTORE, Script};
use crate::error::{Error, Kind, Result};
use crate::log::{self, Level};
use crate::metrics::Metrics;
use crate::record;

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

/// Claims that Redis may have been asked for without our having read them, of all pools that this process has opened.
///
/// Each is kept until it was found, for the request may yet reach Redis, or until it would have expired.
pub struct DoubtfulClaims {
    pid: u32,
    by_list: Mutex<HashMap<List, Vec<Doubt>>>,
    /// In a forked child the parent's, which is never touched: another thread may have held its lock at the fork.
    _inherited: Option<Arc<DoubtfulClaims>>,
}

/// A server and a key there.
type List = (String, String);

#[derive(Clone)]
struct Doubt {
    claim: String,
    lives_for_ever: bool,
    until: Instant,
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
        let own = Arc::new(DoubtfulClaims { pid, by_list: Mutex::default(), _inherited: current.clone() });
        drop(CURRENT.compare_and_swap(&current, Some(own)));
        Self::of_this_process()
    }

    fn add(&self, list: List, doubt: Doubt) {
        let mut by_list = self.by_list.lock();
        by_list.retain(|_, doubts| {
            doubts.retain(|doubt| doubt.until > Instant::now());
            !doubts.is_empty()
        });
        by_list.entry(list).or_default().push(doubt);
    }

    fn of(&self, list: &List) -> Vec<Doubt> {
        self.by_list.lock().get(list).cloned().unwrap_or_default()
    }

    fn settle(&self, list: &List, claim: &str) {
        let mut by_list = self.by_list.lock();
        if let Some(doubts) = by_list.get_mut(list) {
            doubts.retain(|doubt| doubt.claim != claim);
            if doubts.is_empty() {
                by_list.remove(list);
            }
        }
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
        self.give_back_doubtful(key, deadline)?;
        let claim = claim_name(key);
        let lives_for_ever = self.pool.config().ttl.is_none();
        let replies = self.claim(key, &claim, wanted, deadline).map_err(|lost| {
            if lost.was_sent {
                self.doubt(key, &claim, lives_for_ever);
            }
            lost.error
        })?;
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
                self.acknowledge(&claim, deadline);
                self.stats.taken.fetch_add(records.len() as u64, Relaxed);
                Ok(Taken::All(records))
            }
            Err(error) => {
                let lives_for_ever = if *lived_for_ever < 0 { lives_for_ever } else { *lived_for_ever == 1 };
                self.doubt(key, &claim, lives_for_ever);
                self.give_back_doubtful(key, deadline)?;
                Err(error)
            }
        }
    }

    /// Claims a list and reads the claim, in one round trip.
    fn claim(&self, key: &str, claim: &str, wanted: Wanted, deadline: Instant) -> Result<Vec<Value>, Lost> {
        let number = |count: usize| count.min(i64::MAX as usize);
        let read = redis::cmd("LRANGE").arg(claim).arg(0).arg(-1).take();
        let args = [number(wanted.least), number(wanted.most), CLAIM_LIFE.as_millis() as usize];
        self.call(&CLAIM, &[key, claim], |command| command.arg(&args), Some(read), deadline)
    }

    /// The records are here: deletes the claim.
    fn acknowledge(&self, claim: &str, deadline: Instant) {
        if let Err(error) = self.ask(&Pipeline::of(redis::cmd("UNLINK").arg(claim)), deadline) {
            log::emit(Level::Warning, || format!("{claim} is left to expire: {error}"));
        }
    }

    /// Remembers a claim that may hold a list.
    fn doubt(&self, key: &str, claim: &str, lives_for_ever: bool) {
        let life = self.pool.config().ttl.map_or(CLAIM_LIFE, |ttl| ttl.max(CLAIM_LIFE));
        let doubt = Doubt { claim: claim.into(), lives_for_ever, until: Instant::now() + life };
        self.claims.add(self.list(key), doubt);
    }

    /// Gives back what earlier takes of this process may have claimed without reading it.
    fn give_back_doubtful(&self, key: &str, deadline: Instant) -> Result<()> {
        let list = self.list(key);
        for doubt in self.claims.of(&list) {
            let arg = i32::from(doubt.lives_for_ever);
            let replies = self.call(&RESTORE, &[key, &doubt.claim], |command| command.arg(arg), None, deadline);
            match replies.map_err(|lost| lost.error)?.as_slice() {
                [Value::Int(1)] => self.claims.settle(&list, &doubt.claim),
                [Value::Int(_)] => {}
                replies => return Err(first_refusal(replies).unwrap_or_else(|| unexpected(&replies[0]))),
            }
        }
        Ok(())
    }

    fn list(&self, key: &str) -> List {
        (self.pool.config().to_string(), key.to_string())
    }

    /// How many records a request has.
    pub fn count(&self, id: &str) -> Result<usize> {
        let (deadline, key) = (self.deadline(), self.key(id));
        self.give_back_doubtful(&key, deadline)?;
        let replies = self.ask(&Pipeline::of(redis::cmd("LLEN").arg(key)), deadline)?;
        match replies[0] {
            Value::Int(count) => Ok(count as usize),
            ref other => Err(unexpected(other)),
        }
    }

    /// Deletes all records of a request. Refused like all else where the key holds no list.
    pub fn discard(&self, id: &str) -> Result<()> {
        let (deadline, key) = (self.deadline(), self.key(id));
        self.give_back_doubtful(&key, deadline)?;
        // Unlike DEL, a trim to nothing leaves a foreign value alone.
        self.ask(&Pipeline::of(redis::cmd("LTRIM").arg(key).arg(1).arg(0)), deadline).map(drop)
    }

    /// Calls a script on a list and its claim, with a command behind it in the same round trip.
    fn call(
        &self,
        script: &Script,
        keys: &[&str; 2],
        args: impl Fn(&mut Cmd) -> &mut Cmd,
        then: Option<Cmd>,
        deadline: Instant,
    ) -> Result<Vec<Value>, Lost> {
        let ask = |whole| {
            let mut pipeline = Pipeline::of(args(&mut script.call(whole, keys)));
            then.iter().for_each(|command| pipeline.push(command));
            self.ask_each(&pipeline, deadline)
        };
        let replies = ask(false)?;
        match &replies[0] {
            Value::ServerError(error) if error.kind() == Some(ServerErrorKind::NoScript) => ask(true),
            _ => Ok(replies),
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
