//! Storing, and computing without storing.

use std::ffi::c_char;

use super::args;
use super::batch::{Batch, pita_batch_t};
use super::boundary::guard;
use super::device;
use crate::error::{Error, Result, pita_status_t};
use crate::metrics::{self, Bits32, Job, Metrics, Row};
use crate::redis::{self, Client, Placement, Write};

/// The most records of one `pita_store_metrics`: Redis takes about a million arguments in a command.
const MAX_COUNT: usize = 1_000_000;

/// Computes the metrics of one row of f32 logits in the process's memory, and appends the record to the request's list.
///
/// The append is done at most once: when the answer is lost, it is not sent again. A token index makes a store safe to
/// repeat; `pita_store_logits_metrics_batch` takes one.
///
/// @param req_id       The request's id: 1 to 1024 bytes.
/// @param logits       `vocab_size` floats, at any alignment. Read during the call only.
/// @param vocab_size   At least 1.
/// @param temperature  Finite and above 0; 1 for none.
/// @param metrics      A set of PITA_METRIC_*. What is not asked for is stored as 0.
///
/// @return PITA_OK: stored; PITA_ERR_INVALID_ARGUMENT, PITA_ERR_NOT_OPEN, PITA_ERR_UNAVAILABLE, PITA_ERR_TIMEOUT,
///         PITA_ERR_AUTH, PITA_ERR_REDIS: not stored; PITA_ERR_UNCERTAIN: may or may not be stored; PITA_ERR_PANIC.
///         With `write=behind` PITA_OK: queued; PITA_ERR_INVALID_ARGUMENT, PITA_ERR_NOT_OPEN, PITA_ERR_QUEUE_FULL,
///         PITA_ERR_UNAVAILABLE (no thread can be started): not queued; PITA_ERR_PANIC.
///
/// Blocks: for the computing, and the URL's `timeout_ms` at most. Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pita_store_logits_metrics(
    req_id: *const c_char,
    logits: *const f32,
    vocab_size: usize,
    temperature: f32,
    metrics: u32,
) -> pita_status_t {
    guard(|| {
        // SAFETY: the caller's promise.
        let id = unsafe { args::request_id(req_id) }?;
        if vocab_size == 0 {
            return Err(Error::invalid("vocab_size is 0: must be at least 1"));
        }
        args::on_host("logits", logits.cast())?;
        // SAFETY: the caller's promise; the elements are read as bytes, which need no alignment.
        let row = Row::F32(unsafe { args::slice("logits", logits.cast::<Bits32>(), vocab_size) }?);
        let job = Job { row, temperature: args::temperature(temperature)?, wanted: args::metrics(metrics)? };
        let client = redis::current()?;
        let record = metrics::compute(&job);
        client.store_one(Write { id, placement: Placement::Append, records: &[record] })
    })
}

/// Computes the metrics of many requests and stores a record for each, in one round trip, or queues it.
///
/// With a token index, the record becomes that element of the list: it is appended when the index is the list's length,
/// replaces an element when it is below, and is refused with PITA_ERR_GAP when it is above. Such a store is safe to
/// repeat, and repeats itself when a connection breaks. Without an index it is an append, done at most once.
///
/// Failures are per request: one bad entry does not stop the others, and of a batch that does not fit into the queue the first
/// entries are queued. `batch->statuses` has each one's. When the batch
/// fails as a whole, all of them are that failure.
///
/// @param batch  What to store; see pita_batch_t. Read during the call only.
///
/// @return PITA_OK: all stored. Otherwise the first entry's failure: PITA_ERR_INVALID_ARGUMENT, PITA_ERR_UNSUPPORTED,
///         PITA_ERR_CUDA, PITA_ERR_NOT_OPEN, PITA_ERR_UNAVAILABLE, PITA_ERR_TIMEOUT, PITA_ERR_AUTH, PITA_ERR_REDIS,
///         PITA_ERR_GAP: that entry is not stored; PITA_ERR_UNCERTAIN: it may or may not be stored; PITA_ERR_PANIC. With
///         `write=behind` PITA_OK: all queued, or on their way there from the GPU; otherwise also PITA_ERR_QUEUE_FULL: that
///         entry is not queued.
///
/// Blocks: for the computing, and the URL's `timeout_ms` at most; for a CUDA buffer with `write=sync` until its stream gets
/// there. Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pita_store_logits_metrics_batch(batch: *const pita_batch_t) -> pita_status_t {
    guard(|| {
        // SAFETY: the caller's promise.
        let batch = unsafe { Batch::read(batch) }?;
        if !batch.has_ids() {
            return Err(batch.fail(Error::invalid("req_ids is NULL")));
        }
        let client = match redis::current() {
            Ok(client) => client,
            Err(error) => return Err(batch.fail(error)),
        };
        match batch.on_device() {
            Some(logits) => device::store(batch, &logits, &client),
            None => store(batch, &client),
        }
    })
}

fn store(mut batch: Batch<'_>, client: &Client) -> Result<()> {
    let chosen = choose(&mut batch, |batch, i| Ok((batch.id(i)?, batch.job(i)?)));
    let (indices, (ids, jobs)): (Vec<usize>, (Vec<&str>, Vec<Job<'_>>)) = chosen.into_iter().unzip();
    let records = metrics::compute_all(&jobs);
    let write =
        |((&i, &id), record)| Write { id, placement: batch.placement(i), records: std::slice::from_ref(record) };
    let writes: Vec<Write<'_>> = indices.iter().zip(&ids).zip(&records).map(write).collect();
    for (&i, result) in indices.iter().zip(client.store(&writes)) {
        batch.settle(i, result);
    }
    batch.finish()
}

/// Stores metrics that were computed elsewhere, all in one list, in one command: all of them or none.
///
/// @param req_id       The request's id: 1 to 1024 bytes.
/// @param token_index  Below 0: append, at most once. Otherwise the index of the first record in the list, the others
///                     follow; elements that are there already are replaced, and it repeats itself when a connection
///                     breaks.
/// @param metrics      `count` records. Read during the call only.
/// @param count        1 to 1000000.
///
/// @return PITA_OK: stored; PITA_ERR_INVALID_ARGUMENT, PITA_ERR_NOT_OPEN, PITA_ERR_UNAVAILABLE, PITA_ERR_TIMEOUT,
///         PITA_ERR_AUTH, PITA_ERR_REDIS, PITA_ERR_GAP (`token_index` is past the end of the list): not stored;
///         PITA_ERR_UNCERTAIN: may or may not be stored; PITA_ERR_PANIC. With `write=behind` PITA_OK: queued;
///         PITA_ERR_INVALID_ARGUMENT (also where `count` is more than the queue holds), PITA_ERR_NOT_OPEN,
///         PITA_ERR_QUEUE_FULL, PITA_ERR_UNAVAILABLE (no thread can be started): not queued; PITA_ERR_PANIC.
///
/// Blocks: for the URL's `timeout_ms` at most. Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pita_store_metrics(
    req_id: *const c_char,
    token_index: i64,
    metrics: *const Metrics,
    count: usize,
) -> pita_status_t {
    guard(|| {
        // SAFETY: the caller's promise.
        let id = unsafe { args::request_id(req_id) }?;
        if count == 0 || count > MAX_COUNT {
            return Err(Error::invalid(format!("count is {count}: must be from 1 to {MAX_COUNT}")));
        }
        // SAFETY: the caller's promise.
        let records = unsafe { args::slice("metrics", metrics, count) }?;
        let placement = u64::try_from(token_index).map_or(Placement::Append, Placement::At);
        redis::current()?.store_one(Write { id, placement, records })
    })
}

/// Computes the metrics of many requests and stores nothing. Needs no Redis and no open pool.
///
/// @param batch  What to compute; see pita_batch_t. `token_indices` is ignored. `req_ids` may be NULL; otherwise a NULL
///               entry skips its request, and the ids themselves are not read.
/// @param out    `batch->len` entries: the metrics of each request. What is not asked for is 0; those of a skipped
///               request are 0; those of one with a bad entry are NaN.
///
/// @return PITA_OK. Otherwise the first entry's failure: PITA_ERR_INVALID_ARGUMENT, PITA_ERR_UNSUPPORTED, PITA_ERR_CUDA;
///         PITA_ERR_PANIC.
///
/// Blocks: for the computing; for a CUDA buffer until its stream gets there. Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pita_compute_logits_metrics(batch: *const pita_batch_t, out: *mut Metrics) -> pita_status_t {
    guard(|| {
        // SAFETY: the caller's promise.
        let mut batch = unsafe { Batch::read(batch) }?;
        let computed = match batch.on_device() {
            None => compute(&mut batch),
            Some(logits) => match device::compute(&mut batch, &logits) {
                Ok(computed) => computed,
                Err(error) => return Err(batch.fail(error)),
            },
        };
        // Not before the rows are read: should they overlap, nothing is lost.
        // SAFETY: the caller's promise.
        let out = match unsafe { args::slice_mut("out", out, batch.len()) } {
            Ok(out) => out,
            Err(error) => return Err(batch.fail(error)),
        };
        out.fill(Metrics::nan());
        (0..out.len()).filter(|i| batch.is_skipped(*i)).for_each(|i| out[i] = Metrics::default());
        for (i, metrics) in computed {
            out[i] = metrics;
        }
        batch.finish()
    })
}

/// The metrics of each good request that is not skipped, with its index.
fn compute(batch: &mut Batch<'_>) -> Vec<(usize, Metrics)> {
    let chosen = choose(batch, Batch::job);
    let (indices, jobs): (Vec<usize>, Vec<Job<'_>>) = chosen.into_iter().unzip();
    indices.into_iter().zip(metrics::compute_all(&jobs)).collect()
}

/// Reads each request that is not skipped. Returns the good ones with their indices; the others are settled.
fn choose<'a, T>(batch: &mut Batch<'a>, read: impl Fn(&Batch<'a>, usize) -> Result<T>) -> Vec<(usize, T)> {
    let mut chosen = Vec::with_capacity(batch.len());
    for i in 0..batch.len() {
        let result = match batch.is_skipped(i) {
            true => Ok(()),
            false => read(batch, i).map(|request| chosen.push((i, request))),
        };
        batch.settle(i, result);
    }
    chosen
}
