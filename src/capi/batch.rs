//! `pita_batch_t`: a caller's description of many rows and requests, and its checked form.

use std::ffi::{c_char, c_void};

use super::args;
use super::extensible::{self, Extensible};
use crate::cuda::Logits;
use crate::error::{Error, PITA_ERR_PANIC, PITA_OK, Result, pita_status_t};
use crate::metrics::{Bits16, Bits32, Job, Row, Wanted};
use crate::redis::Placement;

/// Compute `log_norm` and `log_norm_temp`.
pub const PITA_METRIC_NORMALIZATION: u32 = 1u32;
/// Compute `entropy`.
pub const PITA_METRIC_ENTROPY: u32 = 2u32;
/// Compute all metrics.
pub const PITA_METRIC_ALL: u32 = 3u32;

/// Element type: IEEE 754 binary32, C's `float`.
pub const PITA_DTYPE_F32: u32 = 0u32;
/// Element type: IEEE 754 binary16.
pub const PITA_DTYPE_F16: u32 = 1u32;
/// Element type: bfloat16, the upper half of a `float`.
pub const PITA_DTYPE_BF16: u32 = 2u32;

/// Where the logits lie: in the process's memory. The numbers are those of DLPack.
pub const PITA_DEVICE_CPU: u32 = 1u32;
/// Where the logits lie: in the memory of a CUDA device; see "CUDA" above.
pub const PITA_DEVICE_CUDA: u32 = 2u32;

/// Logits of many requests, as one matrix, and what to do with each request.
///
/// Set the whole struct to zero first, then `struct_size`, then what you need:
/// `pita_batch_t batch = {0}; batch.struct_size = sizeof batch;`
#[derive(Clone, Copy)]
#[repr(C)]
#[allow(non_camel_case_types)]
pub struct pita_batch_t {
    /// `sizeof(pita_batch_t)`: how the struct grows without breaking callers.
    pub struct_size: usize,
    /// `rows` x `vocab_size` elements; row i begins at `logits + i * row_stride` elements. Any alignment.
    pub logits: *const c_void,
    /// One of `PITA_DTYPE_*`.
    pub dtype: u32,
    /// One of `PITA_DEVICE_*`.
    pub device: u32,
    /// How many rows; at least 1.
    pub rows: usize,
    /// Elements in a row; at least 1.
    pub vocab_size: usize,
    /// Elements from one row's begin to the next one's; at least `vocab_size`.
    pub row_stride: usize,
    /// The `cudaStream_t` on which the logits are made; NULL is the default stream. Ignored for the CPU.
    pub stream: *mut c_void,
    /// How many requests; at least 1. The arrays below have `len` entries each.
    pub len: usize,
    /// The requests' ids. A request whose entry is NULL is skipped.
    pub req_ids: *const *const c_char,
    /// The row of each request; several may share one. NULL: request i has row i.
    pub row_of: *const usize,
    /// The temperature of each request, finite and above 0. NULL: 1.0 for all.
    pub temperatures: *const f32,
    /// The index of the token in its list, for each request. NULL, or an entry below 0: behind the last one.
    pub token_indices: *const i64,
    /// A set of `PITA_METRIC_*` for each request. NULL: `PITA_METRIC_ALL` for all.
    pub metrics: *const u32,
    /// Out: the status of each request, `PITA_OK` for a skipped one. May be NULL.
    pub statuses: *mut pita_status_t,
}

// SAFETY: integers and pointers only, so all zero is valid; `struct_size` comes first.
unsafe impl Extensible for pita_batch_t {
    const NAME: &'static str = "batch";
    const FIRST_SIZE: usize = size_of::<pita_batch_t>();
}

/// A caller's batch, checked as a whole; its requests are checked one by one.
pub(super) struct Batch<'a> {
    raw: pita_batch_t,
    ids: Option<&'a [*const c_char]>,
    row_of: Option<&'a [usize]>,
    temperatures: Option<&'a [f32]>,
    token_indices: Option<&'a [i64]>,
    metrics: Option<&'a [u32]>,
    statuses: Option<&'a mut [pita_status_t]>,
    failed: usize,
    /// The first of the requests that failed, and why.
    first: Option<(usize, Error)>,
}

/// What to compute for a request.
pub(super) struct Request {
    pub row: usize,
    pub temperature: f32,
    pub wanted: Wanted,
}

impl<'a> Batch<'a> {
    /// Checks a batch. Where it fails as a whole, every status of the caller's says so.
    ///
    /// # Safety
    /// As the header demands of a batch, for `'a`.
    pub unsafe fn read(pointer: *const pita_batch_t) -> Result<Self> {
        // SAFETY: the caller's promise.
        let raw = unsafe { extensible::read(pointer) }?;
        if raw.len == 0 {
            return Err(Error::invalid("len is 0: must be at least 1"));
        }
        let mut statuses = match raw.statuses.is_null() {
            true => None,
            // SAFETY: the caller's promise.
            false => Some(unsafe { args::slice_mut("statuses", raw.statuses, raw.len) }?),
        };
        // Should this end in a panic, they say so.
        statuses.iter_mut().for_each(|statuses| statuses.fill(PITA_ERR_PANIC));
        // SAFETY: the caller's promise.
        let arrays = check_matrix(&raw).and_then(|()| unsafe {
            Ok(Batch {
                raw,
                ids: args::optional_slice("req_ids", raw.req_ids, raw.len)?,
                row_of: args::optional_slice("row_of", raw.row_of, raw.len)?,
                temperatures: args::optional_slice("temperatures", raw.temperatures, raw.len)?,
                token_indices: args::optional_slice("token_indices", raw.token_indices, raw.len)?,
                metrics: args::optional_slice("metrics", raw.metrics, raw.len)?,
                statuses: None,
                failed: 0,
                first: None,
            })
        });
        match arrays {
            Ok(batch) => Ok(Batch { statuses, ..batch }),
            Err(error) => {
                statuses.into_iter().for_each(|statuses| statuses.fill(error.status()));
                Err(error)
            }
        }
    }

    pub fn len(&self) -> usize {
        self.raw.len
    }

    pub fn has_ids(&self) -> bool {
        self.ids.is_some()
    }

    /// Whether the caller left request `i` out.
    pub fn is_skipped(&self, i: usize) -> bool {
        self.ids.is_some_and(|ids| ids[i].is_null())
    }

    /// The id of request `i`.
    pub fn id(&self, i: usize) -> Result<&'a str> {
        let ids = self.ids.ok_or_else(|| Error::invalid("req_ids is NULL"))?;
        // SAFETY: `read` was promised that the entries are NULL or strings that live for 'a.
        unsafe { args::request_id(ids[i]) }
    }

    /// Where the record of request `i` goes.
    pub fn placement(&self, i: usize) -> Placement {
        let index = self.token_indices.and_then(|indices| u64::try_from(indices[i]).ok());
        index.map_or(Placement::Append, Placement::At)
    }

    /// What to compute for request `i`.
    pub fn request(&self, i: usize) -> Result<Request> {
        let row = self.row_of.map_or(i, |row_of| row_of[i]);
        if row >= self.raw.rows {
            let rows = self.raw.rows;
            return Err(Error::invalid(format!("its row is {row}, but there are {rows} rows")));
        }
        Ok(Request {
            row,
            temperature: self.temperatures.map_or(Ok(1.0), |all| args::temperature(all[i]))?,
            wanted: args::metrics(self.metrics.map_or(PITA_METRIC_ALL, |all| all[i]))?,
        })
    }

    /// The same, of logits in the process's memory.
    pub fn job(&self, i: usize) -> Result<Job<'a>> {
        let Request { row, temperature, wanted } = self.request(i)?;
        Ok(Job { row: self.row(row), temperature, wanted })
    }

    /// The logits, where they lie in the memory of a CUDA device.
    pub fn on_device(&self) -> Option<Logits> {
        let pita_batch_t { logits, dtype, vocab_size, row_stride, stream, .. } = self.raw;
        let logits = Logits { pointer: logits as u64, dtype, vocab_size, row_stride, stream };
        (self.raw.device == PITA_DEVICE_CUDA).then_some(logits)
    }

    fn row(&self, row: usize) -> Row<'a> {
        let (start, size) = (row * self.raw.row_stride, self.raw.vocab_size);
        let logits = self.raw.logits;
        // SAFETY: `read` was promised rows x row_stride elements, and checked that their bytes do not overflow; byte
        // arrays may lie at any address.
        unsafe {
            match self.raw.dtype {
                PITA_DTYPE_F32 => Row::F32(std::slice::from_raw_parts(logits.cast::<Bits32>().add(start), size)),
                PITA_DTYPE_F16 => Row::F16(std::slice::from_raw_parts(logits.cast::<Bits16>().add(start), size)),
                _ => Row::Bf16(std::slice::from_raw_parts(logits.cast::<Bits16>().add(start), size)),
            }
        }
    }

    /// Notes what came of request `i`: success, and maybe a failure after that.
    pub fn settle(&mut self, i: usize, result: Result<()>) {
        if let Some(statuses) = &mut self.statuses {
            statuses[i] = result.as_ref().map_or_else(Error::status, |()| PITA_OK);
        }
        if let Err(error) = result {
            self.failed += 1;
            if self.first.as_ref().is_none_or(|(first, _)| i < *first) {
                self.first = Some((i, error));
            }
        }
    }

    /// Fails with the error of the first request that failed.
    pub fn finish(self) -> Result<()> {
        match self.first {
            None => Ok(()),
            Some((i, error)) => {
                Err(error.of(format_args!("batch entry {i} ({} of {} failed)", self.failed, self.raw.len)))
            }
        }
    }

    /// Fails every request for the same reason.
    pub fn fail(self, error: Error) -> Error {
        self.statuses.into_iter().for_each(|statuses| statuses.fill(error.status()));
        error
    }
}

/// Checks what concerns all requests: the matrix of logits, and how the requests lie on it.
fn check_matrix(raw: &pita_batch_t) -> Result<()> {
    let element = element_size(raw.dtype)?;
    match raw.device {
        PITA_DEVICE_CPU | PITA_DEVICE_CUDA => {}
        device => return Err(Error::invalid(format!("device is {device}: must be one of PITA_DEVICE_*"))),
    }
    args::matrix(raw.logits, raw.rows, raw.vocab_size, raw.row_stride, element)?;
    if raw.row_of.is_null() && raw.len > raw.rows {
        return Err(Error::invalid(format!("len is {} with row_of NULL, but there are {} rows", raw.len, raw.rows)));
    }
    if raw.device == PITA_DEVICE_CPU {
        args::on_host("logits", raw.logits)?;
    }
    Ok(())
}

/// Bytes of an element.
pub(super) fn element_size(dtype: u32) -> Result<usize> {
    match dtype {
        PITA_DTYPE_F32 => Ok(size_of::<Bits32>()),
        PITA_DTYPE_F16 | PITA_DTYPE_BF16 => Ok(size_of::<Bits16>()),
        _ => Err(Error::invalid(format!("dtype is {dtype}: must be one of PITA_DTYPE_*"))),
    }
}
