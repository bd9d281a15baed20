//! Taking: a list is claimed under a name of the taker's own, read, and only then deleted.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use redis::Value;

use super::ask::{Answer, Lost, first_refusal, unexpected};
use super::claims::{CLAIM_LIFE, CLOCK_MARGIN, Unseen};
use super::client::Client;
use super::connection::refused;
use super::pipeline::{CLAIM, Pipeline};
use super::slot;
use crate::error::{Error, Kind, Result};
use crate::metrics::Metrics;
use crate::process;
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

impl Client {
    /// Takes all records of a request, unless there are more than `room`. Blocks until the pool's timeout at most.
    pub fn take(&self, id: &str, room: usize) -> Result<Taken> {
        self.take_if(id, Wanted { least: 0, most: room }, self.deadline())
    }

    /// Takes all records once there are `expected`, or says how many there are when `timeout` has passed.
    ///
    /// Blocks for `timeout`, and the pool's timeout more.
    pub fn take_wait(&self, id: &str, expected: usize, timeout: Duration, room: usize) -> Result<Taken> {
        let end = Instant::now() + timeout;
        let mut nap = Duration::from_micros(50);
        loop {
            // As long as there is time to wait, there is to wait for the queue.
            self.flush_request(id, end.max(self.deadline()))?;
            let taken = self.take_if(id, Wanted { least: expected, most: room }, self.deadline())?;
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
    fn take_if(&self, id: &str, wanted: Wanted, deadline: Instant) -> Result<Taken> {
        let key = &self.settled_key(id, deadline)?;
        let claim = claim_name(key);
        let (answer, too_late) = self.claim(key, &claim, wanted, deadline);
        let unseen = Unseen { lives_for_ever: self.config().ttl.is_none(), too_late, due: deadline + CLOCK_MARGIN };
        let Answer { replies, is_repeated } = answer.map_err(|lost| {
            if lost.was_sent {
                self.doubt(key, &claim, unseen);
            }
            lost.error
        })?;
        // A first request without an answer may arrive late, and claim what is stored until then.
        let late = is_repeated.then_some(unseen);
        let [Value::Array(claimed), elements] = replies.as_slice() else {
            return Err(first_refusal(&replies).unwrap_or_else(|| unexpected(&replies[0])));
        };
        let [Value::Int(length), Value::Int(lived_for_ever)] = claimed.as_slice() else {
            return Err(unexpected(&replies[0]));
        };
        let found = *length as usize;
        if found < wanted.least || found > wanted.most || found == 0 {
            if let Some(unseen) = late {
                self.doubt(key, &claim, unseen);
            }
            return Ok(match found {
                _ if found < wanted.least => Taken::TooFew { found, wanted: wanted.least, waited: Duration::ZERO },
                0 => Taken::All(Vec::new()),
                _ => Taken::TooMany(found),
            });
        }
        match parse_all(elements) {
            Ok(records) => {
                self.acknowledge(key, &claim, late, deadline);
                self.stats.taken.fetch_add(records.len() as u64, Relaxed);
                Ok(Taken::All(records))
            }
            Err(error) => {
                let lives_for_ever = if *lived_for_ever < 0 { unseen.lives_for_ever } else { *lived_for_ever == 1 };
                self.doubt(key, &claim, Unseen { lives_for_ever, ..unseen });
                self.settle_list(key, deadline)?;
                Err(error)
            }
        }
    }

    /// The key of a request whose list holds all that this process has left under way: in the queue, or in a claim.
    fn settled_key(&self, id: &str, deadline: Instant) -> Result<String> {
        self.flush_request(id, deadline)?;
        let key = self.key(id);
        self.settle_list(&key, deadline)?;
        Ok(key)
    }

    /// Claims a list and reads the claim, in one round trip. Says as well when it would have been too late for that.
    fn claim(&self, key: &str, claim: &str, wanted: Wanted, deadline: Instant) -> (Result<Answer, Lost>, u64) {
        let number = |count: usize| count.min(i64::MAX as usize);
        let args = [number(wanted.least), number(wanted.most), CLAIM_LIFE.as_millis() as usize];
        // The latest of all attempts; a time that is not known is later than any.
        let latest = Cell::new(None);
        let ask = |at_any_time: bool| {
            let commands =
                |whole, too_late| {
                    let too_late = if at_any_time { 0 } else { too_late };
                    latest.set(Some(latest.get().map_or(too_late, |before| {
                        if before == 0 || too_late == 0 { 0 } else { too_late.max(before) }
                    })));
                    let mut pipeline = Pipeline::of(CLAIM.call(whole, &[key, claim], too_late).arg(&args));
                    pipeline.push(redis::cmd("LRANGE").arg(claim).arg(0).arg(-1));
                    pipeline
                };
            self.ask_script(key, commands, deadline.into())
        };
        let answer = match ask(false) {
            // Too late by a clock that has been put forward, for somebody is still waiting.
            Ok(answer) if answer.replies[0] == Value::Nil => {
                ask(true).map(|again| again.after(&answer)).map_err(|lost| lost.after(&answer))
            }
            answer => answer,
        };
        (answer, latest.get().unwrap_or(0))
    }

    /// How many records a request has.
    pub fn count(&self, id: &str) -> Result<usize> {
        let deadline = self.deadline();
        let key = self.settled_key(id, deadline)?;
        let replies = self.ask(&key, &|_| Pipeline::of(redis::cmd("LLEN").arg(&key)), deadline.into())?;
        match replies[0] {
            Value::Int(count) => Ok(count as usize),
            ref other => Err(unexpected(other)),
        }
    }

    /// Deletes all records of a request. Refused like all else where the key holds no list.
    pub fn discard(&self, id: &str) -> Result<()> {
        let deadline = self.deadline();
        let key = self.settled_key(id, deadline)?;
        // Unlike DEL, a trim to nothing leaves a foreign value alone.
        self.ask(&key, &|_| Pipeline::of(redis::cmd("LTRIM").arg(&key).arg(1).arg(0)), deadline.into()).map(drop)
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

/// A name nobody else uses, in the key's own slot of a cluster: that of its hash tag. A key without one becomes the tag, unless
/// it has a `}` that would end the tag early; then another tag of the slot does.
fn claim_name(key: &str) -> String {
    // Each RandomState is keyed differently, from the system's randomness; only a fork makes two alike.
    let token = RandomState::new().hash_one(process::id());
    if slot::tag(key).is_some() {
        format!("{key}:pita-claim:{token:016x}")
    } else if key.contains('}') {
        format!("{{{}}}{key}:pita-claim:{token:016x}", slot::tag_of(slot::of(key)))
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
            // The key can be no tag.
            ("a}b", "{"),
            ("{}x", "{"),
        ] {
            let claim = claim_name(key);
            assert!(claim.starts_with(start), "{key}: {claim}");
            assert_eq!(slot::of(&claim), slot::of(key), "{key}: {claim}");
        }
        assert_ne!(claim_name("a"), claim_name("a"));
    }
}
