#!/bin/sh
# conformance.sh BUILD_DIR: runs the tests that compare with reference data and prints their counts, the lines
# "WHAT: N ..." that such a test prints. Fails when a test fails or when there is no reference data.
set -u
cd "$(dirname "$0")/.."
out=$(NIB_TEST_NO_SKIP=1 ctest --test-dir "$1" -L reference -V --no-tests=error 2>&1)
status=$?
printf '%s\n' "$out" | sed -n 's/^[0-9]*: \([a-z][a-z0-9 _-]*: [0-9][0-9]* .*\)/\1/p'
if [ $status != 0 ]; then printf '%s\n' "$out" | grep -E 'ERROR|\*\*\*Failed|error:' | head -n 20; fi
printf '%s\n' "$out" | grep 'tests passed'
exit $status
