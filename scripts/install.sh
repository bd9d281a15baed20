#!/bin/sh
# install.sh BUILD_DIR PREFIX DESTDIR: installs what was configured for PREFIX and built, with sudo where the folder wants it.
set -eu
build=$1 prefix=$2 destdir=$3

sudo=
if ! mkdir -p "$destdir$prefix" 2>/dev/null || ! [ -w "$destdir$prefix" ]; then
    sudo=sudo
fi
$sudo env DESTDIR="$destdir" cmake --install "$build"

# Tells the dynamic linker. It looks only into folders that the system lists, so elsewhere this does nothing.
if [ -z "$destdir" ] && { [ -n "$sudo" ] || [ "$(id -u)" = 0 ]; }; then
    $sudo ldconfig
fi
