//! Lines for whoever listens. Silent otherwise.

use std::cell::Cell;
use std::sync::Arc;

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
