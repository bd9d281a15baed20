"""PITA's own reader and writer against the library: what one stores, the other takes.

PITA itself is not needed: its reader and writer are a few lines on top of redis-py, repeated here. PITA_REDIS_LIBRARY is
the path of the shared library.
"""

import ctypes
import math
import os
import socket
import struct
import subprocess
import tempfile
import time
import unittest

import redis


class PitaReader:
    """Takes a request's records as PITA's sampler does."""

    def __init__(self, client):
        self.client = client

    def take(self, request_id):
        elements = self.client.lrange(request_id, 0, -1)
        records = [tuple(float(field) for field in element.decode().split(",")) for element in elements]
        self.client.delete(request_id)
        return records


class PitaWriter:
    """Stores a record as PITA's logits processors do."""

    def __init__(self, client):
        self.client = client

    def store(self, request_id, log_norm, log_norm_temp, entropy):
        self.client.rpush(request_id, f"{log_norm},{log_norm_temp},{entropy}")


class Metrics(ctypes.Structure):
    _fields_ = [(name, ctypes.c_double) for name in ("log_norm", "log_norm_temp", "entropy")]


class Batch(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("logits", ctypes.c_void_p),
        ("dtype", ctypes.c_uint32),
        ("device", ctypes.c_uint32),
        ("rows", ctypes.c_size_t),
        ("vocab_size", ctypes.c_size_t),
        ("row_stride", ctypes.c_size_t),
        ("stream", ctypes.c_void_p),
        ("len", ctypes.c_size_t),
        ("req_ids", ctypes.POINTER(ctypes.c_char_p)),
        ("row_of", ctypes.POINTER(ctypes.c_size_t)),
        ("temperatures", ctypes.POINTER(ctypes.c_float)),
        ("token_indices", ctypes.POINTER(ctypes.c_int64)),
        ("metrics", ctypes.POINTER(ctypes.c_uint32)),
        ("statuses", ctypes.POINTER(ctypes.c_int32)),
    ]


ALL_METRICS = 3
DEVICE_CPU = 1


def load_library(path):
    library = ctypes.CDLL(path)
    library.pita_redis_open.argtypes = [ctypes.c_char_p]
    library.pita_store_logits_metrics.argtypes = [
        ctypes.c_char_p, ctypes.POINTER(ctypes.c_float), ctypes.c_size_t, ctypes.c_float, ctypes.c_uint32,
    ]
    library.pita_store_logits_metrics_batch.argtypes = [ctypes.POINTER(Batch)]
    library.pita_take_metrics.argtypes = [
        ctypes.c_char_p, ctypes.POINTER(Metrics), ctypes.c_size_t, ctypes.POINTER(ctypes.c_size_t),
    ]
    library.pita_last_error.restype = ctypes.c_char_p
    return library


def reference(logits, temperature):
    """The three numbers, by exactly rounded sums."""

    def logsumexp(values):
        most = max(values)
        return most + math.log(math.fsum(math.exp(value - most) for value in values))

    log_norm = logsumexp(logits)
    entropy = math.fsum(math.exp(x - log_norm) * (log_norm - x) for x in logits)
    return log_norm, logsumexp([x / temperature for x in logits]), entropy


def some_logits(seed, count=1000):
    """Logits of a shape that is neither flat nor a single peak, as floats of 32 bits."""
    values = (ctypes.c_float * count)()
    for i in range(count):
        values[i] = 8.0 * math.sin(seed + 0.37 * i) + 3.0 * math.cos(seed * i)
    return values


class PitaCompatibility(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        server = subprocess.Popen(
            ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", folder.name],
            stdout=subprocess.DEVNULL,
        )
        cls.addClassCleanup(server.wait)
        cls.addClassCleanup(server.terminate)
        cls.client = redis.Redis(port=port)
        cls.wait_for_server()
        cls.library = load_library(os.environ["PITA_REDIS_LIBRARY"])
        cls.check(cls.library.pita_redis_open(f"redis://127.0.0.1:{port}".encode()))
        cls.addClassCleanup(cls.library.pita_redis_close)

    @classmethod
    def wait_for_server(cls):
        deadline = time.monotonic() + 10
        while True:
            try:
                cls.client.ping()
                return
            except redis.ConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    @classmethod
    def check(cls, status):
        if status != 0:
            raise AssertionError(f"status {status}: {cls.library.pita_last_error().decode()}")

    def assert_records(self, records, wanted):
        self.assertEqual(len(records), len(wanted))
        for record, expected in zip(records, wanted):
            self.assertEqual(len(record), 3)
            for value, number in zip(record, expected):
                self.assertTrue(math.isclose(value, number, rel_tol=1e-6), f"{record}, not {expected}")

    def test_pita_reads_single_stores(self):
        rows = [some_logits(seed) for seed in range(5)]
        for logits in rows:
            self.check(self.library.pita_store_logits_metrics(b"single", logits, len(logits), 0.5, ALL_METRICS))
        records = PitaReader(self.client).take("single")
        self.assert_records(records, [reference(list(logits), 0.5) for logits in rows])
        self.assertFalse(self.client.exists("single"))

    def test_pita_reads_batch_stores(self):
        steps, temperatures, vocabulary = 3, [0.25, 1.0, 1.5], 1000
        ids = [f"batch-{i}" for i in range(len(temperatures))]
        wanted = {request_id: [] for request_id in ids}
        for step in range(steps):
            rows = [list(some_logits(10 * step + i, vocabulary)) for i in range(len(ids))]
            self.store_batch(ids, rows, temperatures, step)
            for request_id, row, temperature in zip(ids, rows, temperatures):
                wanted[request_id].append(reference(row, temperature))
        for request_id in ids:
            self.assert_records(PitaReader(self.client).take(request_id), wanted[request_id])
            self.assertFalse(self.client.exists(request_id))

    def store_batch(self, ids, rows, temperatures, token_index):
        count, vocabulary = len(ids), len(rows[0])
        logits = (ctypes.c_float * (count * vocabulary))(*(x for row in rows for x in row))
        batch = Batch(
            struct_size=ctypes.sizeof(Batch),
            logits=ctypes.addressof(logits),
            device=DEVICE_CPU,
            rows=count,
            vocab_size=vocabulary,
            row_stride=vocabulary,
            len=count,
            req_ids=(ctypes.c_char_p * count)(*(request_id.encode() for request_id in ids)),
            temperatures=(ctypes.c_float * count)(*temperatures),
            token_indices=(ctypes.c_int64 * count)(*([token_index] * count)),
        )
        self.check(self.library.pita_store_logits_metrics_batch(ctypes.byref(batch)))

    def test_pita_reads_special_values(self):
        nothing_likely = (ctypes.c_float * 4)(*([-math.inf] * 4))
        self.check(self.library.pita_store_logits_metrics(b"special", nothing_likely, 4, 1.0, ALL_METRICS))
        ((log_norm, log_norm_temp, entropy),) = PitaReader(self.client).take("special")
        self.assertEqual((log_norm, log_norm_temp), (-math.inf, -math.inf))
        self.assertTrue(math.isnan(entropy))

    def test_library_takes_what_pita_writes(self):
        written = [
            (10.373491181781864, 41.49396472712746, 0.1 + 0.2),
            (math.inf, math.inf, math.nan),
            (-math.inf, -math.inf, math.nan),
            (1e-07, 1e300, 0.0),
            (-0.0, 5e-324, 1.7976931348623157e308),
        ]
        writer = PitaWriter(self.client)
        for record in written:
            writer.store("from-pita", *record)
        out, count = (Metrics * 16)(), ctypes.c_size_t()
        self.check(self.library.pita_take_metrics(b"from-pita", out, len(out), ctypes.byref(count)))
        taken = [(record.log_norm, record.log_norm_temp, record.entropy) for record in out[: count.value]]
        self.assertEqual([self.bits(record) for record in taken], [self.bits(record) for record in written])
        self.assertFalse(self.client.exists("from-pita"))

    @staticmethod
    def bits(record):
        """The doubles' bytes: they tell 0.0 from -0.0, and compare where NaN would not."""
        return struct.pack("3d", *record)


if __name__ == "__main__":
    unittest.main()
