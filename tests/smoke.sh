#!/usr/bin/env bash
# The whole chain in miniature: every stage once, each on what the one before it left.
# Success is not expected of so little training; files, exit codes and figures are.
set -euo pipefail
export OMP_NUM_THREADS=1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
results=$folder/results.json

step() {
  echo "--- hitogata $*"
  hitogata "$@"
}

step doctor || true
step walk --out "$folder/walker" --iterations 1 --worlds.n-worlds 16 --worlds.threads 1
step collect --out "$folder/demos" --episodes 4 --processes 1 --most-s 5 --sentences 200
step train "$folder/demos" --out "$folder/policy" --steps 4 --batch-size 8 --threads 1 --evaluate-steps 3
step export "$folder/policy" --out "$folder/bundle" --samples 6
step evaluate --bundle "$folder/bundle" --families walk --episodes 2 --processes 1 \
  --out "$folder/evaluation" --results "$results"
step bench --bundle "$folder/bundle" --eager --chunks 5 --results "$results"

address=ipc://$folder/policy.sock
hitogata serve "$folder/bundle" --address "$address" &
server=$!
trap 'kill $server; rm -rf "$folder"' EXIT
for _ in $(seq 100); do
  [ -S "$folder/policy.sock" ] && break
  sleep 0.2
done
step run "walk two metres forward" --seed 0 --time-limit-s 3 --connect "$address" \
  --out "$folder/run.mp4"

for made in walker/walker.onnx demos/meta/info.json bundle/manifest.json results.json run.mp4; do
  [ -s "$folder/$made" ] || { echo "missing: $made"; exit 1; }
done
echo "smoke: all stages passed"
