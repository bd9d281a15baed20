//! Taking: a list is claimed under a name of the taker's own, read, and only then deleted.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::{Cmd, ServerErrorKind, Value};

use super::client::{Client, Lost, first_refusal, unexpected};
use super::pipeline::{CLAIM, Pipeline, RESTORE, Script};
use crate::error::{Error, Kind, Result};
use crate::metrics::Metrics;
use crate::record;

/// What a take came to.
#[derive(Debug)]
pub enum Taken {
    /// All the records, in order; none where there was no list. They are gone from Redis.
    All(Vec<Metrics>),
    /// More records than there is room for. Nothing was taken.
    TooMany(usize),
    /// Fewer records than were waited for. Nothing was taken.
    TooFew(usize),
}

/// The life of a claim on a list that lived for ever. A claim on another list lives as long as that would have.
const CLAIM_LIFE: Duration = Duration::from_secs(3600);

/// Claims that Redis may have been asked for without our having read them, by key.
///
/// Each is kept until it was found, for the request may yet reach Redis, or until it would have expired.
#[derive(Default)]
pub struct DoubtfulClaims(Mutex<HashMap<String, Vec<Doubt>>>);

#[derive(Clone)]
struct Doubt {
    claim: String,
    lived_for_ever: bool,
    since: Instant,
}

impl DoubtfulClaims {
    fn add(&self, key: String, claim: String, lived_for_ever: bool) {
        let mut claims = self.0.lock();
        claims.retain(|_, doubts| {
            doubts.retain(|doubt| doubt.since.elapsed() < CLAIM_LIFE);
            !doubts.is_empty()
        });
        claims.entry(key).or_default().push(Doubt { claim, lived_for_ever, since: Instant::now() });
    }

    fn of(&self, key: &str) -> Vec<Doubt> {
        self.0.lock().get(key).cloned().unwrap_or_default()
    }

    fn settle(&self, key: &str, claim: &str) {
        let mut claims = self.0.lock();
        if let Some(doubts) = claims.get_mut(key) {
            doubts.retain(|doubt| doubt.claim != claim);
            if doubts.is_empty() {
                claims.remove(key);
            }
        }
    }
}

impl Client {
    /// Takes all records of a request, unless there are more than `room`. Blocks until the pool's timeout at most.
    pub fn take(&self, id: &str, room: usize) -> Result<Taken> {
        let deadline = self.deadline();
        let key = self.key(id);
        self.restore_doubtful(&key, deadline)?;
        let claim = claim_name(&key);
        let replies = self
            .call(&CLAIM, &[&key, &claim], deadline, |command| {
                command.arg(room.min(i64::MAX as usize)).arg(CLAIM_LIFE.as_millis() as u64);
            })
            .map_err(|lost| {
                if lost.was_sent {
                    self.claims.add(key.clone(), claim.clone(), false);
                }
                lost.error
            })?;
        let (length, lived_for_ever, elements) = match replies.as_slice() {
            [Value::Array(claimed), Value::Array(elements)] => match claimed.as_slice() {
                [Value::Int(length), Value::Int(lived_for_ever)] => (*length as usize, *lived_for_ever == 1, elements),
                _ => return Err(unexpected(&replies[0])),
            },
            _ => return Err(first_refusal(&replies).unwrap_or_else(|| unexpected(&replies[0]))),
        };
        if length > room {
            return Ok(Taken::TooMany(length));
        }
        match parse_all(elements) {
            Ok(records) => {
                if length > 0 {
                    // The records are here. If this fails, the claim expires by itself.
                    let _ = self.ask(&Pipeline::of(redis::cmd("UNLINK").arg(&claim)), deadline);
                }
                self.stats.taken.fetch_add(records.len() as u64, Relaxed);
                Ok(Taken::All(records))
            }
            Err(error) => {
                self.claims.add(key.clone(), claim, lived_for_ever);
                self.restore_doubtful(&key, deadline)?;
                Err(error)
            }
        }
    }

    /// Gives back what earlier takes of this process claimed without reading it.
    fn restore_doubtful(&self, key: &str, deadline: Instant) -> Result<()> {
        for doubt in self.claims.of(key) {
            let replies = self.call(&RESTORE, &[key, &doubt.claim], deadline, |command| {
                command.arg(i32::from(doubt.lived_for_ever));
            })?;
            match replies[0] {
                Value::Int(1) => self.claims.settle(key, &doubt.claim),
                Value::Int(_) => {}
                _ => return Err(first_refusal(&replies).unwrap_or_else(|| unexpected(&replies[0]))),
            }
        }
        Ok(())
    }

    /// Takes all records once there are `expected`, or says how many there are when `timeout` has passed.
    ///
    /// Blocks for `timeout`, and one call more.
    pub fn take_wait(&self, id: &str, expected: usize, timeout: Duration, room: usize) -> Result<Taken> {
        let deadline = Instant::now() + timeout;
        let mut nap = Duration::from_micros(50);
        loop {
            let count = self.count(id)?;
            if count >= expected {
                return self.take(id, room);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Taken::TooFew(count));
            }
            thread::sleep(nap.min(left));
            // Adds a tenth to what was waited so far: short waits stay short, long ones cost nothing.
            nap = (nap * 11 / 10).min(Duration::from_millis(20));
        }
    }

    /// How many records a request has.
    pub fn count(&self, id: &str) -> Result<usize> {
        let (deadline, key) = (self.deadline(), self.key(id));
        self.restore_doubtful(&key, deadline)?;
        let replies = self.ask(&Pipeline::of(redis::cmd("LLEN").arg(key)), deadline)?;
        match replies[0] {
            Value::Int(count) => Ok(count as usize),
            ref other => Err(unexpected(other)),
        }
    }

    /// Deletes all records of a request. Refused like all else where the key holds no list.
    pub fn discard(&self, id: &str) -> Result<()> {
        let (deadline, key) = (self.deadline(), self.key(id));
        self.restore_doubtful(&key, deadline)?;
        // Unlike DEL, a trim to nothing leaves a foreign value alone.
        self.ask(&Pipeline::of(redis::cmd("LTRIM").arg(key).arg(1).arg(0)), deadline).map(drop)
    }

    /// Calls a script on a list and its claim, and reads the claim in the same round trip.
    fn call(
        &self,
        script: &Script,
        keys: &[&str; 2],
        deadline: Instant,
        args: impl Fn(&mut Cmd),
    ) -> Result<Vec<Value>, Lost> {
        let ask = |whole| {
            let mut pipeline = Pipeline::new();
            let mut command = script.call(whole, keys);
            args(&mut command);
            pipeline.push(&command);
            pipeline.push(redis::cmd("LRANGE").arg(keys[1]).arg(0).arg(-1));
            self.ask_each(&pipeline, deadline)
        };
        let replies = ask(false)?;
        match &replies[0] {
            Value::ServerError(error) if error.kind() == Some(ServerErrorKind::NoScript) => ask(true),
            _ => Ok(replies),
        }
    }
}

fn parse_all(elements: &[Value]) -> Result<Vec<Metrics>> {
    let parse = |(i, element): (usize, &Value)| {
        let Value::BulkString(text) = element else { return Err(unexpected(element)) };
        record::parse(text).ok_or_else(|| {
            let start = String::from_utf8_lossy(&text[..text.len().min(80)]);
            Error::new(Kind::BadRecord, format!("element {i} is {start:?}, not log_norm,log_norm_temp,entropy"))
        })
    };
    elements.iter().enumerate().map(parse).collect()
}

/// A name nobody else uses, in the key's own cluster slot: the key is the name's hash tag.
fn claim_name(key: &str) -> String {
    // Each RandomState is keyed differently, from the system's randomness.
    let token = RandomState::new().hash_one(std::process::id());
    format!("{{{key}}}:pita-claim:{token:016x}")
}
