#!/bin/sh
# nib quantize and llama.cpp's quantiser on the same file, in turn: how long each takes, and what each result costs.
#
#   bench/peers/quantise.sh [-n PAIRS] [-t THREADS] [-f TEXT] [-k] MODEL.gguf TYPE ...
#
# A pair is one run of each, a moment apart, reading from and writing to disk. Printed per type: median seconds of both,
# their median ratio with the lowest and highest, and the sizes. With -f (or -k: nib's own sample) also the mean
# Kullback-Leibler divergence of both results from MODEL on that text, as nib compare-quality measures it, both run by
# nib. NIB names the program (build/nib); TMPDIR holds the results.
set -eu
threads=2 pairs=3 text= kl=
while getopts n:t:f:k o; do
    case $o in
    n) pairs=$OPTARG ;; t) threads=$OPTARG ;; f) text=$OPTARG kl=1 ;; k) kl=1 ;;
    *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
done
shift $((OPTIND - 1))
[ $# -gt 1 ] || { sed -n '4p' "$0" >&2; exit 2; }
. "$(dirname "$0")/setup.sh"
model=$1
shift
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

ours() { # seconds
    nib quantize "$model" "$tmp/nib.gguf" "$1" --threads "$threads" --json | sed -n 's/.*"seconds": *\([0-9.e-]*\).*/\1/p'
}
divergence() { # "mean error" of a result
    nib compare-quality "$model" "$1" ${text:+--text "$text"} --no-speed --json |
        sed -n 's/.*"kl": {"mean": *\([0-9.e-]*\), "error": *\([0-9.e-]*\).*/\1 \2/p'
}
header="| type | nib | llama.cpp | ratio | lowest to highest | sizes, MB |"
rule="|---|---:|---:|---:|---|---|"
[ -z "$kl" ] || { header="$header mean KL, nib | mean KL, llama.cpp |"; rule="$rule---:|---:|"; }
printf '%s\n%s\n' "$header" "$rule"
for type; do
    : >"$tmp/times"
    for i in $(seq "$pairs"); do
        a=$(ours "$type")
        b=$("$peer" quantise "$model" "$threads" "$tmp/peer.gguf" "$type" 2>/dev/null | tail -n 1)
        echo "$a $b" >>"$tmp/times"
    done
    sizes=$(wc -c "$tmp/nib.gguf" "$tmp/peer.gguf" | awk 'NR < 3 { printf "%s%.1f", (NR == 1 ? "" : ", "), $1 / 1e6 }')
    quality=
    [ -z "$kl" ] || quality="$(divergence "$tmp/nib.gguf") $(divergence "$tmp/peer.gguf")"
    awk -v type="$type" -v sizes="$sizes" -v quality="$quality" '
        function sort(v, n,   i, j, t) {
            for (i = 2; i <= n; i++) for (j = i; j > 1 && v[j] < v[j - 1]; j--) { t = v[j]; v[j] = v[j - 1]; v[j - 1] = t }
        }
        function median(v, n) { sort(v, n); return n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2 }
        { a[NR] = $1; b[NR] = $2; r[NR] = $2 / $1 }
        END {
            m = median(r, NR)
            printf "| %s | %.2f s | %.2f s | %.2f | %.2f to %.2f | %s |", type, median(a, NR), median(b, NR), m, r[1], r[NR], sizes
            if (split(quality, q, " ") == 4) printf " %.5f ± %.5f | %.5f ± %.5f |", q[1], q[2], q[3], q[4]
            print ""
        }' "$tmp/times"
done
