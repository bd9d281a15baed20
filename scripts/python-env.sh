#!/bin/sh
# python-env.sh FOLDER: a virtual environment with this package, installed as a user would, and what its tests need.
set -eu
cd "$(dirname "$0")/.."
folder=$1
[ -x "$folder/bin/pip" ] || python3 -m venv "$folder"
pip() { "$folder/bin/python" -m pip --disable-pip-version-check --quiet "$@"; }
# ml_dtypes is numpy's bfloat16; redis is the client that PITA uses.
pip install 'scikit-build-core>=0.11' numpy ml_dtypes redis pytest
# What cargo has built already is taken as it is.
pip install --no-build-isolation --no-deps --force-reinstall \
    -C "cmake.define.PITA_REDIS_CARGO_TARGET_DIR=$PWD/target" .
