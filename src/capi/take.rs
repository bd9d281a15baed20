//! Taking, counting, discarding.

use std::ffi::c_char;
use std::sync::Arc;
use std::time::Duration;

use super::args;
use super::boundary::guard;
use crate::error::{Error, Kind, Result, pita_status_t};
use crate::handoff;
use crate::metrics::Metrics;
use crate::redis::{self, Client, Taken};

/// Takes all records of a request, in token order, and removes them from Redis: all or nothing.
///
/// Of two takers at once one gets all, the other none. A request without records is success with `*count` 0. To learn
/// how much room is needed, pass `out` NULL and `capacity` 0, or call `pita_count_metrics`.
///
/// @param req_id    The request's id: 1 to 1024 bytes.
/// @param out       Room for `capacity` records. May be NULL when `capacity` is 0.
/// @param capacity  Records that fit into `out`.
/// @param count     Out: how many were taken; with PITA_ERR_BUFFER_TOO_SMALL how many there are; 0 with other failures.
///
/// @return PITA_OK: taken; PITA_ERR_BUFFER_TOO_SMALL, PITA_ERR_BAD_RECORD (the list has an element that is no record),
///         PITA_ERR_INVALID_ARGUMENT, PITA_ERR_NOT_OPEN, PITA_ERR_UNAVAILABLE, PITA_ERR_TIMEOUT, PITA_ERR_AUTH,
///         PITA_ERR_REDIS (such as WRONGTYPE: the key holds no list): nothing taken; PITA_ERR_PANIC.
///
/// Blocks: for the URL's `timeout_ms` at most. Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pita_take_metrics(
    req_id: *const c_char,
    out: *mut Metrics,
    capacity: usize,
    count: *mut usize,
) -> pita_status_t {
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        take(req_id, out, capacity, count, |client, id| {
            handoff::settle(client, Some(id), client.deadline())?;
            client.take(id, capacity)
        })
    })
}

/// Waits until a request has at least `expected` records, then takes all of them as `pita_take_metrics` does.
///
/// It looks at growing intervals, first of 50 us, later of 20 ms. Redis going away ends the wait, with PITA_ERR_UNAVAILABLE or
/// PITA_ERR_TIMEOUT: wait again for as long as the records are worth waiting for.
///
/// @param req_id      The request's id: 1 to 1024 bytes.
/// @param expected    Records to wait for. More than `capacity` is fine for finding out how much room is needed.
/// @param timeout_ms  How long to wait for them at most, in milliseconds.
/// @param out         Room for `capacity` records. May be NULL when `capacity` is 0.
/// @param capacity    Records that fit into `out`.
/// @param count       Out: how many were taken; with PITA_ERR_BUFFER_TOO_SMALL, and with PITA_ERR_TIMEOUT when Redis
///                    answered, how many there are; 0 with other failures.
///
/// @return As `pita_take_metrics`, and PITA_ERR_TIMEOUT: fewer than `expected`, nothing taken. Of two that wait for the same
///         records, one gets them, the other waits on.
///
/// Blocks: for `timeout_ms` plus the URL's `timeout_ms` at most. Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pita_take_metrics_wait(
    req_id: *const c_char,
    expected: usize,
    timeout_ms: u32,
    out: *mut Metrics,
    capacity: usize,
    count: *mut usize,
) -> pita_status_t {
    let timeout = Duration::from_millis(timeout_ms.into());
    let wait = |client: &Arc<Client>, id: &str| client.take_wait(id, expected, timeout, capacity);
    guard(|| {
        // SAFETY: the caller's promise.
        unsafe { take(req_id, out, capacity, count, wait) }
    })
}

/// Counts the records of a request. A request without records has 0.
///
/// @param req_id  The request's id: 1 to 1024 bytes.
/// @param count   Out: how many there are; 0 with any failure.
///
/// @return PITA_OK; PITA_ERR_INVALID_ARGUMENT; PITA_ERR_NOT_OPEN; PITA_ERR_UNAVAILABLE; PITA_ERR_TIMEOUT; PITA_ERR_AUTH;
///         PITA_ERR_REDIS; PITA_ERR_PANIC.
///
/// Blocks: for the URL's `timeout_ms` at most. Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pita_count_metrics(req_id: *const c_char, count: *mut usize) -> pita_status_t {
    guard(|| {
        // SAFETY: the caller's promise.
        let (id, count) = unsafe { (args::request_id(req_id), count_out(count)?) };
        let id = id?;
        let counted = settled(id).and_then(|client| client.count(id));
        *count = counted.map_err(|error| error.of(format_args!("request {id:?}")))?;
        Ok(())
    })
}

/// Deletes all records of a request. A request without records is success.
///
/// @param req_id  The request's id: 1 to 1024 bytes.
///
/// @return PITA_OK; PITA_ERR_INVALID_ARGUMENT; PITA_ERR_NOT_OPEN; PITA_ERR_UNAVAILABLE and PITA_ERR_TIMEOUT (they may be
///         deleted or not; doing it again does no harm); PITA_ERR_AUTH; PITA_ERR_REDIS; PITA_ERR_PANIC.
///
/// Blocks: for the URL's `timeout_ms` at most. Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pita_discard_metrics(req_id: *const c_char) -> pita_status_t {
    guard(|| {
        // SAFETY: the caller's promise.
        let id = unsafe { args::request_id(req_id) }?;
        let discarded = settled(id).and_then(|client| client.discard(id));
        discarded.map_err(|error| error.of(format_args!("request {id:?}")))
    })
}

/// The open client, when it has all of a request's records that the GPU still had.
fn settled(id: &str) -> Result<Arc<Client>> {
    let client = redis::current()?;
    handoff::settle(&client, Some(id), client.deadline())?;
    Ok(client)
}

/// What the taking functions share: their arguments, and where the outcome goes.
///
/// # Safety
/// As for `pita_take_metrics`.
unsafe fn take(
    req_id: *const c_char,
    out: *mut Metrics,
    capacity: usize,
    count: *mut usize,
    take: impl FnOnce(&Arc<Client>, &str) -> Result<Taken>,
) -> Result<()> {
    // SAFETY: the caller's promise.
    let count = unsafe { count_out(count) }?;
    // SAFETY: the caller's promise.
    let id = unsafe { args::request_id(req_id) }?;
    let out = match capacity {
        0 => &mut [],
        // SAFETY: the caller's promise.
        _ => unsafe { args::slice_mut("out", out, capacity) }?,
    };
    let client = redis::current()?;
    match take(&client, id).map_err(|error| error.of(format_args!("request {id:?}")))? {
        Taken::All(records) => {
            out[..records.len()].copy_from_slice(&records);
            *count = records.len();
            Ok(())
        }
        Taken::TooMany(found) => {
            *count = found;
            let message = format!("request {id:?} has {found} records, but capacity is {capacity}");
            Err(Error::new(Kind::BufferTooSmall, message))
        }
        Taken::TooFew { found, wanted, waited } => {
            *count = found;
            let message =
                format!("request {id:?} has {found} after waiting {} ms for {wanted} records", waited.as_millis());
            Err(Error::new(Kind::Timeout, message))
        }
    }
}

/// The caller's count, set to 0 until there is something to count.
///
/// # Safety
/// `count` is NULL or writable for `'a`.
unsafe fn count_out<'a>(count: *mut usize) -> Result<&'a mut usize> {
    // SAFETY: the caller's promise.
    let count = &mut unsafe { args::slice_mut("count", count, 1) }?[0];
    *count = 0;
    Ok(count)
}
