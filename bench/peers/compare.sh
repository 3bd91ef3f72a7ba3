#!/bin/sh
# nib and llama.cpp on the same file, in turn, and the ratios of their speeds with their spread.
#
#   bench/peers/compare.sh [-p PP] [-g TG] [-d DEPTH] [-b BATCH] [-t THREADS] [-n PAIRS] [-o OPTIONS] MODEL.gguf ...
#
# A pair is one run of each, a moment apart: machines drift, ratios of neighbours drift less. Printed per model, for
# the prompt and for generation: both medians, the median ratio, and the lowest and highest. Defaults: 512 tokens of prompt,
# 64 generated, depth 0, 1 sequence, 2 threads, 5 pairs. NIB_CPU and PEER_ISA limit either side's instructions; NIB names
# the program (build/nib), OPTIONS goes to 'nib bench' (--fast-prompt).
set -eu
pp=512 tg=64 depth=0 batch=1 threads=2 pairs=5 options=
while getopts p:g:d:b:t:n:o: o; do
    case $o in
    o) options=$OPTARG ;;
    p) pp=$OPTARG ;; g) tg=$OPTARG ;; d) depth=$OPTARG ;; b) batch=$OPTARG ;; t) threads=$OPTARG ;; n) pairs=$OPTARG ;;
    *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || { sed -n '4p' "$0" >&2; exit 2; }
. "$(dirname "$0")/setup.sh"
results=$(mktemp)
trap 'rm -f "$results"' EXIT

ours() { # "pp tg" of one run
    nib bench "$1" --pp "$pp" --tg "$tg" --depth "$depth" --batch "$batch" --threads "$threads" --reps 1 --no-probe --csv $options |
        awk -F, '$5 ~ /^pp/ { p = $6 } $5 ~ /^tg/ { g = $6 } END { printf "%.3f %.3f\n", p, g }'
}

echo "| model | test | nib | llama.cpp | ratio | lowest to highest |"
echo "|---|---|---:|---:|---:|---|"
for model; do
    : >"$results"
    for i in $(seq "$pairs"); do
        a=$(ours "$model")
        b=$("$peer" speed "$model" "$threads" "$pp" "$tg" "$depth" "$batch")
        echo "$a $b" >>"$results"
        [ ! -t 2 ] || printf '\r%s %d/%d ' "$(basename "$model")" "$i" "$pairs" >&2
    done
    [ ! -t 2 ] || printf '\r\033[K' >&2
    awk -v model="$(basename "$model" .gguf)" -v pp="$pp" -v tg="$tg" -v depth="$depth" -v batch="$batch" '
        function sort(v, n,   i, j, t) {
            for (i = 2; i <= n; i++) for (j = i; j > 1 && v[j] < v[j - 1]; j--) { t = v[j]; v[j] = v[j - 1]; v[j - 1] = t }
        }
        function median(v, n) { sort(v, n); return n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2 }
        { pa[NR] = $1; ga[NR] = $2; pb[NR] = $3; gb[NR] = $4
          if ($3 > 0) pr[NR] = $1 / $3
          if ($4 > 0) gr[NR] = $2 / $4 }
        function row(test, a, b, r,   m) {
            m = median(r, NR)
            printf "| %s | %s | %.1f | %.1f | %.2f | %.2f to %.2f |\n", model, test, median(a, NR), median(b, NR), m, r[1], r[NR]
        }
        END {
            at = depth > 0 ? " @" depth : ""
            if (pp > 0) row("pp" pp at, pa, pb, pr)
            if (tg > 0) row("tg" tg at (batch > 1 ? " x" batch : ""), ga, gb, gr)
        }' "$results"
done
