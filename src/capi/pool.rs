//! The pool: open, ping, flush, close, stats.

use std::ffi::c_char;
use std::time::{Duration, Instant};

use super::args;
use super::boundary::guard;
use super::extensible::{self, Extensible};
use crate::error::{Result, pita_status_t};
use crate::handoff;
use crate::metrics::{self, kernel};
use crate::redis::{self, Config, Latency};

/// What the pool has done since it was opened. The counters count records, unless said otherwise.
///
/// Set the whole struct to zero, then `struct_size`: `pita_stats_t stats = {0}; stats.struct_size = sizeof stats;`
#[derive(Clone, Copy)]
#[repr(C)]
#[allow(non_camel_case_types)]
pub struct pita_stats_t {
    /// `sizeof(pita_stats_t)`: how the struct grows without breaking callers.
    pub struct_size: usize,
    /// Stored for sure: `appended` + `indexed`.
    pub stored: u64,
    /// Stored without a token index.
    pub appended: u64,
    /// Stored at their token index, replaced ones too.
    pub indexed: u64,
    /// Taken out.
    pub taken: u64,
    /// Sent once more because an answer was lost, or replicas did not have them.
    pub retried: u64,
    /// Failed with `PITA_ERR_UNCERTAIN`: sent, but the answer was lost.
    pub uncertain: u64,
    /// Refused by Redis, or past the end of their list, or lost on the way from a GPU.
    pub refused: u64,
    /// Queued now, or on the way there from a GPU. What was accepted since the pool was opened is `stored` + `refused` +
    /// `uncertain` + `queued`, at any time, but for what is just coming from a GPU. Always 0 with `write=sync`.
    pub queued: u64,
    /// The most that were ever queued; in a cluster, the sum of what was for each master. Always 0 with `write=sync`.
    pub queued_max: u64,
    /// Connections made; not records.
    pub connections: u64,
    /// Bytes sent to Redis.
    pub bytes_sent: u64,
    /// Bytes received from Redis.
    pub bytes_received: u64,
    /// Calls that store, without the computing: until Redis has answered, retries included; with `write=behind`, until
    /// the records are queued.
    pub store_latency: Latency,
    /// Round trips to Redis.
    pub round_trip_latency: Latency,
    /// What computes: "avx512", "avx2", "neon" or "scalar". A constant of the library's.
    pub kernel: *const c_char,
    /// Connections made in the place of lost or dropped ones; not records.
    pub reconnects: u64,
}

// SAFETY: integers and a pointer, so all zero is valid; `struct_size` comes first.
unsafe impl Extensible for pita_stats_t {
    const NAME: &'static str = "out";
    const FIRST_SIZE: usize = std::mem::offset_of!(pita_stats_t, reconnects);
}

/// Opens the process's pool of connections.
///
/// Connects to nothing yet: the first call that needs Redis does. `pita_redis_ping` tells whether it can be reached. With
/// `autostart=1` it does connect, and starts a server where none listens.
/// Opening again with the same settings is success; it is one pool, and one `pita_redis_close` closes it.
///
/// @param url  Where Redis is, and the options; see "Connection URLs" above. NULL: from the environment.
///
/// @return PITA_OK; PITA_ERR_INVALID_ARGUMENT (`url` is not UTF-8, or longer than 8192 bytes); PITA_ERR_CONFIG (`url` or
///         a variable, PITA_KERNEL and PITA_NUM_THREADS among them, cannot be understood or asks for what is not
///         supported yet, or the pool is open with other settings, or the authorities of `rediss://` cannot be read);
///         PITA_ERR_PANIC. With `autostart=1` also PITA_ERR_UNAVAILABLE (no server can be started), PITA_ERR_AUTH and
///         PITA_ERR_REDIS (the server that listens refuses).
///
/// Blocks: no; with `autostart=1`, until the server answers, for ten seconds at most; while another thread closes a pool
/// with `write=behind`, until that is done. Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pita_redis_open(url: *const c_char) -> pita_status_t {
    guard(|| {
        // SAFETY: the caller's promise.
        let config = unsafe { settings(url) }?;
        metrics::check_environment()?;
        redis::open(config)
    })
}

/// What a caller's URL says, or without one the environment.
///
/// # Safety
///
/// As for `args::url`.
unsafe fn settings(url: *const c_char) -> Result<Config> {
    // SAFETY: the caller's promise.
    match unsafe { args::url(url) }? {
        Some(url) => Config::from_url(url),
        None => Config::from_env(),
    }
}

/// Asks Redis for a sign of life; each master of a cluster.
///
/// @return PITA_OK; PITA_ERR_NOT_OPEN; PITA_ERR_UNAVAILABLE; PITA_ERR_TIMEOUT; PITA_ERR_AUTH; PITA_ERR_REDIS;
///         PITA_ERR_PANIC.
///
/// Blocks: for the URL's `timeout_ms` at most. Since: 0.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn pita_redis_ping() -> pita_status_t {
    guard(|| redis::current()?.ping())
}

/// Waits until all records that were queued before the call, or on their way to the queue from a GPU, are stored.
///
/// With `write=sync` nothing is ever queued, and it returns at once. A log callback on the thread that writes waits in vain,
/// and so not at all.
///
/// @param timeout_ms  How long to wait at most, in milliseconds. 0: only looks.
///
/// @return PITA_OK: all are stored, and none was lost since the last flush. PITA_ERR_TIMEOUT: some are still queued; the
///         message says how many, and what is in the way, be it a wrong password; losses are told by the next flush that
///         does not time out. If some were lost since the last flush, that of the first of them: PITA_ERR_REDIS,
///         PITA_ERR_AUTH (no right to the key), PITA_ERR_GAP, PITA_ERR_UNCERTAIN; of those from a GPU PITA_ERR_CUDA,
///         PITA_ERR_QUEUE_FULL and PITA_ERR_INVALID_ARGUMENT. The message says how many; of two threads
///         that flush one is told. PITA_ERR_NOT_OPEN; PITA_ERR_PANIC.
///
/// Blocks: with `write=behind` for `timeout_ms` at most; otherwise no. Since: 0.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn pita_redis_flush(timeout_ms: u32) -> pita_status_t {
    guard(|| {
        let (client, deadline) = (redis::current()?, Instant::now() + Duration::from_millis(timeout_ms.into()));
        handoff::settle(&client, None, deadline)?;
        client.flush(deadline.saturating_duration_since(Instant::now()))
    })
}

/// Closes the pool and its idle connections. Calls under way in other threads end as they would have.
///
/// With `write=behind` it takes no more records, writes those that are queued, and ends the thread that writes; a call by a
/// log callback on that thread does not wait for it. What is not stored when time runs out is given up; what was sent then
/// may be stored all the same. A second close waits for the first, and so does an open.
///
/// Closing twice, or without having opened, is fine. Afterwards `pita_redis_open` may be called again. The pool is closed,
/// whatever is returned.
///
/// @return PITA_OK; PITA_ERR_PANIC. With `write=behind` also PITA_ERR_TIMEOUT: records were given up, the message says how
///         many; and as for `pita_redis_flush`, what was lost since the last flush.
///
/// Blocks: with `write=behind` for the URL's `timeout_ms` at most, twice that where a GPU has not finished its work; otherwise
/// no. Since: 0.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn pita_redis_close() -> pita_status_t {
    guard(|| {
        let settled = redis::current().map_or(Ok(()), |client| {
            let settled = handoff::settle(&client, None, client.deadline());
            // What is still in flight otherwise is given up when it lands, and logged.
            handoff::abandon_slots(&client);
            settled
        });
        redis::close().and(settled)
    })
}

/// Starts a private server where none listens, as `autostart=1` does, and waits until it answers.
///
/// The pool is left alone, open or closed; one that is open there goes on with the new server. Where a server answers,
/// nothing is done. redis-server or valkey-server is looked for in PATH; it keeps everything in memory, and ends with this
/// process, or by `pita_redis_stop_servers`.
///
/// @param url  Where Redis is to be; of the options only those of the connection count. NULL: from the environment.
///
/// @return PITA_OK: a server answers. PITA_ERR_INVALID_ARGUMENT (`url` is not UTF-8, or longer than 8192 bytes);
///         PITA_ERR_CONFIG (`url` or a variable cannot be understood, or nothing answers there and it is another machine
///         or wants TLS); PITA_ERR_UNAVAILABLE (no server can be started); PITA_ERR_AUTH and PITA_ERR_REDIS (the server that
///         listens refuses); PITA_ERR_PANIC.
///
/// Blocks: until the server answers, for ten seconds at most, and until an open pool has noticed, for two. Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pita_redis_start_server(url: *const c_char) -> pita_status_t {
    guard(|| {
        // SAFETY: the caller's promise.
        redis::start_server(&unsafe { settings(url) }?)
    })
}

/// Ends the servers that `autostart=1` or `pita_redis_start_server` has started in this process, and waits until they have
/// ended.
///
/// Without it they end with the process. Servers that were there before, or that other processes have started, are left alone,
/// and so is the pool, open or closed. What such a server holds is gone: take it first.
///
/// @return PITA_OK, also where there is none; PITA_ERR_PANIC.
///
/// Blocks: for two seconds at most; then a server that does not end when it is asked to is killed. Since: 0.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn pita_redis_stop_servers() -> pita_status_t {
    guard(|| {
        redis::stop_servers();
        Ok(())
    })
}

/// Reads the counters and latencies of the open pool.
///
/// @param out  Filled in. Its `struct_size` must be set, and bytes beyond this version's size must be zero.
///
/// @return PITA_OK; PITA_ERR_INVALID_ARGUMENT; PITA_ERR_NOT_OPEN; PITA_ERR_PANIC.
///
/// Blocks: no. Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pita_redis_stats(out: *mut pita_stats_t) -> pita_status_t {
    guard(|| {
        // SAFETY: the caller's promise.
        unsafe { extensible::read(out) }?;
        let client = redis::current()?;
        let now = client.stats();
        let stats = pita_stats_t {
            struct_size: size_of::<pita_stats_t>(),
            stored: now.appended + now.indexed,
            appended: now.appended,
            indexed: now.indexed,
            taken: now.taken,
            retried: now.retried,
            uncertain: now.uncertain,
            refused: now.refused,
            queued: now.queued + handoff::in_flight(&client),
            queued_max: now.queued_max,
            connections: now.connections,
            bytes_sent: now.bytes_sent,
            bytes_received: now.bytes_received,
            store_latency: now.store_calls,
            round_trip_latency: now.round_trips,
            kernel: kernel::chosen().c_name.as_ptr(),
            reconnects: now.reconnects,
        };
        // SAFETY: the caller's promise.
        unsafe { extensible::write(out, &stats) }
    })
}
