//! Messages, names, versions, logs.

use std::ffi::{CString, c_char, c_int, c_void};

use super::boundary;
use crate::error::{self, pita_status_t};
use crate::log::{self, Level};

/// Log level: something was lost or is broken. The numbers are those of syslog.
pub const PITA_LOG_ERROR: c_int = 3;
/// Log level: something went wrong that the library copes with, or that a status reports.
pub const PITA_LOG_WARNING: c_int = 4;
/// Log level: a change worth knowing, such as an opened pool.
pub const PITA_LOG_INFO: c_int = 6;
/// Log level: for finding faults.
pub const PITA_LOG_DEBUG: c_int = 7;

/// This thread's last failure, in words: the argument and its value, or what Redis said. Never a password.
///
/// A call that succeeds leaves it as it is.
///
/// @return UTF-8, never NULL; empty when no call failed yet. It belongs to the library and is valid until the next
///         failing call of the same thread, or the thread's end.
///
/// Blocks: no. Since: 0.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn pita_last_error() -> *const c_char {
    boundary::last_error()
}

/// The name of a status, such as "PITA_ERR_TIMEOUT".
///
/// @return A constant, never NULL; "PITA_ERR_UNKNOWN" for a number that is no status.
///
/// Blocks: no. Since: 0.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn pita_status_name(status: pita_status_t) -> *const c_char {
    error::status_name(status).as_ptr()
}

/// The version of the loaded library, such as "0.1.0".
///
/// @return A constant, never NULL.
///
/// Blocks: no. Since: 0.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn pita_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

/// Sends the library's log lines to a function. Without one the library is silent.
///
/// The function is called on the thread where a line arises, maybe on several at once; no lock is held meanwhile. It may
/// call the library, but must not throw or longjmp. When this function returns, other threads that are inside the library
/// may still call the function that was set before: keep its `user` valid until they are out of it. The threads that write
/// what is queued and that look for Redis while it is away are among them, so a function and `user` that live as long as the
/// process are safest. What the function's own calls of the library would log is left out. On the thread that writes, a take,
/// count or discard of a request that has records in the queue is PITA_ERR_TIMEOUT: it cannot wait for itself.
///
/// @param callback  Gets the level (PITA_LOG_*), a UTF-8 line that is valid during the call, and `user`. NULL: silence.
/// @param user      Handed to the callback as it is.
///
/// Blocks: no. Since: 0.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn pita_set_log_callback(
    callback: Option<extern "C" fn(level: c_int, message: *const c_char, user: *mut c_void)>,
    user: *mut c_void,
) {
    let user = User(user);
    let sink = callback.map(|callback| -> Box<log::Sink> {
        Box::new(move |level: Level, message: &str| {
            let message = CString::new(message.replace('\0', "\\0")).unwrap_or_default();
            callback(level as c_int, message.as_ptr(), user.get());
        })
    });
    log::set(sink);
}

/// The caller's own pointer.
struct User(*mut c_void);

// SAFETY: it is never read here, only handed back; the header says that this happens on any thread.
unsafe impl Send for User {}
// SAFETY: as above.
unsafe impl Sync for User {}

impl User {
    fn get(&self) -> *mut c_void {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_levels_of_the_abi_are_those_of_the_crate() {
        let levels = [Level::Error, Level::Warning, Level::Info, Level::Debug].map(|level| level as c_int);
        assert_eq!(levels, [PITA_LOG_ERROR, PITA_LOG_WARNING, PITA_LOG_INFO, PITA_LOG_DEBUG]);
    }
}
