"""Runs all benchmarks, prints what they print, and writes docs/benchmarks.md and its chart, docs/benchmarks.svg.

Usage: python3 report.py FOLDER, from the repository's root: the folder has the C++ programs. What needs torch and valkey-py is
left out where target/peers has none: `make bench-peers` installs them.
"""

import datetime
import math
import os
import re
import subprocess
import sys
from pathlib import Path

VOCABULARIES = (32000, 128256)
BATCHES = (1, 8, 32, 256)
PEERS = Path("target/peers/bin/python")
PYTHON = Path("build/python/bin/python")
WAYS = {
    "pita": ("PITA's way: torch, valkey-py", "#c44e52"),
    "hiredis": ("our kernel, hiredis by hand", "#dd8452"),
    "sync": ("ours, write=sync", "#8fb3d9"),
    "behind": ("ours, write=behind", "#1f5fa8"),
}


def run(*command):
    """What a command prints, shown as it comes."""
    print("$", *command, flush=True)
    lines = []
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode != 0:
        sys.exit(f"{command[0]} failed: {process.returncode}")
    return "".join(lines)


def with_redis(*command):
    return run("scripts/with-redis.sh", *command)


def has_peers():
    command = [PEERS, "-c", "import torch, valkey"]
    return PEERS.exists() and subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0


def machine():
    info = Path("/proc/cpuinfo").read_text()

    def field(name):
        found = re.search(rf"^{name}\s*:\s*(.*)$", info, re.M)
        return found.group(1) if found else "?"

    cpu = f"{field('model name')} (family {field('cpu family')}, model {field('model')})"
    redis = re.search(r"v=(\S+)", subprocess.check_output(["redis-server", "--version"], text=True)).group(1)
    return f"{cpu}, {len(os.sched_getaffinity(0))} cores, Linux {os.uname().release}, Redis {redis} on the same machine"


def steps_of(output):
    """{(way, batch, vocabulary): (median, p99)} in microseconds, and the versions of what was used."""
    steps, versions = {}, []
    for line in output.splitlines():
        way, *fields = line.split("\t")
        if way == "versions":
            versions = fields
        elif len(fields) == 4:
            steps[way, int(fields[0]), int(fields[1])] = (float(fields[2]), float(fields[3]))
    return steps, versions


def milliseconds(us):
    return f"{us / 1e3:.3g}" if us < 1e6 else f"{us / 1e3:.0f}"


def step_table(steps):
    ways = ["behind", "sync", "hiredis", "pita"]
    yield "| B | V | " + " | ".join(WAYS[way][0] for way in ways) + " | PITA / behind | hiredis / behind | sync / behind |"
    yield "|---" * 9 + "|"
    for vocabulary in VOCABULARIES:
        for batch in BATCHES:
            times = [steps.get((way, batch, vocabulary)) for way in ways]
            cells = [f"{milliseconds(t[0])} ({milliseconds(t[1])})" if t else "not run" for t in times]
            ratios = [f"{t[0] / times[0][0]:.1f}" if t else "" for t in (times[3], times[2], times[1])]
            yield f"| {batch} | {vocabulary:,} | " + " | ".join(cells + ratios) + " |"


def chart(steps, vocabulary, subtitle):
    """Bars, on a logarithmic scale, for each way and batch."""
    ways = [way for way in WAYS if any(key[0] == way for key in steps)]
    groups = BATCHES
    left, top, width, height, bar = 60, 84, 760, 300, 36
    values = [steps[way, batch, vocabulary][0] for way in ways for batch in groups]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))

    def y(us):
        return top + height * (high - math.log10(us)) / (high - low)

    def text(x, at, content, size=12, anchor="middle", more=""):
        return f'<text x="{x:.0f}" y="{at:.0f}" font-size="{size}" text-anchor="{anchor}" {more}>{content}</text>'

    total_width, total_height = left + width + 20, top + height + 60
    yield (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total_width} {total_height}" '
           f'font-family="sans-serif" fill="#222">')
    yield f'<rect width="{total_width}" height="{total_height}" fill="#fff"/>'
    yield text(left, 24, f"Metrics of a decode step into Redis: time of the engine's thread, V = {vocabulary:,}", 16,
               "start", 'font-weight="bold"')
    yield text(left, 44, subtitle, 11, "start", 'fill="#666"')
    for exponent in range(low, high + 1):
        at = y(10**exponent)
        label = f"{10**exponent} us" if exponent < 3 else f"{10**(exponent - 3)} ms"
        yield f'<line x1="{left}" x2="{left + width}" y1="{at:.0f}" y2="{at:.0f}" stroke="#ddd"/>'
        yield text(left - 6, at + 4, label, 11, "end", 'fill="#666"')
    x = left
    for way in ways:
        yield f'<rect x="{x}" y="56" width="12" height="12" fill="{WAYS[way][1]}"/>'
        yield text(x + 17, 67, WAYS[way][0], 12, "start")
        x += 50 + 6 * len(WAYS[way][0])
    for i, batch in enumerate(groups):
        middle = left + width * (i + 0.5) / len(groups)
        for j, way in enumerate(ways):
            us = steps[way, batch, vocabulary][0]
            x = middle + (j - len(ways) / 2) * (bar + 4)
            yield (f'<rect x="{x:.0f}" y="{y(us):.0f}" width="{bar}" height="{top + height - y(us):.0f}" '
                   f'fill="{WAYS[way][1]}"/>')
            yield text(x + bar / 2, y(us) - 4, milliseconds(us), 10)
        yield text(middle, top + height + 20, f"B = {batch}", 13)
    yield text(left + width / 2, top + height + 44, "requests in the step; labels are medians in ms, less is better", 11,
               "middle", 'fill="#666"')
    yield "</svg>"


def document(when, versions, steps, behind, delivery, python, kernels):
    peers = ", ".join(versions) if versions else "no torch or valkey-py: `make bench-peers` installs them"
    return f"""# Benchmarks

Written by `make bench` on {when}. Do not edit: run it.

Machine: {machine()}; {peers}. Everything, the server too, shares these cores. Medians; compare ratios, not times.

## A decode step

![Time of a decode step by way and batch](benchmarks.svg)

The engine has B rows of V logits in memory and wants the three numbers of each, at temperature 1/4, in Redis under B request
ids. Measured is how long that keeps the engine's thread. Between the steps it sleeps for 5 ms, as while a GPU computes.
Milliseconds, median (p99):

{chr(10).join(step_table(steps))}

The hiredis loop is what one would write by hand: our kernel, `snprintf`, B times RPUSH in one pipeline. PITA's way is written
from its description: for each row `torch.logsumexp` twice, `Categorical.entropy`, three `.item()`, and an RPUSH of its own. Ours
store at their token index, which is safe to repeat; the others append.

## write=behind

{behind.strip()}

Each record is stored at its token index, unless the row says otherwise. "Beyond computing" is the batch call less
`pita_compute_logits_metrics` of the same batch.

## Storing and taking, write=sync

Against loops by hand with hiredis, in turn; microseconds.

{delivery.strip()}

## From Python

The package's calls, in turn with what they are compared with; medians. "Beyond the C call" is what ctypes and numpy cost a store
of 32 rows with `write=behind`.

{python.strip()}

## Computing

```
{kernels.strip()}
```
"""


def main():
    programs = Path(sys.argv[1])
    when = datetime.date.today().isoformat()
    kernels = run("cargo", "bench", "--quiet", "--locked", "--bench", "kernels")
    delivery = with_redis(programs / "delivery")
    behind = with_redis(programs / "behind")
    python = with_redis(PYTHON, "benches/python_calls.py")
    output, with_pita = "", has_peers()
    for vocabulary in VOCABULARIES:
        for batch in BATCHES:
            # One right after the other: the machine changes from minute to minute.
            output += with_redis(programs / "decode_step", vocabulary, batch)
            if with_pita:
                output += with_redis(PEERS, "benches/pita_step.py", vocabulary, batch)
    steps, versions = steps_of(output)
    docs = Path("docs")
    docs.mkdir(exist_ok=True)
    (docs / "benchmarks.md").write_text(document(when, versions, steps, behind, delivery, python, kernels))
    subtitle = f"{when}, {machine()}"
    (docs / "benchmarks.svg").write_text("\n".join(chart(steps, VOCABULARIES[-1], subtitle)) + "\n")
    print("\n".join(step_table(steps)))
    print("Written: docs/benchmarks.md, docs/benchmarks.svg")


main()
