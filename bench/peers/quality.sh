#!/bin/sh
# How far nib's and llama.cpp's scores lie from those of the same weights with float activations.
#
#   bench/peers/quality.sh [-n TOKENS] [-f TEXT] [-o OPTIONS] MODEL.gguf ...
#
# The reference is 'nib logits --f32': weights dequantised, activations never rounded. Without a text, the tokens are
# arbitrary. Printed per model: mean and 99.9th percentile of the Kullback-Leibler divergence (nats), equal first choices, and
# the ratio of the means. Both keep the cache they keep by default. OPTIONS goes to 'nib logits' of nib's side
# (--fast-prompt, --kv f32). NIB_CPU and PEER_ISA as in compare.sh.
set -eu
n=256 text= options=
while getopts n:f:o: o; do
    case $o in
    n) n=$OPTARG ;; f) text=$OPTARG ;; o) options=$OPTARG ;;
    *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || { sed -n '4p' "$0" >&2; exit 2; }
. "$(dirname "$0")/setup.sh"
kl=$cache/kl
[ -x "$kl" ] && [ "$kl" -nt "$peers/kl.c" ] || ${CC:-cc} -O2 "$peers/kl.c" -o "$kl" -lm
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

echo "| model | tokens | nib: mean KL, 99.9 % | llama.cpp: mean KL, 99.9 % | first choices equal | ratio of means |"
echo "|---|---:|---|---|---|---:|"
for model; do
    vocab=$(nib show "$model" --json | sed -n 's/.*"vocabulary": *\([0-9]*\).*/\1/p')
    if [ -n "$text" ]; then
        nib tokenize "$model" -f "$text" | tr -s ' \n,' '\n\n\n' | head -n "$n" >"$tmp/ids"
    else
        awk -v n="$n" -v vocab="$vocab" 'BEGIN { srand(1); for (i = 0; i < n; i++) print 3 + int(rand() * (vocab - 3)) }' >"$tmp/ids"
    fi
    nib logits "$model" --f32 --tokens "$tmp/ids" --out "$tmp/reference"
    # shellcheck disable=SC2086 # several words are several options
    nib logits "$model" --kv auto $options --tokens "$tmp/ids" --out "$tmp/nib"
    "$peer" logits "$model" 2 "$tmp/ids" "$tmp/llamacpp"
    "$kl" "$vocab" "$tmp/reference" "$tmp/nib" "$tmp/llamacpp" | awk -v model="$(echo "${model%.gguf}" | sed "s,.*/\([^/]*/[^/]*\)$,\1,")" '
        { n[NR] = $1; mean[NR] = $2; tail[NR] = $3; top[NR] = $4 }
        END { printf "| %s | %d | %.6f, %.6f | %.6f, %.6f | %.1f %%, %.1f %% | %.2f |\n", model, n[1], mean[1], tail[1],
                     mean[2], tail[2], top[1] * 100, top[2] * 100, mean[1] / mean[2] }'
done
