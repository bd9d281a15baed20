//! Counters of a pool, cheap enough to be always on.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::store::Placement;
use crate::error::{Kind, Result};

/// What a pool has done since it was opened. Records, unless said otherwise.
#[derive(Default)]
pub struct Stats {
    pub appended: AtomicU64,
    pub indexed: AtomicU64,
    pub taken: AtomicU64,
    /// Sent once more, over another connection.
    pub retried: AtomicU64,
    /// Sent, answer lost.
    pub uncertain: AtomicU64,
    /// Answered with an error, or past the end of the list.
    pub refused: AtomicU64,
    pub bytes_sent: AtomicU64,
    pub bytes_received: AtomicU64,
    pub store_calls: Histogram,
    pub round_trips: Histogram,
}

/// A reading of [`Stats`] and of the pool.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)] // as above
pub struct Snapshot {
    pub appended: u64,
    pub indexed: u64,
    pub taken: u64,
    pub retried: u64,
    pub uncertain: u64,
    pub refused: u64,
    /// In the write-behind queue now, and at most so far.
    pub queued: u64,
    pub queued_max: u64,
    pub connections: u64,
    pub reconnects: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub store_calls: Latency,
    pub round_trips: Latency,
}

/// How long something took, in nanoseconds. Percentiles are at most 13 % above the true value.
///
/// Of no sample at all, everything is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Latency {
    /// Samples.
    pub count: u64,
    /// Half took at most this long.
    pub p50_ns: u64,
    /// 90 % took at most this long.
    pub p90_ns: u64,
    /// 99 % took at most this long.
    pub p99_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

impl Stats {
    /// Counts records that were stored or not.
    pub fn count(&self, placement: Placement, records: u64, result: &Result<()>) {
        let counter = match (result, placement) {
            (Ok(()), Placement::Append) => &self.appended,
            (Ok(()), Placement::At(_)) => &self.indexed,
            (Err(error), _) if error.kind == Kind::Uncertain => &self.uncertain,
            (Err(error), _) if matches!(error.kind, Kind::Unavailable | Kind::Timeout) => return,
            (Err(_), _) => &self.refused,
        };
        counter.fetch_add(records, Relaxed);
    }

    /// A reading; what is not counted here is 0.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            appended: self.appended.load(Relaxed),
            indexed: self.indexed.load(Relaxed),
            taken: self.taken.load(Relaxed),
            retried: self.retried.load(Relaxed),
            uncertain: self.uncertain.load(Relaxed),
            refused: self.refused.load(Relaxed),
            bytes_sent: self.bytes_sent.load(Relaxed),
            bytes_received: self.bytes_received.load(Relaxed),
            store_calls: self.store_calls.latency(),
            round_trips: self.round_trips.latency(),
            ..Snapshot::default()
        }
    }
}

/// Steps to a doubling: each bucket is at most an eighth wider than the last.
const STEPS: u32 = 8;
/// Buckets: all of u64.
const BUCKETS: usize = (64 - STEPS.ilog2() as usize + 1) * STEPS as usize;

/// A histogram of durations whose buckets grow with the duration.
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    max: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { buckets: [const { AtomicU64::new(0) }; BUCKETS], max: AtomicU64::new(0) }
    }
}

impl Histogram {
    pub fn record(&self, time: Duration) {
        let nanos = time.as_nanos() as u64;
        self.buckets[bucket(nanos)].fetch_add(1, Relaxed);
        self.max.fetch_max(nanos, Relaxed);
    }

    pub fn latency(&self) -> Latency {
        let counts = self.buckets.each_ref().map(|bucket| bucket.load(Relaxed));
        let count: u64 = counts.iter().sum();
        let max = self.max.load(Relaxed);
        let percentile = |percent: u64| {
            let rank = (count * percent).div_ceil(100);
            let mut seen = 0;
            let found = counts.iter().position(|n| {
                seen += n;
                seen >= rank && seen > 0
            });
            found.map_or(0, |bucket| upper(bucket).min(max))
        };
        Latency { count, p50_ns: percentile(50), p90_ns: percentile(90), p99_ns: percentile(99), max_ns: max }
    }
}

/// Below 8 a bucket a number; above, 8 buckets to each power of two.
fn bucket(nanos: u64) -> usize {
    let shift = nanos.max(1).ilog2().saturating_sub(STEPS.ilog2());
    (shift * STEPS) as usize + (nanos >> shift) as usize
}

/// The greatest number in a bucket.
fn upper(bucket: usize) -> u64 {
    let shift = (bucket as u32 / STEPS).saturating_sub(1);
    let step = bucket as u64 - u64::from(shift * STEPS);
    (step << shift) + ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_in_order_and_narrow() {
        for nanos in (0..100_000).chain([u64::MAX / 2, u64::MAX - 1, u64::MAX]) {
            let bucket = bucket(nanos);
            assert!(bucket < BUCKETS);
            assert!(upper(bucket) >= nanos && upper(bucket) - nanos <= nanos / 8, "{nanos} in {bucket}");
        }
    }

    #[test]
    fn percentiles_are_those_of_the_samples() {
        let histogram = Histogram::default();
        assert_eq!(histogram.latency(), Latency::default());
        for micros in 1..=1000 {
            histogram.record(Duration::from_micros(micros));
        }
        let latency = histogram.latency();
        assert_eq!((latency.count, latency.max_ns), (1000, 1_000_000));
        for (found, expected) in [(latency.p50_ns, 500), (latency.p90_ns, 900), (latency.p99_ns, 990)] {
            assert!(found >= expected * 1000 && found <= expected * 1130, "{found} for {expected} us");
        }
    }
}
