//! Locks. The standard library's: parking_lot keeps all waiting threads in one table of the process, whose locks a fork may
//! leave held in the child.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Locks. What a panic left behind is as good as anything: no invariant is broken half-way under our locks.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a notification, which may come for no reason; `None` where `deadline` has come.
pub fn wait_until<'a, T>(
    condition: &Condvar,
    guard: MutexGuard<'a, T>,
    deadline: Instant,
) -> Option<MutexGuard<'a, T>> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return None;
    }
    Some(condition.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0)
}
