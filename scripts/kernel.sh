#!/bin/sh
# kernel.sh write: makes src/cuda/reduce.ptx of reduce.cu. kernel.sh check: fails where it has drifted, or where a GPU that is
# supported could not run it. No GPU is needed: the compilers come from PyPI, into target/cuda.
set -eu
cd "$(dirname "$0")/.."
task=$1
folder=target/cuda
if ! [ -e "$folder/complete" ]; then
    python3 -m venv "$folder"
    # The oldest NVRTC of CUDA 12, for the PTX it makes is read by all drivers since; and an assembler that knows all GPUs.
    "$folder/bin/python" -m pip --disable-pip-version-check --quiet install nvidia-cuda-nvrtc-cu12==12.0.76 nvidia-cuda-nvcc==13.0.88
    touch "$folder/complete"
fi
made=$folder/reduce.ptx
"$folder/bin/python" scripts/compile-kernel.py src/cuda/reduce.cu >"$made"
if [ "$task" = write ]; then
    cp "$made" src/cuda/reduce.ptx
fi
if ! cmp -s "$made" src/cuda/reduce.ptx; then
    echo "src/cuda/reduce.ptx has drifted from reduce.cu: run \`make kernel\`" >&2
    exit 1
fi
ptxas=$(echo "$folder"/lib/python3*/site-packages/nvidia/cu13/bin/ptxas)
for architecture in 75 80 86 89 90 100 103 120; do
    "$ptxas" --verbose --gpu-name sm_$architecture -o "$folder/reduce.cubin" "$made" 2>"$folder/ptxas.log" || {
        cat "$folder/ptxas.log" >&2
        exit 1
    }
    echo "sm_$architecture: $(grep -o '[0-9]* registers' "$folder/ptxas.log"), $(grep -o '[0-9]* bytes spill stores' "$folder/ptxas.log")"
done
