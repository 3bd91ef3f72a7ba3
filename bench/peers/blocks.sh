#!/bin/sh
# The quantisers of nib and of ggml on the same weights: errors and speed, format by format (see blocks.c).
#
#   bench/peers/blocks.sh [MODEL.gguf]
#
# Needs a build of nib (build/libnib.a).
set -eu
. "$(dirname "$0")/setup.sh"
root=$peers/../..
blocks=$cache/blocks
${CC:-cc} -O2 -I"$root/src" -I"$root/include" -I"$cache/headers/ggml/include" "$peers/blocks.c" -o "$blocks" \
    "$root/build/libnib.a" -L"$cache/libs" -l:libggml-base.so -lm -lpthread -Wl,--allow-shlib-undefined
exec "$blocks" "$@"
