//! The arguments of C callers, checked, as Rust values. Every refusal names the argument and its value.

use std::ffi::{CStr, c_char, c_void};

use crate::cuda::{self, Memory};
use crate::error::{Error, Result};
use crate::metrics::Wanted;

use super::{PITA_METRIC_ALL, PITA_METRIC_ENTROPY, PITA_METRIC_NORMALIZATION};

/// The longest request id, in bytes.
const MAX_ID: usize = 1024;
/// The longest URL, in bytes.
const MAX_URL: usize = 8192;

/// A request id: 1 to 1024 bytes of UTF-8.
///
/// # Safety
/// `pointer` is NULL or points to a NUL-terminated string that lives for `'a`.
pub unsafe fn request_id<'a>(pointer: *const c_char) -> Result<&'a str> {
    // SAFETY: the caller's promise.
    match unsafe { text("req_id", pointer, MAX_ID) }? {
        Some("") => Err(Error::invalid("req_id is empty")),
        Some(id) => Ok(id),
        None => Err(Error::invalid("req_id is NULL")),
    }
}

/// A connection URL; `None` for NULL.
///
/// # Safety
/// As for [`request_id`].
pub unsafe fn url<'a>(pointer: *const c_char) -> Result<Option<&'a str>> {
    // SAFETY: the caller's promise.
    unsafe { text("url", pointer, MAX_URL) }
}

/// # Safety
/// As for [`request_id`].
unsafe fn text<'a>(name: &str, pointer: *const c_char, most: usize) -> Result<Option<&'a str>> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: strnlen reads up to the terminating NUL and not beyond.
    if unsafe { libc::strnlen(pointer, most + 1) } > most {
        return Err(Error::invalid(format!("{name} is longer than {most} bytes")));
    }
    // SAFETY: the string is terminated by the caller's promise.
    let text = unsafe { CStr::from_ptr(pointer) }.to_str();
    // A bad URL is not quoted: it may hold a password.
    text.map(Some).map_err(|error| Error::invalid(format!("{name} is not UTF-8: {error}")))
}

/// A temperature: finite and above 0.
pub fn temperature(value: f32) -> Result<f32> {
    if value.is_finite() && value > 0.0 {
        return Ok(value);
    }
    Err(Error::invalid(format!("temperature is {value}: must be finite and above 0")))
}

/// A set of `PITA_METRIC_*`: at least one, and no unknown one.
pub fn metrics(bits: u32) -> Result<Wanted> {
    if bits == 0 || bits & !PITA_METRIC_ALL != 0 {
        return Err(Error::invalid(format!("metrics is {bits:#x}: must be a set of PITA_METRIC_* bits, not empty")));
    }
    Ok(Wanted { normalization: bits & PITA_METRIC_NORMALIZATION != 0, entropy: bits & PITA_METRIC_ENTROPY != 0 })
}

/// `count` elements from `pointer`.
///
/// # Safety
/// `pointer` is NULL, or aligned and valid for `count` elements that live for `'a`.
pub unsafe fn slice<'a, T>(name: &str, pointer: *const T, count: usize) -> Result<&'a [T]> {
    if pointer.is_null() {
        return Err(Error::invalid(format!("{name} is NULL")));
    }
    fits::<T>(name, pointer, count)?;
    // SAFETY: not NULL, aligned, in range; valid by the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(pointer, count) })
}

/// As [`slice()`], but `None` for NULL.
///
/// # Safety
/// As for [`slice()`].
pub unsafe fn optional_slice<'a, T>(name: &str, pointer: *const T, count: usize) -> Result<Option<&'a [T]>> {
    // SAFETY: the caller's promise.
    if pointer.is_null() { Ok(None) } else { unsafe { slice(name, pointer, count) }.map(Some) }
}

/// As [`slice()`], to be written.
///
/// # Safety
/// As for [`slice()`], and nobody else uses the elements for `'a`.
pub unsafe fn slice_mut<'a, T>(name: &str, pointer: *mut T, count: usize) -> Result<&'a mut [T]> {
    if pointer.is_null() {
        return Err(Error::invalid(format!("{name} is NULL")));
    }
    fits::<T>(name, pointer, count)?;
    // SAFETY: not NULL, aligned, in range; valid and exclusive by the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts_mut(pointer, count) })
}

/// A matrix of logits: `rows` x `row_stride` elements, of which `vocab_size` of each row count.
pub fn matrix(
    logits: *const c_void,
    rows: usize,
    vocab_size: usize,
    row_stride: usize,
    element_size: usize,
) -> Result<()> {
    if logits.is_null() {
        return Err(Error::invalid("logits is NULL"));
    }
    if rows == 0 {
        return Err(Error::invalid("rows is 0: must be at least 1"));
    }
    if vocab_size == 0 {
        return Err(Error::invalid("vocab_size is 0: must be at least 1"));
    }
    if row_stride < vocab_size {
        return Err(Error::invalid(format!("row_stride is {row_stride}: must be at least vocab_size, {vocab_size}")));
    }
    let bytes = rows.checked_mul(row_stride).and_then(|elements| elements.checked_mul(element_size));
    if bytes.is_none_or(|bytes| bytes > isize::MAX as usize) {
        return Err(Error::invalid(format!("rows x row_stride is {rows} x {row_stride}: more than memory can hold")));
    }
    Ok(())
}

/// Refuses memory that a GPU alone can read, as far as a CUDA driver in this process knows of it.
pub fn on_host(name: &str, pointer: *const c_void) -> Result<()> {
    match cuda::memory(pointer) {
        Memory::Device => Err(Error::invalid(format!(
            "{name} is {pointer:p}: memory of a CUDA device, which PITA_DEVICE_CUDA is for"
        ))),
        Memory::Unknown | Memory::Both => Ok(()),
    }
}

/// Whether an array of `count` T can lie at `pointer` at all.
fn fits<T>(name: &str, pointer: *const T, count: usize) -> Result<()> {
    if !pointer.is_aligned() {
        let align = align_of::<T>();
        return Err(Error::invalid(format!("{name} is {pointer:p}: must be aligned to {align} bytes")));
    }
    if count.checked_mul(size_of::<T>()).is_none_or(|bytes| bytes > isize::MAX as usize) {
        return Err(Error::invalid(format!("{name} would have {count} entries: more than memory can hold")));
    }
    Ok(())
}
