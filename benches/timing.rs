//! Medians, and the clock that turns them into cycles.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// The median time of a call in microseconds, over about half a second.
pub fn median_us(mut call: impl FnMut() -> f64) -> f64 {
    black_box(call());
    let (begin, mut times) = (Instant::now(), Vec::new());
    while times.len() < 5 || begin.elapsed() < Duration::from_millis(500) {
        let start = Instant::now();
        black_box(call());
        times.push(start.elapsed());
    }
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e6
}

/// The core's clock now, from additions that wait for each other: one a cycle.
pub fn clock_ghz() -> f64 {
    const ADDITIONS: u64 = 20_000_000;
    let run = || {
        let start = Instant::now();
        let mut x = 1_u64;
        for _ in 0..ADDITIONS / 10 {
            // SAFETY: additions in a register.
            #[cfg(target_arch = "x86_64")]
            unsafe {
                std::arch::asm!(".rept 10", "add {0}, {0}", ".endr", inout(reg) x, options(nomem, nostack));
            }
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            unsafe {
                std::arch::asm!(".rept 10", "add {0}, {0}, {0}", ".endr", inout(reg) x, options(nomem, nostack));
            }
        }
        black_box(x);
        ADDITIONS as f64 / start.elapsed().as_nanos() as f64
    };
    // The fastest run was disturbed least.
    (0..9).map(|_| run()).fold(0.0, f64::max)
}
