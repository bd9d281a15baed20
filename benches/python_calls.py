"""What the Python package adds to the library's calls, and a take against PITA's reader. Prints a table.

Usage: python python_calls.py, with REDIS_HOST and REDIS_PORT, and a Python that has pita_redis and redis.
"""

import os
import statistics
import time

import numpy as np
import redis

from pita_redis import RedisManager
from pita_redis._batch import borrow
from pita_redis._native import lib

ROWS, VOCABULARY, RECORDS = 32, 1000, 4096
HOST, PORT = os.environ["REDIS_HOST"], int(os.environ["REDIS_PORT"])


def nothing():
    """To prepare."""


def in_turn(seconds, *calls, prepare=nothing):
    """The median of each call, in microseconds, `prepare` not counted; the machine's pace changes, so they take turns."""
    times = [[] for _ in calls]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 5:
        for call, own in zip(calls, times):
            prepare()
            began = time.perf_counter_ns()
            call()
            own.append((time.perf_counter_ns() - began) / 1e3)
    return [statistics.median(own) for own in times]


def batch_calls():
    """A store of 32 rows, with write=behind: the C call alone, and with all of Python's around it."""
    logits = np.random.default_rng(0).normal(0, 4, (ROWS, VOCABULARY)).astype(np.float32)
    ids = [f"cmpl-1234-5678-9abc-def0-{i:011}" for i in range(ROWS)]
    temperatures, indices = [0.25] * ROWS, [0] * ROWS
    arrays = np.array(temperatures, np.float32), np.array(indices)
    with RedisManager(url=f"redis://{HOST}:{PORT}?write=behind") as manager:
        batch, _ = borrow(logits, ids, temperatures, indices)
        in_c, from_lists, from_arrays = in_turn(
            4,
            lambda: lib.pita_store_logits_metrics_batch(batch.struct),
            lambda: manager.store_logits_metrics_batch(ids, logits, temperatures, token_indices=indices),
            lambda: manager.store_logits_metrics_batch(ids, logits, arrays[0], token_indices=arrays[1]),
        )
        manager.flush(30)
    return from_lists - in_c, from_arrays - in_c


def takes():
    """4,096 records by take_metrics, and by LRANGE, float() and DEL of redis-py, as PITA reads them."""
    records = np.random.default_rng(0).normal(0, 40, (RECORDS, 3))
    client = redis.Redis(HOST, PORT, decode_responses=True)
    with RedisManager(url=f"redis://{HOST}:{PORT}") as manager:

        def pita():
            terms = [[float(field) for field in element.split(",")] for element in client.lrange("a", 0, -1)]
            client.delete("a")
            assert len(terms) == RECORDS

        def ours():
            assert len(manager.take_metrics("a")) == RECORDS

        def store():
            manager.store_metrics("a", records)

        return in_turn(6, ours, pita, prepare=store)


def main():
    from_lists, from_arrays = batch_calls()
    ours, pita = takes()
    print("| Python | goal | reached |")
    print("|---|---|---|")
    print(f"| a batch of {ROWS} from lists, beyond the C call | 25 us | {from_lists:.1f} us |")
    print(f"| the same with arrays of numbers | 25 us | {from_arrays:.1f} us |")
    print(
        f"| take_metrics of {RECORDS:,} records; PITA's reader with redis-py | 8 times as long "
        f"| {pita / ours:.1f} times, {ours / 1e3:.2f} ms and {pita / 1e3:.2f} ms |"
    )


main()
