//! The structs of the C ABI lie in memory as C programs and ctypes expect. `cpp_tests/header` checks the same in C++.

use std::mem::{offset_of, size_of};

use pita_redis::capi::{pita_batch_t, pita_slot_batch_t, pita_stats_t};
use pita_redis::metrics::Metrics;
use pita_redis::redis::Latency;

macro_rules! assert_layout {
    ($type:ty, $size:expr, $($field:ident: $offset:expr),+) => {
        $(assert_eq!(offset_of!($type, $field), $offset, stringify!($type, $field));)+
        assert_eq!(size_of::<$type>(), $size, stringify!($type));
    };
}

#[test]
#[cfg(target_pointer_width = "64")]
fn structs_lie_as_the_header_says() {
    assert_layout!(Metrics, 24, log_norm: 0, log_norm_temp: 8, entropy: 16);
    assert_layout!(pita_batch_t, 112,
        struct_size: 0, logits: 8, dtype: 16, device: 20, rows: 24, vocab_size: 32, row_stride: 40, stream: 48, len: 56,
        req_ids: 64, row_of: 72, temperatures: 80, token_indices: 88, metrics: 96, statuses: 104);
    assert_layout!(pita_slot_batch_t, 88,
        struct_size: 0, logits: 8, dtype: 16, metrics: 20, rows: 24, vocab_size: 32, row_stride: 40, stream: 48,
        slots: 56, temperatures: 64, token_indices: 72, out: 80);
    assert_layout!(Latency, 40, count: 0, p50_ns: 8, p90_ns: 16, p99_ns: 24, max_ns: 32);
    assert_layout!(pita_stats_t, 200,
        struct_size: 0, stored: 8, appended: 16, indexed: 24, taken: 32, retried: 40, uncertain: 48, refused: 56,
        queued: 64, queued_max: 72, connections: 80, bytes_sent: 88, bytes_received: 96, store_latency: 104,
        round_trip_latency: 144, kernel: 184, reconnects: 192);
}
