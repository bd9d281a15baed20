"""PITA's own reader and writer against the library: what one stores, the other takes.

PITA itself is not needed: its reader and writer are a few lines on top of redis-py, repeated here.
"""

import math

import numpy as np

import reference


def pita_takes(client, req_id):
    """As PITA's sampler does."""
    elements = client.lrange(req_id, 0, -1)
    client.delete(req_id)
    return [tuple(float(field) for field in element.decode().split(",")) for element in elements]


def pita_stores(client, req_id, log_norm, log_norm_temp, entropy):
    """As PITA's logits processors do."""
    client.rpush(req_id, f"{log_norm},{log_norm_temp},{entropy}")


def test_pita_reads_single_stores(server, manager):
    rows = reference.rows(5, 1000)
    for row in rows:
        manager.store_logits_metrics("single", row, 0.5)
    taken = pita_takes(server.client, "single")
    np.testing.assert_allclose(taken, [reference.metrics(row, 0.5) for row in rows], rtol=1e-6)


def test_pita_reads_batch_stores(server, manager):
    temperatures = [0.25, 1.0, 1.5]
    steps = [reference.rows(3, 1000, seed) for seed in range(4)]
    for index, rows in enumerate(steps):
        manager.store_logits_metrics_batch(["a", "b", "c"], rows, temperatures, token_indices=index)
    for i, req_id in enumerate("abc"):
        wanted = [reference.metrics(rows[i], temperatures[i]) for rows in steps]
        np.testing.assert_allclose(pita_takes(server.client, req_id), wanted, rtol=1e-6)


def test_pita_reads_special_values(server, manager):
    manager.store_logits_metrics("special", np.full(4, -math.inf, np.float32))
    ((log_norm, log_norm_temp, entropy),) = pita_takes(server.client, "special")
    assert (log_norm, log_norm_temp) == (-math.inf, -math.inf)
    assert math.isnan(entropy)


def test_the_library_takes_what_pita_writes(server, manager):
    written = [
        (10.373491181781864, 41.49396472712746, 0.1 + 0.2),
        (math.inf, math.inf, math.nan),
        (-math.inf, -math.inf, math.nan),
        (1e-07, 1e300, 0.0),
        (-0.0, 5e-324, 1.7976931348623157e308),
    ]
    for record in written:
        pita_stores(server.client, "from-pita", *record)
    # As bytes: they tell 0.0 from -0.0, and compare where NaN would not.
    assert manager.take_metrics("from-pita").tobytes() == np.array(written).tobytes()
    assert not server.client.exists("from-pita")
