"""Python by ctypes: store the metrics of a decode step, take them out again.

Usage: python3 store_and_take.py path/to/libpita_redis.so.0
Redis is found by REDIS_HOST, REDIS_PORT, REDIS_DB.
"""

import ctypes
import sys

lib = ctypes.CDLL(sys.argv[1])
c_size, c_string = ctypes.c_size_t, ctypes.c_char_p


class Metrics(ctypes.Structure):
    _fields_ = [(name, ctypes.c_double) for name in ("log_norm", "log_norm_temp", "entropy")]


# Without argtypes and restype, ctypes would cut pointers and sizes down to 32 bits.
lib.pita_last_error.restype = c_string
for name, *args in [
    ("pita_redis_open", c_string),
    ("pita_store_logits_metrics", c_string, ctypes.c_void_p, c_size, ctypes.c_float, ctypes.c_uint32),
    ("pita_take_metrics", c_string, ctypes.POINTER(Metrics), c_size, ctypes.POINTER(c_size)),
    ("pita_redis_close",),
]:
    getattr(lib, name).argtypes = args


def check(status):
    if status != 0:
        raise RuntimeError(lib.pita_last_error().decode())


check(lib.pita_redis_open(None))
for logits in ([1, 2, 3, 4], [0, 0, 0, 0], [9, 0, 0, 0]):
    row = (ctypes.c_float * 4)(*logits)  # of a numpy array: row.ctypes.data
    check(lib.pita_store_logits_metrics(b"example-py", row, len(row), 0.5, 3))
records, count = (Metrics * 16)(), c_size()
check(lib.pita_take_metrics(b"example-py", records, len(records), ctypes.byref(count)))
for i, record in enumerate(records[: count.value]):
    print(f"token {i}: log_norm {record.log_norm:.6f}, log_norm_temp {record.log_norm_temp:.6f}, entropy {record.entropy:.6f}")
check(lib.pita_redis_close())
