"""Builds the operators of store_op.cpp, and stores a step's metrics through them.

Usage: python example.py, with torch, ninja, pita_redis and the environment that says where Redis is.
"""

import pathlib
import sys

import torch
from torch.utils.cpp_extension import load

import pita_redis

HERE = pathlib.Path(__file__).parent
LIBRARY = pathlib.Path(pita_redis.__file__).parent / "libpita_redis.so.0"


def load_operators():
    # The library that the package has loaded already is the one that the operators find.
    load(
        name="pita_torch_op",
        sources=[str(HERE / "store_op.cpp")],
        extra_include_paths=[str(HERE.parents[1] / "include")],
        extra_ldflags=[str(LIBRARY), f"-Wl,-rpath,{LIBRARY.parent}"],
        is_python_module=False,
    )


def main():
    load_operators()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows, vocab_size = 4, 32000
    logits = torch.randn(rows, vocab_size, device=device) * 4
    ids = [f"req-{row}" for row in range(rows)]
    manager = pita_redis.RedisManager()
    torch.ops.pita.store(logits, ids, [0.25] * rows, [0] * rows)
    for row, name in enumerate(ids):
        (record,) = manager.take_metrics(name, expected=1)
        exact = torch.logsumexp(logits[row].double(), 0).item()
        print(f"{name}: log_norm {record[0]:.6f}, torch in double precision {exact:.6f}")
        assert abs(record[0] - exact) < 1e-5


if __name__ == "__main__":
    sys.exit(main())
