//! NEON, which every aarch64 CPU has: 4 lanes, and no table but for whole powers of two.

use std::arch::aarch64::*;
use std::arch::asm;

use super::vector::Vector;
use crate::metrics::row::{Bits16, Bits32};

#[derive(Clone, Copy)]
pub struct Neon(float32x4_t);

/// The bits of 1, to which the exponent is added.
const POWERS: [i32; 1] = super::vector::powers(23);

// SAFETY of every block below: the trait's callers have readable memory for the loads.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Vector for Neon {
    const LANES: usize = 4;
    const STEPS: f32 = 1.0;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Neon(unsafe { vdupq_n_f32(x) })
    }
    #[inline(always)]
    unsafe fn load_f32(from: *const Bits32) -> Self {
        Neon(unsafe { vreinterpretq_f32_u8(vld1q_u8(from.cast())) })
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const Bits16) -> Self {
        let half = unsafe { vld1_u8(from.cast()) };
        let wide: float32x4_t;
        // The intrinsic wants f16, which stable Rust does not have.
        unsafe {
            asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) wide, in(vreg) half, options(pure, nomem, nostack, preserves_flags));
        }
        Neon(wide)
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const Bits16) -> Self {
        Neon(unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vreinterpret_u16_u8(vld1_u8(from.cast())))) })
    }
    #[inline(always)]
    unsafe fn prefetch(address: *const u8) {
        // The intrinsic is not stable.
        unsafe { asm!("prfm pldl1keep, [{0}]", in(reg) address, options(readonly, nostack, preserves_flags)) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Neon(unsafe { vaddq_f32(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Neon(unsafe { vsubq_f32(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Neon(unsafe { vmulq_f32(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        Neon(unsafe { vfmaq_f32(addend.0, self.0, factor.0) })
    }
    #[inline(always)]
    unsafe fn at_least(self, floor: Self) -> Self {
        Neon(unsafe { vmaxq_f32(floor.0, self.0) })
    }
    #[inline(always)]
    unsafe fn any_above(self, other: Self) -> bool {
        unsafe { vmaxvq_u32(vcgtq_f32(self.0, other.0)) != 0 }
    }
    #[inline(always)]
    unsafe fn any_at_least(self, other: Self) -> bool {
        unsafe { vmaxvq_u32(vcgeq_f32(self.0, other.0)) != 0 }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { vst1q_f32(to, self.0) }
    }
    #[inline(always)]
    unsafe fn exp_factor(r: Self) -> Self {
        // Minimax for the relative error of 1 + r factor(r): 1.8e-8.
        unsafe {
            let factor = Self::splat(0.001_384_347_7).mul_add(r, Self::splat(0.008_374_317));
            let factor = factor.mul_add(r, Self::splat(0.041_668_013));
            let factor = factor.mul_add(r, Self::splat(0.166_664_29));
            let factor = factor.mul_add(r, Self::splat(0.499_999_94));
            factor.mul_add(r, Self::splat(1.0))
        }
    }
    #[inline(always)]
    unsafe fn exp2_steps(shifted: Self) -> Self {
        unsafe {
            let exponent = vshlq_n_s32::<23>(vreinterpretq_s32_f32(shifted.0));
            Neon(vreinterpretq_f32_s32(vaddq_s32(vdupq_n_s32(POWERS[0]), exponent)))
        }
    }
    #[inline(always)]
    unsafe fn total(self) -> f64 {
        unsafe { vaddvq_f64(vaddq_f64(vcvt_f64_f32(vget_low_f32(self.0)), vcvt_high_f64_f32(self.0))) }
    }
}

kernel!(Neon, c"neon", "neon");
