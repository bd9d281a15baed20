//! The one error of the crate. Its codes are the statuses of the C ABI.

use std::ffi::CStr;
use std::fmt;

/// What a call returns: `PITA_OK` (0), or a negative `PITA_ERR_*`. The numbers never change.
#[allow(non_camel_case_types)]
pub type pita_status_t = i32;

/// Success.
pub const PITA_OK: i32 = 0;
/// An argument is NULL, zero, out of range, over-long, not UTF-8, or contradicts another. Nothing was done.
pub const PITA_ERR_INVALID_ARGUMENT: i32 = -1;
/// `pita_redis_open` was not called, or `pita_redis_close` was.
pub const PITA_ERR_NOT_OPEN: i32 = -2;
/// The URL or the environment cannot be understood, or the pool is already open with other settings.
pub const PITA_ERR_CONFIG: i32 = -3;
/// No connection to Redis. Nothing was stored or taken.
pub const PITA_ERR_UNAVAILABLE: i32 = -4;
/// Time ran out. Nothing was stored or taken.
pub const PITA_ERR_TIMEOUT: i32 = -5;
/// Redis refused the user, the password, or the user's rights.
pub const PITA_ERR_AUTH: i32 = -6;
/// Redis answered with an error (WRONGTYPE, OOM, READONLY ...). The message has its words.
pub const PITA_ERR_REDIS: i32 = -7;
/// The records were sent, but the answer was lost: they may or may not be stored.
pub const PITA_ERR_UNCERTAIN: i32 = -8;
/// An element of the list is not a record. Nothing was taken.
pub const PITA_ERR_BAD_RECORD: i32 = -9;
/// The caller's buffer is too small. `*count` says how many records there are. Nothing was taken.
pub const PITA_ERR_BUFFER_TOO_SMALL: i32 = -10;
/// `token_index` is past the end of the list. Not stored.
pub const PITA_ERR_GAP: i32 = -11;
/// The write-behind queue is full, and stayed so for `timeout_ms`, or nothing moves since a store waited for that in vain. Not
/// stored.
pub const PITA_ERR_QUEUE_FULL: i32 = -12;
/// This build or this machine cannot do it, such as reading a CUDA buffer where there is no driver. Nothing was done.
pub const PITA_ERR_UNSUPPORTED: i32 = -13;
/// The CUDA driver reported an error. The message has its words.
pub const PITA_ERR_CUDA: i32 = -14;
/// A bug in this library, contained. Please report it with the message.
pub const PITA_ERR_PANIC: i32 = -127;

/// The kinds of failure; each is the status of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
#[allow(missing_docs)] // the constants say it
pub enum Kind {
    InvalidArgument = PITA_ERR_INVALID_ARGUMENT,
    NotOpen = PITA_ERR_NOT_OPEN,
    Config = PITA_ERR_CONFIG,
    Unavailable = PITA_ERR_UNAVAILABLE,
    Timeout = PITA_ERR_TIMEOUT,
    Auth = PITA_ERR_AUTH,
    Redis = PITA_ERR_REDIS,
    Uncertain = PITA_ERR_UNCERTAIN,
    BadRecord = PITA_ERR_BAD_RECORD,
    BufferTooSmall = PITA_ERR_BUFFER_TOO_SMALL,
    Gap = PITA_ERR_GAP,
    QueueFull = PITA_ERR_QUEUE_FULL,
    Unsupported = PITA_ERR_UNSUPPORTED,
    Cuda = PITA_ERR_CUDA,
    Panic = PITA_ERR_PANIC,
}

/// A failure: its kind, and what happened in words that name the argument and the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Which status the caller gets.
    pub kind: Kind,
    /// What `pita_last_error` says. Never holds a password.
    pub message: String,
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind` with `message`.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error { kind, message: message.into() }
    }

    /// [`Kind::InvalidArgument`]: `message` names the argument and its value.
    pub fn invalid(message: impl Into<String>) -> Self {
        Error::new(Kind::InvalidArgument, message)
    }

    /// [`Kind::Config`]: `message` names the parameter or variable and its value.
    pub fn config(message: impl Into<String>) -> Self {
        Error::new(Kind::Config, message)
    }

    /// The status of the C ABI.
    pub fn status(&self) -> pita_status_t {
        self.kind as pita_status_t
    }

    /// The same failure, said of `what`, such as one request of a batch.
    pub fn of(mut self, what: fmt::Arguments<'_>) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// The constant's name, such as `PITA_ERR_TIMEOUT`; `PITA_ERR_UNKNOWN` for a number that is no status.
pub fn status_name(status: pita_status_t) -> &'static CStr {
    match status {
        PITA_OK => c"PITA_OK",
        PITA_ERR_INVALID_ARGUMENT => c"PITA_ERR_INVALID_ARGUMENT",
        PITA_ERR_NOT_OPEN => c"PITA_ERR_NOT_OPEN",
        PITA_ERR_CONFIG => c"PITA_ERR_CONFIG",
        PITA_ERR_UNAVAILABLE => c"PITA_ERR_UNAVAILABLE",
        PITA_ERR_TIMEOUT => c"PITA_ERR_TIMEOUT",
        PITA_ERR_AUTH => c"PITA_ERR_AUTH",
        PITA_ERR_REDIS => c"PITA_ERR_REDIS",
        PITA_ERR_UNCERTAIN => c"PITA_ERR_UNCERTAIN",
        PITA_ERR_BAD_RECORD => c"PITA_ERR_BAD_RECORD",
        PITA_ERR_BUFFER_TOO_SMALL => c"PITA_ERR_BUFFER_TOO_SMALL",
        PITA_ERR_GAP => c"PITA_ERR_GAP",
        PITA_ERR_QUEUE_FULL => c"PITA_ERR_QUEUE_FULL",
        PITA_ERR_UNSUPPORTED => c"PITA_ERR_UNSUPPORTED",
        PITA_ERR_CUDA => c"PITA_ERR_CUDA",
        PITA_ERR_PANIC => c"PITA_ERR_PANIC",
        _ => c"PITA_ERR_UNKNOWN",
    }
}
