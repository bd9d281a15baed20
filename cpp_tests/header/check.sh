#!/bin/sh
# check.sh COMPILER STANDARD INCLUDE_DIR LIBRARY PROGRAM: compiles and links the files here, and runs the program.
set -eu
compiler=$1 standard=$2 include=$3 library=$4 program=$5
cd "$(dirname "$0")"

case $standard in
    c++*) files='first.cpp second.cpp layout.cpp' language_warnings= ;;
    *) files='first.c second.c' language_warnings=-Wstrict-prototypes ;;
esac

# shellcheck disable=SC2086 # lists of words
"$compiler" -std="$standard" -Wall -Wextra -Wpedantic -Werror $language_warnings -I"$include" $files \
    "$library" -Wl,-rpath,"$(dirname "$library")" -o "$program"
"$program"
