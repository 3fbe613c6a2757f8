#!/usr/bin/env bash
# What the sidecar costs while nothing happens: its memory, and its share of a core, beside a real llama-server that holds
# a model for it.
#
#   tests/bench/idle.sh [PATH OF A llama-server]      two minutes; without a path the one that tests/run has fetched
set -euo pipefail
cd "$(dirname "$0")/../.."

server=${1:-$(find target/llama-server -name llama-server -type f 2>/dev/null | head -n 1)}
model=target/torture/pressure/models/weights-small.gguf
[ -e "$model" ] || { echo "no model: run tests/run once, which makes $model" >&2 && exit 69; }
[ -x "$server" ] || { echo "no llama-server: give its path, or run tests/run once, which fetches one" >&2 && exit 69; }
seconds=60
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; wait; rm -rf "$folder"' EXIT

cargo build --release --quiet
mkdir "$folder/models" && cp "$model" "$folder/models/only.gguf"
LD_LIBRARY_PATH=$(dirname "$server") "$server" --port 18090 --models-dir "$folder/models" --models-max 2 -c 2048 --cache-ram 0 >/dev/null 2>&1 &
printf 'version: 1\nladder: [ { name: only, model: only } ]\n' >"$folder/policy.yaml"
HOME=$folder TIERKEEPER_LOG=error target/release/tierkeeper run --server http://127.0.0.1:18090 --policy "$folder/policy.yaml" \
    --listen 127.0.0.1:18091 --admin-listen 127.0.0.1:18092 &
sidecar=$!
sleep 15
curl -s http://127.0.0.1:18092/status | grep -q '"phase":"steady"' || { echo "the sidecar does not serve" >&2 && exit 1; }

# User and system time of the process, in clock ticks.
ticks() { awk '{ print $14 + $15 }' "/proc/$sidecar/stat"; }
before=$(ticks)
sleep $seconds
after=$(ticks)
awk -v ticks=$((after - before)) -v rate="$(getconf CLK_TCK)" -v seconds=$seconds \
    'BEGIN { printf "share of a core, idle: %.2f %%   (budget: 0.5 %%)\n", 100 * ticks / rate / seconds }'
awk '/^VmRSS|^RssAnon/ { printf "%s %.1f MB\n", $1, $2 * 1024 / 1e6 }' "/proc/$sidecar/status"
echo "(budget: 15 MB of RSS)"
