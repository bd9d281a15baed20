//! Which lists had their life renewed a moment ago, so that an append need not renew it again.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Keys remembered at most. One that is forgotten costs a slower append, nothing else.
const SLOTS: usize = 4096;
/// Ticks a second.
const TICKS: u64 = 16;
/// Low bits of a slot that hold the tick; 40 bits of the key's hash lie above. 12 days pass before ticks repeat.
const TICK_BITS: u32 = 24;

/// A lock-free table of keys and when their life was last renewed by this process.
pub struct Renewals {
    hasher: RandomState,
    began: Instant,
    /// Ticks for which a renewal counts as fresh.
    fresh: u64,
    slots: Box<[AtomicU64]>,
}

impl Renewals {
    /// For lists that live `ttl`: a renewal is fresh for an eighth of it, a second at most.
    pub fn new(ttl: Duration) -> Self {
        let fresh = (ttl / 8).min(Duration::from_secs(1));
        Renewals {
            hasher: RandomState::new(),
            began: Instant::now(),
            fresh: ticks(fresh),
            slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    pub fn is_fresh(&self, key: &str) -> bool {
        let (slot, tag) = self.find(key);
        let entry = slot.load(Ordering::Relaxed);
        let age = self.now().wrapping_sub(entry) & mask(TICK_BITS);
        entry & !mask(TICK_BITS) == tag && age < self.fresh
    }

    pub fn renewed(&self, key: &str) {
        let (slot, tag) = self.find(key);
        slot.store(tag | (self.now() & mask(TICK_BITS)), Ordering::Relaxed);
    }

    fn find(&self, key: &str) -> (&AtomicU64, u64) {
        let hash = self.hasher.hash_one(key);
        // The slot comes from the bits that the tag leaves out; a tag of 0 marks an empty slot.
        let tag = (hash & !mask(TICK_BITS)).max(1 << TICK_BITS);
        (&self.slots[hash as usize % SLOTS], tag)
    }

    fn now(&self) -> u64 {
        ticks(self.began.elapsed())
    }
}

fn ticks(time: Duration) -> u64 {
    time.as_millis() as u64 * TICKS / 1000
}

const fn mask(bits: u32) -> u64 {
    (1 << bits) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewal_is_fresh_for_its_key_alone() {
        let renewals = Renewals::new(Duration::from_secs(3600));
        assert!(!renewals.is_fresh("a"));
        renewals.renewed("a");
        assert!(renewals.is_fresh("a") && !renewals.is_fresh("b"));
    }

    #[test]
    fn a_renewal_ages() {
        let mut renewals = Renewals::new(Duration::from_secs(3600));
        renewals.renewed("a");
        renewals.began -= Duration::from_millis(900);
        assert!(renewals.is_fresh("a"));
        renewals.began -= Duration::from_millis(200);
        assert!(!renewals.is_fresh("a"));
    }
}
