//! Panics: bugs of ours that stay inside.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};

use once_cell::race::OnceBool;

use crate::error::{Error, Kind, Result};
use crate::log::{self, Level};

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `body`; a panic of it becomes an error that says so, and is logged.
pub fn contain<T>(body: impl FnOnce() -> T) -> Result<T> {
    silence();
    let outer = INSIDE.replace(true);
    // Unwind safety: what a panic leaves half done is a leased connection, which is then thrown away.
    let result = panic::catch_unwind(AssertUnwindSafe(body));
    INSIDE.set(outer);
    result.map_err(|payload| {
        let error = Error::new(Kind::Panic, format!("a bug in pita-redis: {}", text(&*payload)));
        // Dropping a payload may panic once more.
        std::mem::forget(payload);
        log::emit(Level::Error, || error.message.clone());
        error
    })
}

fn text(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("panic")
}

/// A library prints nothing: Rust's panic message stays out of stderr, for panics of ours only.
fn silence() {
    static DONE: OnceBool = OnceBool::new();
    DONE.get_or_init(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !INSIDE.try_with(Cell::get).unwrap_or(false) {
                previous(info);
            }
        }));
        true
    });
}
