//! Bytes as a row of logits: every kernel agrees with the formulas in double precision, and reads nothing else.
#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use pita_redis::metrics::kernel::{self, Plan};
use pita_redis::metrics::{Metrics, Row};

#[path = "../../src/metrics/reference.rs"]
mod reference;

// Bytes: the element type, the temperature, the logits. They lie where the fuzzer put them, so not aligned.
fuzz_target!(|bytes: &[u8]| -> Corpus {
    let [dtype, temperature, logits @ ..] = bytes else { return Corpus::Reject };
    let row = match dtype % 3 {
        0 => Row::F32(logits.as_chunks().0),
        1 => Row::F16(logits.as_chunks().0),
        _ => Row::Bf16(logits.as_chunks().0),
    };
    if row.is_empty() {
        return Corpus::Reject;
    }
    // 1/8 to 1, their neighbours, and others from 1e-15 to 1e14.
    let temperature = match *temperature {
        n @ 0..8 => 1.0 / f32::from(n + 1),
        n @ 8..16 => (1.0 / f32::from(n - 7)).next_down(),
        n => 10f32.powf((f32::from(n) - 136.0) / 8.0),
    };
    let expected = reference::metrics(&row.widened(), temperature);
    for kernel in kernel::available() {
        let plan = Plan { temperature: f64::from(temperature), entropy: true };
        let found = kernel.reduce(row, plan).finish(plan.temperature);
        let name = kernel.name();
        assert!(reference::is_close(name, found, expected), "{name}: found {found:?}, expected {expected:?}");
    }
    Corpus::Keep
});
