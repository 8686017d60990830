#!/usr/bin/env bash
# Load-tests every shipped model: docs/figures/loadtest.json, and docs/images/report.png where Chromium is. Run by `make figures`.
set -euo pipefail
cd "$(dirname "$0")/../.."
BIN=${BIN:-.venv/bin}
mkdir -p reports docs/images

PORT=$("$BIN/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$BIN/hangtag" serve --port "$PORT" --metrics-port 0 2>reports/figures-server.log &
SERVE_PID=$!
trap 'kill -TERM $SERVE_PID 2>/dev/null; wait $SERVE_PID || true' EXIT
"$BIN/hangtag" health --server "127.0.0.1:$PORT" --wait 60
# The whole test set where it is, so that the report opens with accuracy against latency.
SAMPLES=(--samples examples/garments)
DATASET=/usr/share/datasets/fashion-mnist
[ -e $DATASET/t10k-images-idx3-ubyte.gz ] && SAMPLES=(--samples $DATASET --accuracy)
"$BIN/hangtag" loadtest lstm lstm2 cnn --server "127.0.0.1:$PORT" "${SAMPLES[@]}" \
    --min-duration 6 --json docs/figures/loadtest.json --html reports/figures.html
if command -v chromium >/dev/null; then
    chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1280,1500 \
        --screenshot=docs/images/report.png "file://$PWD/reports/figures.html" 2>/dev/null
fi
