#!/bin/sh
# install.sh CMAKE BUILD_DIR MOVED: installs, then moves all of it to MOVED. A path that was written down would now break.
set -eu
cmake=$1 build=$2 moved=$3
first=$moved.first

rm -rf "$first" "$moved"
"$cmake" --install "$build" --prefix "$first"
mv "$first" "$moved"
if grep -rIl "$first" "$moved"; then
    echo "These files name the place where they were first installed." >&2
    exit 1
fi
