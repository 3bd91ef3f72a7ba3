#!/bin/sh
# run.sh EXAMPLE MODEL: an example program must answer a line of text with text and end well.
set -u
if [ ! -f "$2" ]; then
    echo "skipped: no $2"
    [ "${NIB_TEST_NO_SKIP:-0}" = 1 ] && exit 1
    exit 77
fi
out=$(echo "Once upon a time" | "$1" "$2") || { echo "exit status $?: $out"; exit 1; }
printf '%s\n' "$out"
[ "$(printf %s "$out" | wc -c)" -ge 20 ] || { echo "expected an answer of at least 20 bytes"; exit 1; }
