"""Logits on a GPU, from Python: the GPU is the C++ tests' stub, which `make test` has built before."""

import ctypes
import os
import pathlib
import subprocess
import sys

import pytest

STUB = pathlib.Path(__file__).parents[2] / "build" / "cpp_tests" / "cuda" / "stub" / "libcuda.so.1"

PROGRAM = """
import ctypes, os, sys
import numpy as np
import dlpack, reference
import pita_redis

# The library finds it by its name then.
cuda = ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)
context, pointer, stream = ctypes.c_void_p(), ctypes.c_uint64(), ctypes.c_void_p()

def call(name, *arguments):
    code = getattr(cuda, name)(*arguments)
    assert code == 0, (name, code)

call("cuInit", 0)
call("cuCtxCreate_v2", ctypes.byref(context), 0, 0)
call("cuStreamCreate", ctypes.byref(stream), 1)
rows = reference.rows(3, 500)
call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(rows.nbytes))
call("cuMemcpyHtoD_v2", pointer, rows.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(rows.nbytes))
logits = dlpack.ByHand(pointer.value, dlpack.CUDA, dlpack.FLOAT, 32, rows.shape)

wanted = [reference.metrics(row, 0.25) for row in rows]
np.testing.assert_allclose(pita_redis.compute(logits, 0.25), wanted, rtol=1e-6)
np.testing.assert_allclose(pita_redis.compute(logits, 0.25, stream=stream.value), wanted, rtol=1e-6)

manager = pita_redis.RedisManager(url=sys.argv[2] + "?write=behind")
ids = ["a", "b", "c"]
for index in range(5):
    manager.store_logits_metrics_batch(ids, logits, 0.25, token_indices=index, stream=stream.value)
for name, one in zip(ids, wanted):
    np.testing.assert_allclose(manager.take_metrics(name, expected=5), [one] * 5, rtol=1e-6)
print("fine")
"""


def run(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parent)}
    command = [sys.executable, "-c", PROGRAM, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


@pytest.mark.skipif(not STUB.exists(), reason="the C++ tests are not built")
def test_logits_on_a_gpu(server):
    done = run(str(STUB), server.url)
    assert done.stdout == "fine\n", done.stderr


def test_without_a_driver_it_is_said_so():
    try:
        ctypes.CDLL("libcuda.so.1")
        pytest.skip("there is a driver")
    except OSError:
        pass
    program = (
        "import dlpack, pita_redis\n"
        "pita_redis.compute(dlpack.ByHand(4096, dlpack.CUDA, dlpack.FLOAT, 32, (1, 8)))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parent)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, env=environment)
    assert "UnsupportedError: PITA_ERR_UNSUPPORTED: there is no CUDA driver" in done.stderr
