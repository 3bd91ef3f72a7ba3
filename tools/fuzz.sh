#!/bin/sh
# fuzz.sh BUILD_DIR SECONDS: runs every fuzz target (clang's libFuzzer, preset fuzz) that long from its corpus, two at a
# time. New inputs stay in BUILD_DIR; a finding leaves its input there and fails.
set -eu
cd "$(dirname "$0")/.."
dir=$1
seconds=$2
ls "$dir"/tests/fuzz_* >/dev/null 2>&1 || { echo "no fuzz targets in $dir"; exit 1; }
export dir seconds
ls "$dir"/tests/fuzz_* | xargs -P "$(nproc)" -n 1 sh -c '
    target=$1 room=${1##*/fuzz_}
    mkdir -p "$dir/found/$room"
    "$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -malloc_limit_mb=512 -print_final_stats=1 \
        -verbosity=0 -artifact_prefix="$dir/found/$room-" "$dir/found/$room" "tests/fuzz/corpus/$room" >"$dir/$room.log" 2>&1
    status=$?
    [ $status = 0 ] || tail -n 40 "$dir/$room.log"
    echo "fuzz $room: $(sed -n "s/^stat::number_of_executed_units: *//p" "$dir/$room.log") inputs in $seconds s"
    exit $status' sh
