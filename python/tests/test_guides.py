"""The programs of the guides, run as they stand there."""

import pathlib
import re
import subprocess
import sys

DOCS = pathlib.Path(__file__).parents[2] / "docs"


def test_the_ctypes_guides_program(server):
    (program,) = re.findall(r"```python\n(.*?)```", (DOCS / "ctypes.md").read_text(), re.DOTALL)
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    assert re.fullmatch(r"\[\[\s*\d+\.\d+\s+\d+\.\d+\s+\d+\.\d+\s*\]\]\n", done.stdout)
    assert not server.client.keys()


def test_the_reader_of_pitas_guide(server):
    guide = (DOCS / "pita.md").read_text()
    reader = [line[1:] for line in guide.split("## The reader")[1].splitlines() if line.startswith("+")]
    names = {"req_id": "a", "tokens": [5, 6]}
    program = "\n".join(["from pita_redis import RedisManager", *reader])
    server.client.rpush("a", "1,2,3", "4,5,6", "7,8,9")
    exec(program, names)
    assert names["unprocessed_log_normalization_constant"] == [1, 4]
    assert names["entropy"] == [3, 6]
    assert not server.client.keys()
