#!/bin/sh
# reopen.sh MODEL [ROUNDS]: seconds to the first token of the next message of a conversation of about 2,000 tokens, in a
# server that was just started: with what was computed of it on disk, and without. Both see the same prompt, in turn.
# Wants curl; NIB names the command.
set -e
model=${1:?usage: reopen.sh MODEL [ROUNDS]} rounds=${2:-5} nib=${NIB:-build/nib}
dir=$(mktemp -d)
trap 'kill $server 2>/dev/null || true; rm -rf "$dir"' EXIT

start() { # options
    "$nib" serve "$model" --port 0 --store "$dir/now.db" --max-seconds 600 "$@" 2>"$dir/log" &
    server=$!
    while ! grep -q 'nib: ready' "$dir/log"; do kill -0 $server && sleep 0.1; done
    url=$(sed -n 's/.*listening on \([^,]*\),.*/\1/p' "$dir/log" | sed 's/;.*//')
}
stop() { kill $server; wait $server || true; }
say() { # talk, message before, text
    page=$(curl -s -H 'Accept: text/html' -c "$dir/cookies" "$url/")
    token=$(printf %s "$page" | sed -n 's/.*name="csrf" value="\([0-9a-f]*\)".*/\1/p' | head -1)
    curl -s -o /dev/null -b "$dir/cookies" "$url/ui/say" -d "csrf=$token" -d "talk=$1" -d "parent=$2" --data-urlencode "text=$3"
    curl -s -o /dev/null -H 'Accept: text/html' -b "$dir/cookies" "$url/c/1" # streams until the reply is whole
}
metric() { curl -s "$url/metrics" | sed -n "s/^nib_$1 //p"; }

start --max-tokens 40
say 0 0 "Summarise: $(head -c 8300 docs/ARCHITECTURE.md)"
stop
cp -r "$dir/now.db" "$dir/then.db"
cp -r "$dir/now.db-kv" "$dir/then.db-kv"
for round in $(seq "$rounds"); do
    for size in 2G 0; do
        rm -rf "$dir"/now.db*
        cp "$dir/then.db" "$dir/now.db"
        cp -r "$dir/then.db-kv" "$dir/now.db-kv"
        start --max-tokens 8 --kv-disk $size
        say 1 2 'And in one sentence?'
        echo "--kv-disk $size: $(metric time_to_first_token_seconds_sum) s, $(metric prompt_tokens_cached_total) of $(metric prompt_tokens_total) tokens kept"
        stop
    done
done
