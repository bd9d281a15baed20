//! Remembers that Redis is away, so that callers fail at once instead of finding out one by one.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Result};
use crate::sync::{lock, wait_until};

/// Closed while Redis is there; open while it is away.
#[derive(Default)]
pub struct Breaker {
    /// Whether `away` holds something, readable without the lock.
    is_open: AtomicBool,
    away: Mutex<Option<Away>>,
    closed: Condvar,
}

struct Away {
    since: Instant,
    cause: String,
}

impl Breaker {
    /// Fails where Redis is known to be away.
    pub fn check(&self) -> Result<()> {
        if !self.is_open.load(Relaxed) {
            return Ok(());
        }
        match &*lock(&self.away) {
            None => Ok(()),
            Some(away) => {
                let seconds = away.since.elapsed().as_secs_f32();
                Err(Error::new(Kind::Unavailable, format!("{} (away for {seconds:.1} s)", away.cause)))
            }
        }
    }

    /// Why Redis is away, if it is.
    pub fn cause(&self) -> Option<String> {
        lock(&self.away).as_ref().map(|away| away.cause.clone())
    }

    /// Redis is away, or still is, for this reason. True where that is news.
    pub fn open(&self, cause: &Error) -> bool {
        let mut away = lock(&self.away);
        let is_news = away.is_none();
        let since = away.as_ref().map_or_else(Instant::now, |away| away.since);
        *away = Some(Away { since, cause: cause.message.clone() });
        self.is_open.store(true, Relaxed);
        is_news
    }

    /// Redis is back. Returns how long it was away, where it was.
    pub fn close(&self) -> Option<Duration> {
        let mut guard = lock(&self.away);
        let away = guard.take();
        self.is_open.store(false, Relaxed);
        drop(guard);
        self.closed.notify_all();
        away.map(|away| away.since.elapsed())
    }

    /// Waits until Redis is back; false where `deadline` comes before.
    pub fn wait(&self, deadline: Instant) -> bool {
        let mut away = lock(&self.away);
        while away.is_some() {
            match wait_until(&self.closed, away, deadline) {
                Some(guard) => away = guard,
                None => return false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fails_while_it_is_open() {
        let breaker = Breaker::default();
        assert!(breaker.check().is_ok() && breaker.wait(Instant::now()));
        assert!(breaker.open(&Error::new(Kind::Unavailable, "refused")));
        assert!(!breaker.open(&Error::new(Kind::Unavailable, "no route")));
        let error = breaker.check().unwrap_err();
        assert_eq!(error.kind, Kind::Unavailable);
        assert!(error.message.starts_with("no route (away for "), "{error}");
        assert!(!breaker.wait(Instant::now() + Duration::from_millis(5)));
        assert!(breaker.close().is_some() && breaker.check().is_ok());
        assert!(breaker.close().is_none());
    }

    #[test]
    fn closing_it_wakes_who_waits() {
        let breaker = Breaker::default();
        breaker.open(&Error::new(Kind::Unavailable, "refused"));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| breaker.wait(Instant::now() + Duration::from_secs(60)));
            breaker.close();
            assert!(waiting.join().unwrap());
        });
    }
}
