"""What Python takes for the three numbers of one row: prints lines of a name, a tab, and the median in microseconds.

Usage: python peers.py VOCABULARY. Fails where numpy is missing; torch is left out where it is.
"""

import os
import statistics
import sys
import time

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"

import numpy as np

TEMPERATURE = 0.25


def median_us(call):
    call()
    times, end = [], time.perf_counter() + 1.0
    while len(times) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e6 * statistics.median(times)


def report(name, call):
    print(f"{name}\t{median_us(call):.1f}")


def numpy_way(x):
    def logsumexp(x):
        most = x.max()
        return most + np.log(np.exp(x - most).sum())

    log_norm = logsumexp(x)
    log_p = x - log_norm
    return log_norm, logsumexp(x / TEMPERATURE), -(np.exp(log_p) * log_p).sum()


def torch_way(torch, x):
    log_norm = torch.logsumexp(x, -1)
    log_p = x - log_norm
    return log_norm, torch.logsumexp(x / TEMPERATURE, -1), -(log_p.exp() * log_p).sum(-1)


def pita_way(torch, x):
    """A row as PITA's processor does it: three results, each fetched by itself."""
    log_norm = torch.logsumexp(x, dim=-1).item()
    log_norm_temp = torch.logsumexp(x / TEMPERATURE, dim=-1).item()
    entropy = torch.distributions.Categorical(logits=x).entropy().item()
    return log_norm, log_norm_temp, entropy


def main():
    x = np.random.default_rng(1).normal(0, 3, int(sys.argv[1])).astype(np.float32)
    report(f"numpy {np.__version__}, three outputs", lambda: numpy_way(x))
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(1)
    row = torch.from_numpy(x)
    with torch.inference_mode():
        report(f"torch {torch.__version__}, eager, three outputs", lambda: torch_way(torch, row))
        report(f"torch {torch.__version__}, as PITA computes a row", lambda: pita_way(torch, row))


main()
