#!/bin/sh
# pkg_config.sh COMPILER shared|static PREFIX LIBDIR PROGRAM: builds the C program as pkg-config says, and runs it.
set -eu
compiler=$1 kind=$2 prefix=$3 libdir=$4 program=$5
cd "$(dirname "$0")/project"
export PKG_CONFIG_PATH="$prefix/$libdir/pkgconfig"

# shellcheck disable=SC2046 # pkg-config prints words
case $kind in
    shared)
        "$compiler" main.c $(pkg-config --cflags --libs pita_redis) -lm -o "$program"
        LD_LIBRARY_PATH="$prefix/$libdir" "$program"
        ;;
    static)
        # The linker prefers the shared library where both lie: name the archive, take the rest from pkg-config.
        libs=$(pkg-config --static --libs pita_redis | sed "s,-lpita_redis,-l:libpita_redis.a,")
        "$compiler" main.c $(pkg-config --cflags pita_redis) $libs -lm -o "$program"
        "$program"
        ;;
esac
