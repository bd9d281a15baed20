// What programs were compiled with must never change: where the fields of a struct lie, and the constants' values.
// tests/layout.rs checks the Rust side.
#include <pita_redis.h>

#include <type_traits>

#define AT(type, field, offset) static_assert(offsetof(type, field) == (offset), #type "." #field)
#define SIZE(type, size) static_assert(sizeof(type) == (size), "size of " #type)
#define VALUE(name, value) static_assert(name == (value), #name)

static_assert(std::is_same<pita_status_t, int32_t>::value, "pita_status_t");

#if UINTPTR_MAX == UINT64_MAX
SIZE(pita_metrics_t, 24);
AT(pita_metrics_t, log_norm, 0);
AT(pita_metrics_t, log_norm_temp, 8);
AT(pita_metrics_t, entropy, 16);

SIZE(pita_batch_t, 112);
AT(pita_batch_t, struct_size, 0);
AT(pita_batch_t, logits, 8);
AT(pita_batch_t, dtype, 16);
AT(pita_batch_t, device, 20);
AT(pita_batch_t, rows, 24);
AT(pita_batch_t, vocab_size, 32);
AT(pita_batch_t, row_stride, 40);
AT(pita_batch_t, stream, 48);
AT(pita_batch_t, len, 56);
AT(pita_batch_t, req_ids, 64);
AT(pita_batch_t, row_of, 72);
AT(pita_batch_t, temperatures, 80);
AT(pita_batch_t, token_indices, 88);
AT(pita_batch_t, metrics, 96);
AT(pita_batch_t, statuses, 104);

SIZE(pita_latency_t, 40);
AT(pita_latency_t, count, 0);
AT(pita_latency_t, p50_ns, 8);
AT(pita_latency_t, p90_ns, 16);
AT(pita_latency_t, p99_ns, 24);
AT(pita_latency_t, max_ns, 32);

SIZE(pita_stats_t, 200);
AT(pita_stats_t, struct_size, 0);
AT(pita_stats_t, stored, 8);
AT(pita_stats_t, appended, 16);
AT(pita_stats_t, indexed, 24);
AT(pita_stats_t, taken, 32);
AT(pita_stats_t, retried, 40);
AT(pita_stats_t, uncertain, 48);
AT(pita_stats_t, refused, 56);
AT(pita_stats_t, queued, 64);
AT(pita_stats_t, queued_max, 72);
AT(pita_stats_t, connections, 80);
AT(pita_stats_t, bytes_sent, 88);
AT(pita_stats_t, bytes_received, 96);
AT(pita_stats_t, store_latency, 104);
AT(pita_stats_t, round_trip_latency, 144);
AT(pita_stats_t, kernel, 184);
AT(pita_stats_t, reconnects, 192);

SIZE(pita_slot_batch_t, 88);
AT(pita_slot_batch_t, struct_size, 0);
AT(pita_slot_batch_t, logits, 8);
AT(pita_slot_batch_t, dtype, 16);
AT(pita_slot_batch_t, metrics, 20);
AT(pita_slot_batch_t, rows, 24);
AT(pita_slot_batch_t, vocab_size, 32);
AT(pita_slot_batch_t, row_stride, 40);
AT(pita_slot_batch_t, stream, 48);
AT(pita_slot_batch_t, slots, 56);
AT(pita_slot_batch_t, temperatures, 64);
AT(pita_slot_batch_t, token_indices, 72);
AT(pita_slot_batch_t, out, 80);
#endif

VALUE(PITA_OK, 0);
VALUE(PITA_ERR_INVALID_ARGUMENT, -1);
VALUE(PITA_ERR_NOT_OPEN, -2);
VALUE(PITA_ERR_CONFIG, -3);
VALUE(PITA_ERR_UNAVAILABLE, -4);
VALUE(PITA_ERR_TIMEOUT, -5);
VALUE(PITA_ERR_AUTH, -6);
VALUE(PITA_ERR_REDIS, -7);
VALUE(PITA_ERR_UNCERTAIN, -8);
VALUE(PITA_ERR_BAD_RECORD, -9);
VALUE(PITA_ERR_BUFFER_TOO_SMALL, -10);
VALUE(PITA_ERR_GAP, -11);
VALUE(PITA_ERR_QUEUE_FULL, -12);
VALUE(PITA_ERR_UNSUPPORTED, -13);
VALUE(PITA_ERR_CUDA, -14);
VALUE(PITA_ERR_PANIC, -127);
VALUE(PITA_METRIC_NORMALIZATION, 1u);
VALUE(PITA_METRIC_ENTROPY, 2u);
VALUE(PITA_METRIC_ALL, 3u);
VALUE(PITA_DTYPE_F32, 0u);
VALUE(PITA_DTYPE_F16, 1u);
VALUE(PITA_DTYPE_BF16, 2u);
VALUE(PITA_DEVICE_CPU, 1u);
VALUE(PITA_DEVICE_CUDA, 2u);
VALUE(PITA_SLOT_COUNT, 1024u);
VALUE(PITA_LOG_ERROR, 3);
VALUE(PITA_LOG_WARNING, 4);
VALUE(PITA_LOG_INFO, 6);
VALUE(PITA_LOG_DEBUG, 7);

// Bit sets and codes are unsigned, statuses are not.
static_assert(std::is_same<decltype(PITA_METRIC_ALL), unsigned>::value, "PITA_METRIC_ALL");
static_assert(std::is_same<decltype(PITA_DTYPE_F32), unsigned>::value, "PITA_DTYPE_F32");
static_assert(std::is_same<decltype(PITA_DEVICE_CPU), unsigned>::value, "PITA_DEVICE_CPU");
static_assert(std::is_same<decltype(PITA_ERR_PANIC), int>::value, "PITA_ERR_PANIC");
