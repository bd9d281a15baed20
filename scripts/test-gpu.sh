#!/bin/sh
# test-gpu.sh PROGRAM: the tests of CUDA buffers on the GPU of this machine; where compute-sanitizer is installed, once more
# under it.
set -eu
tests=$1
export PITA_TEST_DRIVER="${PITA_TEST_DRIVER-libcuda.so.1}"
"$tests" --gtest_brief=1
if command -v compute-sanitizer >/dev/null 2>&1; then
    for tool in memcheck racecheck; do
        compute-sanitizer --tool $tool --error-exitcode 1 "$tests" --gtest_brief=1
    done
else
    echo 'test-gpu: without compute-sanitizer, which is not installed'
fi
