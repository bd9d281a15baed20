//! Lines for whoever listens. Silent otherwise.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

use arc_swap::ArcSwapOption;

/// How much a line matters. The numbers are those of syslog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Level {
    /// Something was lost or is broken.
    Error = 3,
    /// Something went wrong that the library copes with, or that a status reports.
    Warning = 4,
    /// A change worth knowing, such as an opened pool.
    Info = 6,
    /// For finding faults.
    Debug = 7,
}

/// Gets every line, on the thread where it arises.
pub type Sink = dyn Fn(Level, &str) + Send + Sync;

static SINK: ArcSwapOption<Box<Sink>> = ArcSwapOption::const_empty();

thread_local! {
    static CALLING_OUT: Cell<bool> = const { Cell::new(false) };
}

/// Sends lines to `sink` from now on; `None` silences them.
pub fn set(sink: Option<Box<Sink>>) {
    SINK.store(sink.map(Arc::new));
}

/// Hands the line that `message` makes to the sink, holding no lock meanwhile.
///
/// What the sink itself causes by calling the library is not logged: it would never end.
pub fn emit(level: Level, message: impl FnOnce() -> String) {
    let Some(sink) = SINK.load_full() else { return };
    if CALLING_OUT.replace(true) {
        return;
    }
    sink(level, &message());
    CALLING_OUT.set(false);
}

/// As [`emit`], for a fault that may come again and again: the lines of a kind share a limit. The first line after some that
/// were left out says how many.
pub fn emit_limited(limit: &Limit, level: Level, message: impl FnOnce() -> String) {
    if SINK.load().is_none() || CALLING_OUT.get() {
        return;
    }
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    match limit.admit(seconds / PERIOD_S) {
        None => {}
        Some(0) => emit(level, message),
        Some(left_out) => emit(level, || format!("{} ({left_out} more such lines were left out)", message())),
    }
}

/// A limit's lines are counted anew after so many seconds.
const PERIOD_S: u64 = 10;
/// Lines of one kind that are passed on in a period.
const LINES: u64 = 10;

/// Keeps a fault that comes again and again from flooding the log.
pub struct Limit {
    /// The period, above, and how many lines it has had so far, in the lower half.
    state: AtomicU64,
}

impl Limit {
    /// One that has had no line.
    pub const fn new() -> Self {
        Limit { state: AtomicU64::new(0) }
    }

    /// Counts a line. `None` where it is too many; otherwise how many were left out in the period before.
    fn admit(&self, period: u64) -> Option<u64> {
        let count = |state: u64| state & u64::from(u32::MAX);
        let is_same = |state: u64| state >> 32 == period;
        let one_more = |state: u64| Some(if is_same(state) { state + 1 } else { period << 32 | 1 });
        let before = self.state.fetch_update(Relaxed, Relaxed, one_more).unwrap_or_default();
        match is_same(before) {
            true => (count(before) < LINES).then_some(0),
            false => Some(count(before).saturating_sub(LINES)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_off_and_counted() {
        let limit = Limit::new();
        let admitted: Vec<_> = (0..LINES + 3).map(|_| limit.admit(7)).collect();
        assert!(admitted[..LINES as usize].iter().all(|line| *line == Some(0)));
        assert!(admitted[LINES as usize..].iter().all(Option::is_none));
        assert_eq!(limit.admit(8), Some(3), "the next period says what was left out");
        assert_eq!(limit.admit(8), Some(0));
        assert_eq!(limit.admit(20), Some(0), "nothing was left out");
    }
}
