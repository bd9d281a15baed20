//! The kernels: one row in, its [`State`] out, for each instruction set; the best is chosen once, at run time.

mod element;
mod scalar;
mod sweep;
mod vector;

use std::ffi::CStr;

use once_cell::race::OnceRef;

use super::row::{Bits16, Bits32, Row};
use super::state::State;
use crate::error::{Error, Result};
use crate::log::{self, Level};

/// What to compute of a row.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Finite and above 0.
    pub temperature: f64,
    /// Whether the state's weighted sum is wanted.
    pub entropy: bool,
}

/// One instruction set's functions.
pub struct Kernel {
    /// `scalar`, `avx2`, `avx512` or `neon`; C reads it too.
    pub c_name: &'static CStr,
    f32: fn(&[Bits32], Plan) -> State,
    f16: fn(&[Bits16], Plan) -> State,
    bf16: fn(&[Bits16], Plan) -> State,
}

impl Kernel {
    /// The same for Rust.
    pub fn name(&self) -> &'static str {
        self.c_name.to_str().expect("a kernel's name is ASCII")
    }

    /// Reduces a row to its state.
    pub fn reduce(&self, row: Row<'_>, plan: Plan) -> State {
        match row {
            Row::F32(row) => (self.f32)(row, plan),
            Row::F16(row) => (self.f16)(row, plan),
            Row::Bf16(row) => (self.bf16)(row, plan),
        }
    }
}

/// Makes `KERNEL` of a vector type: the sweep compiled for its features, for each element type and way to do it.
#[allow(unused_macros)] // on machines with no vector kernel
macro_rules! kernel {
    ($vector:ty, $name:literal, $features:literal) => {
        /// Only for CPUs with the features.
        pub const KERNEL: super::Kernel = super::Kernel {
            c_name: $name,
            f32: reduce::<super::element::F32>,
            f16: reduce::<super::element::F16>,
            bf16: reduce::<super::element::Bf16>,
        };

        fn reduce<E: super::element::Element>(row: &[E::Bits], plan: super::Plan) -> crate::metrics::state::State {
            // SAFETY: a kernel is only chosen where the CPU has its features.
            unsafe { super::sweep::reduce_as_planned::<$vector, E>(row, plan) }
        }

        // SAFETY of every block: the trait's callers have a CPU with the features, and here they are enabled.
        #[allow(clippy::undocumented_unsafe_blocks)]
        impl super::sweep::Compiled for $vector {
            const STEPS: f32 = <$vector as super::vector::Vector>::STEPS;

            #[target_feature(enable = $features)]
            unsafe fn sweep<E: super::element::Element, const ENTROPY: bool, const TEMP: u32>(
                row: &[E::Bits],
                frame: &super::sweep::Frame,
            ) -> super::sweep::Sums {
                unsafe { super::sweep::sweep::<$vector, E, ENTROPY, TEMP>(row, frame) }
            }

            #[target_feature(enable = $features)]
            unsafe fn greatest<E: super::element::Element>(row: &[E::Bits]) -> f32 {
                unsafe { super::sweep::greatest::<$vector, E>(row) }
            }

            #[target_feature(enable = $features)]
            unsafe fn find<E: super::element::Element>(row: &[E::Bits], element: f32) -> usize {
                unsafe { super::sweep::find::<$vector, E>(row, element) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;

/// The kernels that this machine can run, the fastest first.
pub fn available() -> impl Iterator<Item = &'static Kernel> {
    #[cfg(target_arch = "x86_64")]
    let vector = [
        is_x86_feature_detected!("avx512f").then_some(&avx512::KERNEL),
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c"))
            .then_some(&avx2::KERNEL),
    ];
    #[cfg(target_arch = "aarch64")]
    let vector = [Some(&neon::KERNEL)];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let vector = [];
    vector.into_iter().flatten().chain([&scalar::KERNEL])
}

/// The kernel that `PITA_KERNEL` names; where it is not set or empty, the fastest that this machine runs.
pub fn asked_for() -> Result<&'static Kernel> {
    match std::env::var_os("PITA_KERNEL") {
        Some(name) if !name.is_empty() => available().find(|kernel| name == kernel.name()).ok_or_else(|| {
            let names: Vec<&str> = available().map(Kernel::name).collect();
            Error::config(format!("PITA_KERNEL is {name:?}: this machine runs {}", names.join(", ")))
        }),
        _ => Ok(fastest()),
    }
}

/// The kernel of this process, chosen at the first call: as asked for, or else the fastest.
pub fn chosen() -> &'static Kernel {
    static CHOSEN: OnceRef<'static, Kernel> = OnceRef::new();
    CHOSEN.get_or_init(|| {
        asked_for().unwrap_or_else(|error| {
            log::emit(Level::Warning, || format!("{error}; {} it is", fastest().name()));
            fastest()
        })
    })
}

fn fastest() -> &'static Kernel {
    available().next().expect("the portable kernel runs everywhere")
}
