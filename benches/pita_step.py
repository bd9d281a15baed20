"""A decode step as PITA does it, written from its description: for each row three results of torch, each fetched by itself,
and an RPUSH of their text by valkey-py.

Usage: python pita_step.py VOCABULARY BATCH [cuda], with REDIS_HOST and REDIS_PORT. Prints a line like those of decode_step. Fails
where torch or valkey is missing.
"""

import os
import statistics
import sys
import time

import torch
import valkey

TEMPERATURE = 0.25
SECONDS = 3
PAUSE = 0.005  # between steps, as long as a GPU might compute


def step(client, ids, logits):
    for request, row in zip(ids, logits):
        log_norm = torch.logsumexp(row, dim=-1).item()
        log_norm_temp = torch.logsumexp(row / TEMPERATURE, dim=-1).item()
        entropy = torch.distributions.Categorical(logits=row).entropy().item()
        client.rpush(request, f"{log_norm},{log_norm_temp},{entropy}")


def measure(client, batch, logits):
    ids = [f"pita----1234-5678-9abc-{i:012}" for i in range(batch)]
    step(client, ids, logits)
    times, end = [], time.perf_counter() + SECONDS
    while len(times) < 5 or time.perf_counter() < end:
        time.sleep(PAUSE)
        start = time.perf_counter()
        step(client, ids, logits)
        times.append(1e6 * (time.perf_counter() - start))
    client.delete(*ids)
    times.sort()
    return statistics.median(times), times[min(len(times) * 99 // 100, len(times) - 1)]


def main():
    vocabulary, batch = map(int, sys.argv[1:3])
    device = sys.argv[3] if len(sys.argv) > 3 else "cpu"
    client = valkey.Valkey(host=os.environ["REDIS_HOST"], port=int(os.environ["REDIS_PORT"]))
    with torch.inference_mode():
        logits = 3 * torch.randn(batch, vocabulary, generator=torch.Generator().manual_seed(1))
        logits = logits.to(device)
        median, p99 = measure(client, batch, logits)
    print("pita", batch, vocabulary, f"{median:.1f}", f"{p99:.1f}", sep="\t")
    print("versions", f"torch {torch.__version__}", f"valkey-py {valkey.__version__}", sep="\t")


main()
