//! Bytes as a list's element: whatever is taken for a record comes back the same when it is written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pita_redis::record;

fuzz_target!(|bytes: &[u8]| {
    let Some(metrics) = record::parse(bytes) else { return };
    let mut text = Vec::new();
    record::write(&metrics, &mut text);
    assert!(text.len() <= record::MAX_LEN, "{} bytes", text.len());
    let again = record::parse(&text).expect("what we write is a record");
    for (first, second) in metrics.fields().into_iter().zip(again.fields()) {
        assert!(first.to_bits() == second.to_bits() || first.is_nan() && second.is_nan(), "{first} became {second}");
    }
});
