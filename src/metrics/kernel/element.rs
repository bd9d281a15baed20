//! The element types of a row.

use super::vector::Vector;
use crate::metrics::row::{Bits16, Bits32, bf16_to_f32, f16_to_f32};

/// A type of logit, by the bytes in which it is stored.
pub trait Element {
    type Bits: Copy;
    const NEG_INFINITY: Self::Bits;

    /// The value as an f32, exactly.
    fn widen(bits: Self::Bits) -> f32;

    fn is_nan(bits: Self::Bits) -> bool;

    /// A vector's worth of elements, widened.
    ///
    /// # Safety
    /// As for the loads of [`Vector`].
    unsafe fn load<V: Vector>(from: *const Self::Bits) -> V;
}

pub struct F32;
pub struct F16;
pub struct Bf16;

impl Element for F32 {
    type Bits = Bits32;
    const NEG_INFINITY: Bits32 = f32::NEG_INFINITY.to_ne_bytes();

    #[inline(always)]
    fn widen(bits: Bits32) -> f32 {
        f32::from_ne_bytes(bits)
    }

    #[inline(always)]
    fn is_nan(bits: Bits32) -> bool {
        f32::from_ne_bytes(bits).is_nan()
    }

    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const Bits32) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::load_f32(from) }
    }
}

impl Element for F16 {
    type Bits = Bits16;
    const NEG_INFINITY: Bits16 = 0xfc00_u16.to_ne_bytes();

    #[inline(always)]
    fn widen(bits: Bits16) -> f32 {
        f16_to_f32(u16::from_ne_bytes(bits))
    }

    #[inline(always)]
    fn is_nan(bits: Bits16) -> bool {
        u16::from_ne_bytes(bits) & 0x7fff > 0x7c00
    }

    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const Bits16) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::load_f16(from) }
    }
}

impl Element for Bf16 {
    type Bits = Bits16;
    const NEG_INFINITY: Bits16 = 0xff80_u16.to_ne_bytes();

    #[inline(always)]
    fn widen(bits: Bits16) -> f32 {
        bf16_to_f32(u16::from_ne_bytes(bits))
    }

    #[inline(always)]
    fn is_nan(bits: Bits16) -> bool {
        u16::from_ne_bytes(bits) & 0x7fff > 0x7f80
    }

    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const Bits16) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::load_bf16(from) }
    }
}
