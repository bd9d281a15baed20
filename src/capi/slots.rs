//! Slots: stores that a CUDA graph can hold.

use std::ffi::{c_char, c_void};
use std::time::{Duration, Instant};

use super::args;
use super::batch::{PITA_METRIC_ALL, element_size};
use super::boundary::guard;
use super::extensible::{self, Extensible};
use crate::cuda::slots::SlotStore;
use crate::cuda::{Device, Logits};
use crate::error::{Error, Kind, Result, pita_status_t};
use crate::handoff;
use crate::redis;

/// Slots are numbered from 0 on, below this.
pub const PITA_SLOT_COUNT: u32 = 1024u32;

/// How long an unbind waits for room in the queue where no pool is open that says so.
const PATIENCE: Duration = Duration::from_secs(1);

/// Logits of a step in the memory of a CUDA device, where all that says whose they are lies in device memory, too. It is read
/// when the work is done, not when the call is made: each replay of a CUDA graph finds what is there then.
///
/// Set the whole struct to zero first, then `struct_size`, then what you need.
#[derive(Clone, Copy)]
#[repr(C)]
#[allow(non_camel_case_types)]
pub struct pita_slot_batch_t {
    /// `sizeof(pita_slot_batch_t)`: how the struct grows without breaking callers.
    pub struct_size: usize,
    /// In device memory: `rows` x `vocab_size` elements; row i begins at `logits + i * row_stride` elements.
    pub logits: *const c_void,
    /// One of `PITA_DTYPE_*`.
    pub dtype: u32,
    /// A set of `PITA_METRIC_*` for all rows; 0: `PITA_METRIC_ALL`.
    pub metrics: u32,
    /// How many rows; 1 to 65535.
    pub rows: usize,
    /// Elements in a row; at least 1.
    pub vocab_size: usize,
    /// Elements from one row's begin to the next one's; at least `vocab_size`.
    pub row_stride: usize,
    /// The `cudaStream_t` on which the logits are made; NULL is the default stream.
    pub stream: *mut c_void,
    /// In device memory: the slot of each row. A row whose slot is below 0, or `PITA_SLOT_COUNT` or more, is skipped. A slot
    /// stands at most once in a batch, and in one batch at a time: else records are mixed up.
    pub slots: *const i32,
    /// In device memory: the temperature of each row, finite and above 0; a row with another one is not stored. NULL: 1.0.
    pub temperatures: *const f32,
    /// In device memory: the index of each row's token in its list. NULL, or an entry below 0: behind the last one.
    pub token_indices: *const i64,
    /// Out, in device memory: `rows` x 3 floats: log_norm, log_norm_temp, entropy of each row, 0 for a skipped one. May be
    /// NULL.
    pub out: *mut f32,
}

// SAFETY: integers and pointers only, so all zero is valid; `struct_size` comes first.
unsafe impl Extensible for pita_slot_batch_t {
    const NAME: &'static str = "batch";
    const FIRST_SIZE: usize = size_of::<pita_slot_batch_t>();
}

/// Gives a slot to a request: records that `pita_store_slots` makes for the slot from now on are the request's.
///
/// @param slot    Below PITA_SLOT_COUNT.
/// @param req_id  The request's id: 1 to 1024 bytes.
///
/// @return PITA_OK; PITA_ERR_INVALID_ARGUMENT (also where the slot is bound already); PITA_ERR_UNAVAILABLE (no thread can be
///         started); PITA_ERR_PANIC.
///
/// Blocks: no. Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pita_bind_slot(slot: u32, req_id: *const c_char) -> pita_status_t {
    guard(|| {
        // SAFETY: the caller's promise.
        let id = unsafe { args::request_id(req_id) }?;
        handoff::current().bind(checked(slot)?, id)
    })
}

/// Takes a slot from its request, after its records have gone into the queue. It may then be bound to another.
///
/// Call it when the work that stores for the slot is done, such as after the synchronization that an engine needs to read the
/// step's tokens: a record that comes later is lost, or, once the slot is bound anew, taken for the other request's.
///
/// @param slot  Below PITA_SLOT_COUNT. One that is bound to no request is fine.
///
/// @return PITA_OK; PITA_ERR_INVALID_ARGUMENT; PITA_ERR_QUEUE_FULL: it is still bound, try again; PITA_ERR_PANIC.
///
/// Blocks: while the queue is full, for the URL's `timeout_ms` at most. Since: 0.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn pita_unbind_slot(slot: u32) -> pita_status_t {
    guard(|| {
        let deadline = redis::current().map_or_else(|_| Instant::now() + PATIENCE, |client| client.deadline());
        handoff::current().unbind(checked(slot)?, deadline)
    })
}

/// Has the GPU compute the metrics of each row and hand them over for the request that the row's slot is bound to. For CUDA
/// graphs, and for all who have slots rather than ids at hand.
///
/// The work is put onto the stream, or into the graph that captures it, and the call returns; the records are queued when they
/// are there. The pool must be open with `write=behind` when the work is done. A slot holds 64 records that are not queued
/// yet, such as while the queue is full; older ones are lost then, which is logged, counted as refused, and makes the next
/// flush fail. Records of a slot come in the order of its stream.
///
/// Call it once before the first capture in a context, or be ready for the first call to take a second: it compiles the kernel.
///
/// @param batch  What to store; see pita_slot_batch_t.
///
/// @return PITA_OK: it is on the stream, or in the graph. PITA_ERR_INVALID_ARGUMENT, PITA_ERR_UNSUPPORTED (no driver, no GPU, or
///         a pool with `write=sync`), PITA_ERR_NOT_OPEN, PITA_ERR_CUDA (the driver fails), PITA_ERR_UNAVAILABLE (no thread can be
///         started): nothing was done; PITA_ERR_PANIC.
///
/// Blocks: no. Never waits for the stream, and allocates nothing after a context's first call. Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pita_store_slots(batch: *const pita_slot_batch_t) -> pita_status_t {
    guard(|| {
        // SAFETY: the caller's promise.
        let batch = unsafe { extensible::read(batch) }?;
        let (logits, store) = check(&batch)?;
        if !redis::current()?.writes_behind() {
            return Err(Error::new(Kind::Unsupported, "the pool is open with write=sync: slots need write=behind"));
        }
        let device = Device::for_slots(&logits, &store)?;
        handoff::current().start()?;
        device.rings()?.launch(&device, &logits, &store)
    })
}

fn checked(slot: u32) -> Result<usize> {
    match slot {
        0..PITA_SLOT_COUNT => Ok(slot as usize),
        _ => Err(Error::invalid(format!("slot is {slot}: must be below {PITA_SLOT_COUNT}"))),
    }
}

fn check(batch: &pita_slot_batch_t) -> Result<(Logits, SlotStore)> {
    const MOST_ROWS: usize = 65535;
    let &pita_slot_batch_t { logits, dtype, metrics, rows, vocab_size, row_stride, stream, .. } = batch;
    args::matrix(logits, rows, vocab_size, row_stride, element_size(dtype)?)?;
    if rows > MOST_ROWS {
        return Err(Error::invalid(format!("rows is {rows}: must be at most {MOST_ROWS}")));
    }
    if batch.slots.is_null() {
        return Err(Error::invalid("slots is NULL"));
    }
    let wanted = args::metrics(if metrics == 0 { PITA_METRIC_ALL } else { metrics })?;
    let store = SlotStore {
        rows,
        slots: batch.slots as u64,
        temperatures: batch.temperatures as u64,
        token_indices: batch.token_indices as u64,
        out: batch.out as u64,
        wanted,
    };
    Ok((Logits { pointer: logits as u64, dtype, vocab_size, row_stride, stream }, store))
}
