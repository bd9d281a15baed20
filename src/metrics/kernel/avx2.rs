//! AVX2 with FMA and F16C: 8 lanes.

use std::arch::x86_64::*;

use super::vector::Vector;
use crate::metrics::row::{Bits16, Bits32};

#[derive(Clone, Copy)]
pub struct Avx2(__m256);

/// The bits of 2^(k/8), less what k adds to them when it is shifted into the exponent.
const POWERS: [i32; 8] = super::vector::powers(20);

// SAFETY of every block below: the trait's callers have a CPU with AVX2, FMA and F16C, and readable memory for the loads.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Vector for Avx2 {
    const LANES: usize = 8;
    const STEPS: f32 = 8.0;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Avx2(unsafe { _mm256_set1_ps(x) })
    }
    #[inline(always)]
    unsafe fn load_f32(from: *const Bits32) -> Self {
        Avx2(unsafe { _mm256_loadu_ps(from.cast()) })
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const Bits16) -> Self {
        Avx2(unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) })
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const Bits16) -> Self {
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            Avx2(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide)))
        }
    }
    #[inline(always)]
    unsafe fn prefetch(address: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Avx2(unsafe { _mm256_add_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Avx2(unsafe { _mm256_sub_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Avx2(unsafe { _mm256_mul_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        Avx2(unsafe { _mm256_fmadd_ps(self.0, factor.0, addend.0) })
    }
    #[inline(always)]
    unsafe fn at_least(self, floor: Self) -> Self {
        // Of a NaN and a number, the instruction returns its second operand.
        Avx2(unsafe { _mm256_max_ps(floor.0, self.0) })
    }
    #[inline(always)]
    unsafe fn any_above(self, other: Self) -> bool {
        unsafe { _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(self.0, other.0)) != 0 }
    }
    #[inline(always)]
    unsafe fn any_at_least(self, other: Self) -> bool {
        unsafe { _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(self.0, other.0)) != 0 }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm256_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn exp_factor(r: Self) -> Self {
        // Minimax for the relative error of 1 + r factor(r): 2.7e-8.
        unsafe {
            let factor = Self::splat(0.166_642_89).mul_add(r, Self::splat(0.500_065));
            factor.mul_add(r, Self::splat(1.0))
        }
    }
    #[inline(always)]
    unsafe fn exp2_steps(shifted: Self) -> Self {
        unsafe {
            let steps = _mm256_castps_si256(shifted.0);
            let table = _mm256_loadu_si256(POWERS.as_ptr().cast());
            let power = _mm256_permutevar8x32_epi32(table, steps);
            Avx2(_mm256_castsi256_ps(_mm256_add_epi32(power, _mm256_slli_epi32::<20>(steps))))
        }
    }
    #[inline(always)]
    unsafe fn total(self) -> f64 {
        unsafe {
            let low = _mm256_cvtps_pd(_mm256_castps256_ps128(self.0));
            let high = _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(self.0));
            let four = _mm256_add_pd(low, high);
            let two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd::<1>(four));
            _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)))
        }
    }
}

kernel!(Avx2, c"avx2", "avx2,fma,f16c");
