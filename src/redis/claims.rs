//! Claims that may lie in Redis though their take has ended, and how they are settled.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use redis::Value;

use super::ask::{Until, first_refusal, unexpected};
use super::client::Client;
use super::config::Config;
use super::pipeline::{Pipeline, RESTORE};
use crate::error::{Kind, Result};
use crate::log::{self, Level, Limit};
use crate::process::PerProcess;
use crate::sync::lock;

/// The life of a claim on a list that lived for ever. A claim on another list lives as long as that would have.
pub const CLAIM_LIFE: Duration = Duration::from_secs(3600);
/// By how much our reckoning of the server's clock may be off.
pub const CLOCK_MARGIN: Duration = Duration::from_millis(100);
/// After a refusal, for which there may be many a passing reason, before the next attempt.
const REST: Duration = Duration::from_secs(1);
/// So many claims whose records were delivered are remembered at most: the server ends their lives, too.
const MOST_DELIVERED: usize = 4096;
/// So many of these at most are deleted within a call: each costs a round trip.
pub(super) const DELETED_AT_ONCE: usize = 16;

/// Claims of all pools that this process has opened: Redis was asked for them without our having read them, or to delete
/// them without an answer. Each is kept until it is settled for sure, or has expired.
pub struct DoubtfulClaims {
    doubts: Mutex<Vec<Doubt>>,
    /// How many there are, readable without the lock.
    count: AtomicUsize,
}

/// A claim in doubt.
#[derive(Clone)]
struct Doubt {
    /// The server, as messages name it.
    server: String,
    key: String,
    claim: String,
    fate: Fate,
    /// Not to be settled before.
    from: Instant,
    /// When the claim would have expired.
    until: Instant,
}

/// What is to become of a claim.
#[derive(Clone, Copy)]
enum Fate {
    /// Its records were delivered: it is deleted. Only then is there something to give back: what a request that arrives late
    /// may claim.
    Delivered(Option<Unseen>),
    /// Nobody has seen its records, if there are any: it goes back to its list.
    Unseen(Unseen),
}

/// What is known of a claim that was asked for without an answer.
#[derive(Clone, Copy)]
pub struct Unseen {
    /// Whether its list lives for ever, as far as is known.
    pub lives_for_ever: bool,
    /// The server's time from which on the claim cannot be made any more; 0 where that is not known.
    pub too_late: u64,
    /// The same by our clock, and a little more.
    pub due: Instant,
}

impl DoubtfulClaims {
    /// Those of this process. A forked child begins with none: its parent sees to the others.
    pub fn of_this_process() -> Arc<Self> {
        static CURRENT: PerProcess<DoubtfulClaims> = PerProcess::new();
        CURRENT.get_or_make(|| DoubtfulClaims { doubts: Mutex::default(), count: AtomicUsize::new(0) })
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Doubt>)) {
        let mut doubts = lock(&self.doubts);
        doubts.retain(|doubt| doubt.until > Instant::now());
        change(&mut doubts);
        self.count.store(doubts.len(), Relaxed);
    }

    fn add(&self, doubt: Doubt) {
        self.change(|doubts| {
            let is_delivered = |doubt: &Doubt| matches!(doubt.fate, Fate::Delivered(None));
            if doubts.iter().filter(|doubt| is_delivered(doubt)).count() >= MOST_DELIVERED
                && let Some(oldest) = doubts.iter().position(is_delivered)
            {
                doubts.remove(oldest);
            }
            doubts.push(doubt);
        });
    }

    /// Each claim's name is its own.
    fn settle(&self, settled: &Doubt) {
        self.change(|doubts| doubts.retain(|doubt| doubt.claim != settled.claim));
    }

    /// Whoever may not delete one claim may not delete the others.
    fn postpone(&self, refused: &Doubt) {
        let deletes = |doubt: &Doubt| matches!(doubt.fate, Fate::Delivered(_)) && doubt.server == refused.server;
        let is_alike = |doubt: &Doubt| doubt.claim == refused.claim || (deletes(refused) && deletes(doubt));
        let from = Instant::now() + REST;
        self.change(|doubts| doubts.iter_mut().filter(|doubt| is_alike(doubt)).for_each(|doubt| doubt.from = from));
    }

    /// Those of a server that are wanted.
    fn which(&self, server: &Config, wanted: impl Fn(&Doubt) -> bool) -> Vec<Doubt> {
        if self.count.load(Relaxed) == 0 {
            return Vec::new();
        }
        let server = server.to_string();
        lock(&self.doubts).iter().filter(|doubt| doubt.server == server && wanted(doubt)).cloned().collect()
    }
}

impl Client {
    /// Remembers that a claim may lie in Redis, or come to, that nobody has seen.
    pub(super) fn doubt(&self, key: &str, claim: &str, unseen: Unseen) {
        self.claims.add(self.doubt_of(key, claim, Fate::Unseen(unseen)));
    }

    /// The records are here: deletes the claim, now or when Redis is back. `late` is what is known of a first request for it
    /// that was not answered, if there was one.
    pub(super) fn acknowledge(&self, key: &str, claim: &str, late: Option<Unseen>, deadline: Instant) {
        let doubt = self.doubt_of(key, claim, Fate::Delivered(late));
        match (self.delete(&doubt, deadline.into()), late) {
            (Ok(()), None) => {}
            (Ok(()), Some(unseen)) => self.doubt(key, claim, unseen),
            (Err(error), _) => {
                static UNDELETED: Limit = Limit::new();
                log::emit_limited(&UNDELETED, Level::Warning, || format!("{claim} will be deleted later: {error}"));
                self.claims.add(doubt);
            }
        }
    }

    fn doubt_of(&self, key: &str, claim: &str, fate: Fate) -> Doubt {
        let (now, server) = (Instant::now(), self.config().to_string());
        let from = match fate {
            Fate::Unseen(Unseen { due, .. }) => due,
            Fate::Delivered(_) => now,
        };
        let life = self.config().ttl.map_or(CLAIM_LIFE, |ttl| ttl.max(CLAIM_LIFE));
        Doubt { server, key: key.into(), claim: claim.into(), fate, from, until: now + life }
    }

    /// Settles the claims in doubt for which the time has come, of `wanted` keys; of those that are only to be deleted, so many
    /// at most. What fails is tried again at another time.
    pub(super) fn settle_claims(&self, deadline: Instant, mut deletions: usize, wanted: impl Fn(&str) -> bool) {
        let may_stay = |doubt: &Doubt| matches!(doubt.fate, Fate::Unseen(Unseen { too_late: 0, .. }));
        let is_due = |doubt: &Doubt| doubt.from <= Instant::now() && !may_stay(doubt) && wanted(&doubt.key);
        // A slot that is moved may take its time.
        let until = Until { deadline, is_patient: false };
        for doubt in self.claims.which(self.config(), is_due) {
            let result = match doubt.fate {
                Fate::Delivered(_) if deletions == 0 => continue,
                Fate::Delivered(late) => self.delete(&doubt, until).map(|()| {
                    self.claims.settle(&doubt);
                    late.into_iter().for_each(|unseen| self.doubt(&doubt.key, &doubt.claim, unseen));
                }),
                Fate::Unseen(unseen) => self.give_back(&doubt, unseen, until).map(drop),
            };
            let deletes = matches!(doubt.fate, Fate::Delivered(_));
            deletions -= usize::from(deletes);
            if let Err(error) = result {
                // In a cluster the other claims may be another server's.
                let is_gone = matches!(error.kind, Kind::Unavailable | Kind::Timeout);
                if is_gone && (self.topology.cluster().is_none() || Instant::now() >= deadline) {
                    return;
                }
                static POSTPONED: Limit = Limit::new();
                log::emit_limited(&POSTPONED, Level::Warning, || format!("{} has to wait: {error}", doubt.claim));
                self.claims.postpone(&doubt);
                if deletes {
                    deletions = 0;
                }
            }
        }
    }

    /// Gives back what earlier takes of this process may have claimed of a list without reading it.
    pub(super) fn settle_list(&self, key: &str, deadline: Instant) -> Result<()> {
        for doubt in self.claims.which(self.config(), |doubt| doubt.key == key) {
            let Fate::Unseen(unseen) = doubt.fate else { continue };
            while !self.give_back(&doubt, unseen, deadline.into())? {
                // Is it to be known for sure in a moment? If that has passed, the server's clock is not what it was.
                let left = unseen.due.saturating_duration_since(Instant::now());
                let is_near = unseen.too_late > 0 && !left.is_zero() && left <= CLOCK_MARGIN;
                if !is_near || !self.pause(self.topology.known_node(key).as_deref(), 0, deadline) {
                    break;
                }
            }
        }
        Ok(())
    }

    fn delete(&self, doubt: &Doubt, until: Until) -> Result<()> {
        self.ask(&doubt.key, &|_| Pipeline::of(redis::cmd("UNLINK").arg(&doubt.claim)), until).map(drop)
    }

    /// Gives a claim back to its list, if it is there; false where it may yet come to be.
    fn give_back(&self, doubt: &Doubt, unseen: Unseen, until: Until) -> Result<bool> {
        let keys = [doubt.key.as_str(), &doubt.claim];
        let lives_for_ever = i32::from(unseen.lives_for_ever);
        let commands = |whole, _| Pipeline::of(RESTORE.call(whole, &keys, unseen.too_late).arg(lives_for_ever));
        match self.ask_script(&doubt.key, commands, until).map_err(|lost| lost.error)?.replies.as_slice() {
            [Value::Int(-1)] => Ok(false),
            [Value::Int(_)] => {
                self.claims.settle(doubt);
                Ok(true)
            }
            replies => Err(first_refusal(replies).unwrap_or_else(|| unexpected(&replies[0]))),
        }
    }
}
