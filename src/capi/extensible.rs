//! Structs that may grow: their first member is their size as the caller knows it.

use std::mem::MaybeUninit;

use crate::error::{Error, Result};

/// The greatest `struct_size` that makes sense.
const MAX_SIZE: usize = 4096;

/// A struct of the C ABI that begins with its `struct_size`.
///
/// # Safety
/// All bytes zero is a valid value, and the first member is the `usize` that holds the size.
pub unsafe trait Extensible: Copy {
    /// The struct's name in C.
    const NAME: &'static str;
    /// The size of its first published version: no caller has a smaller one.
    const FIRST_SIZE: usize;
}

/// Copies a caller's struct. Members it does not know of yet are zero; ones we do not know of must be zero.
///
/// # Safety
/// `pointer` is NULL or points to a readable `usize`, and to as many readable bytes as that says.
pub unsafe fn read<T: Extensible>(pointer: *const T) -> Result<T> {
    // SAFETY: the caller's promise.
    let size = unsafe { checked_size(pointer) }?;
    let mut copy = MaybeUninit::<T>::zeroed();
    // SAFETY: `size` bytes are readable by the caller's promise, and no more than a T are written.
    unsafe { copy.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(pointer.cast(), size.min(size_of::<T>())) };
    // SAFETY: all bytes are initialised; those that were not copied are zero, which is valid for the trait's types.
    Ok(unsafe { copy.assume_init() })
}

/// Fills a caller's struct as far as it knows the members. `struct_size` stays as it is.
///
/// # Safety
/// As for [`read`], and the bytes are writable.
pub unsafe fn write<T: Extensible>(pointer: *mut T, value: &T) -> Result<()> {
    // SAFETY: the caller's promise.
    let size = unsafe { checked_size(pointer) }?.min(size_of::<T>());
    let skip = size_of::<usize>();
    let from = (&raw const *value).cast::<u8>();
    // SAFETY: both sides have `size` bytes, and `checked_size` refuses a size below that of the first version.
    unsafe { pointer.cast::<u8>().add(skip).copy_from_nonoverlapping(from.add(skip), size - skip) };
    Ok(())
}

/// The caller's `struct_size`, if it makes sense.
///
/// # Safety
/// As for [`read`].
unsafe fn checked_size<T: Extensible>(pointer: *const T) -> Result<usize> {
    if pointer.is_null() {
        return Err(Error::invalid(format!("{} is NULL", T::NAME)));
    }
    // SAFETY: the first member is a readable usize by the caller's promise.
    let size = unsafe { pointer.cast::<usize>().read_unaligned() };
    if size < T::FIRST_SIZE {
        let least = T::FIRST_SIZE;
        return Err(Error::invalid(format!("{}: struct_size is {size}: must be at least {least}", T::NAME)));
    }
    // No version is that large; and what lies behind a size gone wrong may not be readable.
    if size > MAX_SIZE {
        return Err(Error::invalid(format!("{}: struct_size is {size}: must be at most {MAX_SIZE}", T::NAME)));
    }
    for i in size_of::<T>()..size {
        // SAFETY: within `size` bytes, which the caller promises are readable.
        if unsafe { pointer.cast::<u8>().add(i).read() } != 0 {
            let (known, name) = (size_of::<T>(), T::NAME);
            return Err(Error::invalid(format!(
                "{name}: struct_size is {size}, this library knows {known} bytes, and byte {i} is not zero"
            )));
        }
    }
    Ok(size)
}
