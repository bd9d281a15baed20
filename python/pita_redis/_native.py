"""The C ABI in ctypes: what pita_redis.h declares, word for word. A test compares the two."""

import ctypes
import os
from ctypes import POINTER, c_char_p, c_double, c_float, c_int, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p

PITA_OK = 0
PITA_ERR_INVALID_ARGUMENT = -1
PITA_ERR_NOT_OPEN = -2
PITA_ERR_CONFIG = -3
PITA_ERR_UNAVAILABLE = -4
PITA_ERR_TIMEOUT = -5
PITA_ERR_AUTH = -6
PITA_ERR_REDIS = -7
PITA_ERR_UNCERTAIN = -8
PITA_ERR_BAD_RECORD = -9
PITA_ERR_BUFFER_TOO_SMALL = -10
PITA_ERR_GAP = -11
PITA_ERR_QUEUE_FULL = -12
PITA_ERR_UNSUPPORTED = -13
PITA_ERR_CUDA = -14
PITA_ERR_PANIC = -127

PITA_METRIC_NORMALIZATION = 1
PITA_METRIC_ENTROPY = 2
PITA_METRIC_ALL = 3

PITA_DTYPE_F32 = 0
PITA_DTYPE_F16 = 1
PITA_DTYPE_BF16 = 2

PITA_DEVICE_CPU = 1
PITA_DEVICE_CUDA = 2

PITA_SLOT_COUNT = 1024

PITA_LOG_ERROR = 3
PITA_LOG_WARNING = 4
PITA_LOG_INFO = 6
PITA_LOG_DEBUG = 7

# pita_status_t
c_status = c_int32


class pita_latency_t(ctypes.Structure):
    _fields_ = [
        ("count", c_uint64),
        ("p50_ns", c_uint64),
        ("p90_ns", c_uint64),
        ("p99_ns", c_uint64),
        ("max_ns", c_uint64),
    ]


class pita_stats_t(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("stored", c_uint64),
        ("appended", c_uint64),
        ("indexed", c_uint64),
        ("taken", c_uint64),
        ("retried", c_uint64),
        ("uncertain", c_uint64),
        ("refused", c_uint64),
        ("queued", c_uint64),
        ("queued_max", c_uint64),
        ("connections", c_uint64),
        ("bytes_sent", c_uint64),
        ("bytes_received", c_uint64),
        ("store_latency", pita_latency_t),
        ("round_trip_latency", pita_latency_t),
        ("kernel", c_char_p),
        ("reconnects", c_uint64),
    ]


def new_stats() -> pita_stats_t:
    """Room for the stats."""
    return pita_stats_t(struct_size=ctypes.sizeof(pita_stats_t))


class pita_batch_t(ctypes.Structure):
    # Pointers to numbers are void pointers here: an address is what numpy and torch have.
    _fields_ = [
        ("struct_size", c_size_t),
        ("logits", c_void_p),
        ("dtype", c_uint32),
        ("device", c_uint32),
        ("rows", c_size_t),
        ("vocab_size", c_size_t),
        ("row_stride", c_size_t),
        ("stream", c_void_p),
        ("len", c_size_t),
        ("req_ids", POINTER(c_char_p)),
        ("row_of", c_void_p),
        ("temperatures", c_void_p),
        ("token_indices", c_void_p),
        ("metrics", c_void_p),
        ("statuses", c_void_p),
    ]


class pita_slot_batch_t(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("logits", c_void_p),
        ("dtype", c_uint32),
        ("metrics", c_uint32),
        ("rows", c_size_t),
        ("vocab_size", c_size_t),
        ("row_stride", c_size_t),
        ("stream", c_void_p),
        ("slots", c_void_p),
        ("temperatures", c_void_p),
        ("token_indices", c_void_p),
        ("out", c_void_p),
    ]


class pita_metrics_t(ctypes.Structure):
    _fields_ = [("log_norm", c_double), ("log_norm_temp", c_double), ("entropy", c_double)]


# void callback(int level, const char *message, void *user)
LogCallback = ctypes.CFUNCTYPE(None, c_int, c_char_p, c_void_p)

FUNCTIONS = {
    "pita_redis_open": (c_status, [c_char_p]),
    "pita_redis_ping": (c_status, []),
    "pita_redis_flush": (c_status, [c_uint32]),
    "pita_redis_close": (c_status, []),
    "pita_redis_start_server": (c_status, [c_char_p]),
    "pita_redis_stop_servers": (c_status, []),
    "pita_redis_stats": (c_status, [POINTER(pita_stats_t)]),
    "pita_store_logits_metrics": (c_status, [c_char_p, c_void_p, c_size_t, c_float, c_uint32]),
    "pita_store_logits_metrics_batch": (c_status, [POINTER(pita_batch_t)]),
    "pita_store_metrics": (c_status, [c_char_p, c_int64, c_void_p, c_size_t]),
    "pita_compute_logits_metrics": (c_status, [POINTER(pita_batch_t), c_void_p]),
    "pita_bind_slot": (c_status, [c_uint32, c_char_p]),
    "pita_unbind_slot": (c_status, [c_uint32]),
    "pita_store_slots": (c_status, [POINTER(pita_slot_batch_t)]),
    "pita_take_metrics": (c_status, [c_char_p, c_void_p, c_size_t, POINTER(c_size_t)]),
    "pita_take_metrics_wait": (
        c_status,
        [c_char_p, c_size_t, c_uint32, c_void_p, c_size_t, POINTER(c_size_t)],
    ),
    "pita_count_metrics": (c_status, [c_char_p, POINTER(c_size_t)]),
    "pita_discard_metrics": (c_status, [c_char_p]),
    "pita_last_error": (c_char_p, []),
    "pita_status_name": (c_char_p, [c_status]),
    "pita_version": (c_char_p, []),
    "pita_set_log_callback": (None, [LogCallback, c_void_p]),
}


def _load() -> ctypes.CDLL:
    """The library of the wheel, or the one that PITA_REDIS_LIBRARY names."""
    beside = os.path.join(os.path.dirname(os.path.abspath(__file__)), "libpita_redis.so.0")
    loaded = ctypes.CDLL(os.environ.get("PITA_REDIS_LIBRARY") or beside)
    for name, (result, arguments) in FUNCTIONS.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


lib = _load()
