"""The three numbers in double precision."""

import numpy as np


def logsumexp(x):
    most = x.max()
    return most + np.log(np.exp(x - most).sum())


def metrics(row, temperature=1.0):
    """log_norm, log_norm_temp and entropy of one row."""
    x = np.asarray(row).astype(np.float64)
    log_norm = logsumexp(x)
    p = np.exp(x - log_norm)
    return np.array([log_norm, logsumexp(x / np.float64(np.float32(temperature))), (p * (log_norm - x)).sum()])


def rows(count, vocabulary, seed=0):
    """Random logits, float32."""
    return np.random.default_rng(seed).normal(0, 4, (count, vocabulary)).astype(np.float32)
