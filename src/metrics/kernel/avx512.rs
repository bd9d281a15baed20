//! AVX-512F: 16 lanes, and a table of 32 powers of two.

use std::arch::x86_64::*;

use super::vector::Vector;
use crate::metrics::row::{Bits16, Bits32};

#[derive(Clone, Copy)]
pub struct Avx512(__m512);

/// The bits of 2^(k/32), less what k adds to them when it is shifted into the exponent.
const POWERS: [i32; 32] = super::vector::powers(18);

// SAFETY of every block below: the trait's callers have a CPU with AVX-512F, and readable memory for the loads.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Vector for Avx512 {
    const LANES: usize = 16;
    const STEPS: f32 = 32.0;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Avx512(unsafe { _mm512_set1_ps(x) })
    }
    #[inline(always)]
    unsafe fn load_f32(from: *const Bits32) -> Self {
        Avx512(unsafe { _mm512_loadu_ps(from.cast()) })
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const Bits16) -> Self {
        Avx512(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) })
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const Bits16) -> Self {
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            Avx512(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide)))
        }
    }
    #[inline(always)]
    unsafe fn prefetch(address: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Avx512(unsafe { _mm512_add_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Avx512(unsafe { _mm512_sub_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Avx512(unsafe { _mm512_mul_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        Avx512(unsafe { _mm512_fmadd_ps(self.0, factor.0, addend.0) })
    }
    #[inline(always)]
    unsafe fn at_least(self, floor: Self) -> Self {
        // Of a NaN and a number, the instruction returns its second operand.
        Avx512(unsafe { _mm512_max_ps(floor.0, self.0) })
    }
    #[inline(always)]
    unsafe fn any_above(self, other: Self) -> bool {
        unsafe { _mm512_cmp_ps_mask::<_CMP_GT_OQ>(self.0, other.0) != 0 }
    }
    #[inline(always)]
    unsafe fn any_at_least(self, other: Self) -> bool {
        unsafe { _mm512_cmp_ps_mask::<_CMP_GE_OQ>(self.0, other.0) != 0 }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn exp_factor(r: Self) -> Self {
        // Minimax for the relative error of 1 + r factor(r): 5.4e-8.
        unsafe { Self::splat(0.499_999_97).mul_add(r, Self::splat(1.000_014_7)) }
    }
    #[inline(always)]
    unsafe fn exp2_steps(shifted: Self) -> Self {
        unsafe {
            let steps = _mm512_castps_si512(shifted.0);
            let low = _mm512_loadu_si512(POWERS.as_ptr().cast());
            let high = _mm512_loadu_si512(POWERS.as_ptr().add(16).cast());
            let power = _mm512_permutex2var_epi32(low, steps, high);
            Avx512(_mm512_castsi512_ps(_mm512_add_epi32(power, _mm512_slli_epi32::<18>(steps))))
        }
    }
    #[inline(always)]
    unsafe fn total(self) -> f64 {
        unsafe {
            let low = _mm512_cvtps_pd(_mm512_castps512_ps256(self.0));
            let high = _mm512_extractf64x4_pd::<1>(_mm512_castps_pd(self.0));
            _mm512_reduce_add_pd(_mm512_add_pd(low, _mm512_cvtps_pd(_mm256_castpd_ps(high))))
        }
    }
}

kernel!(Avx512, c"avx512", "avx512f");
