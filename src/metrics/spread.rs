//! Spreads the rows of a large batch over threads. Rows stay whole; nothing outlives the call.

use std::num::NonZeroUsize;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use once_cell::race::OnceNonZeroUsize;

use super::kernel::{self, Kernel};
use super::{Job, Metrics, compute_by};
use crate::error::{Error, Result};

/// Elements that are worth a thread: starting one takes about 40 us, in which a core reduces a quarter of these.
const ELEMENTS_PER_THREAD: usize = 1 << 19;

/// Computes each request; the results are in the order of `jobs`.
///
/// Small work stays on the calling thread. Large work is shared with threads that are started for it: as many as the
/// process's CPU affinity allows, or fewer if the environment variable `PITA_NUM_THREADS` says so.
pub fn compute_all(jobs: &[Job<'_>]) -> Vec<Metrics> {
    compute_with(jobs, kernel::chosen(), threads_for(jobs))
}

fn threads_for(jobs: &[Job<'_>]) -> usize {
    let elements: usize = jobs.iter().map(|job| job.row.len()).sum();
    let worth = (elements / ELEMENTS_PER_THREAD).min(jobs.len());
    if worth <= 1 {
        return 1;
    }
    let cpus = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    worth.min(cpus).min(chosen_cap().get())
}

/// The cap of this process, read at the first call: the environment is no place to look into while others may change it.
fn chosen_cap() -> NonZeroUsize {
    static CHOSEN: OnceNonZeroUsize = OnceNonZeroUsize::new();
    // A bad value was reported when the pool was opened.
    CHOSEN.get_or_init(|| thread_cap().unwrap_or(NonZeroUsize::MAX))
}

/// `PITA_NUM_THREADS`; no limit where it is not set or empty.
pub fn thread_cap() -> Result<NonZeroUsize> {
    match std::env::var_os("PITA_NUM_THREADS") {
        Some(text) if !text.is_empty() => text
            .to_str()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| Error::config(format!("PITA_NUM_THREADS is {text:?}: must be a whole number from 1"))),
        _ => Ok(NonZeroUsize::MAX),
    }
}

fn compute_with(jobs: &[Job<'_>], kernel: &Kernel, threads: usize) -> Vec<Metrics> {
    if threads <= 1 {
        return jobs.iter().map(|job| compute_by(job, kernel)).collect();
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = jobs.get(i) else { return done };
            done.push((i, compute_by(job, kernel)));
        }
    };
    let mut results = vec![Metrics::default(); jobs.len()];
    thread::scope(|scope| {
        // Where no thread is to be had, the others do its share.
        let start = |_| thread::Builder::new().name("pita-compute".into()).spawn_scoped(scope, work).ok();
        let helpers: Vec<_> = (1..threads).map_while(start).collect();
        let mine = work();
        let theirs = helpers.into_iter().flat_map(|helper| helper.join().unwrap_or_else(|panic| resume_unwind(panic)));
        for (i, metrics) in mine.into_iter().chain(theirs) {
            results[i] = metrics;
        }
    });
    results
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Row, Wanted};

    /// However many threads there are, each request gets its own row's metrics.
    #[test]
    fn threads_change_nothing() {
        let rows: Vec<Vec<[u8; 4]>> = (0..37)
            .map(|row| (0..500 + 7 * row).map(|i| ((i * row) as f32 * 0.37).sin().to_ne_bytes()).collect())
            .collect();
        let wanted = Wanted { normalization: true, entropy: true };
        let jobs: Vec<Job<'_>> = rows.iter().map(|row| Job { row: Row::F32(row), temperature: 0.7, wanted }).collect();
        let alone = compute_with(&jobs, kernel::chosen(), 1);
        for threads in [2, 3, 64] {
            assert_eq!(compute_with(&jobs, kernel::chosen(), threads), alone, "{threads} threads");
        }
    }

    #[test]
    fn small_work_starts_no_thread() {
        let row = vec![[0; 4]; ELEMENTS_PER_THREAD];
        let job = Job {
            row: Row::F32(&row[..1000]),
            temperature: 1.0,
            wanted: Wanted { normalization: true, entropy: true },
        };
        assert_eq!(threads_for(&[job; 100]), 1);
        // One row is never split.
        assert_eq!(threads_for(&[Job { row: Row::F32(&row), ..job }]), 1);
    }
}
