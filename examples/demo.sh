#!/usr/bin/env bash
# Serve the shipped models, classify images, load-test cnn and lstm, models in 8 bits, and the route over two of these,
# and write a report. `make demo` runs this.
set -euo pipefail
cd "$(dirname "$0")/.."
BIN=${BIN:-.venv/bin}
# Each run writes its own folder, so that no report is lost. reports/latest is a link to the last folder.
REPORTS=reports/$(date +%Y-%m-%dT%H-%M-%S)
mkdir -p "$REPORTS" && ln -sfn "$(basename "$REPORTS")" reports/latest

# A free port, because another server may use 8001.
PORT=$("$BIN/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
SERVER=127.0.0.1:$PORT
say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }

say "hangtag serve: the models of models/ on $SERVER (log: $REPORTS/server.log)"
"$BIN/hangtag" serve --models models --port "$PORT" --http-port 0 --metrics-port 0 2>"$REPORTS/server.log" &
SERVE_PID=$!
stop() { kill -TERM "$SERVE_PID" 2>/dev/null && wait "$SERVE_PID" || true; }
trap stop EXIT
"$BIN/hangtag" health --server "$SERVER" --wait 60 || { cat "$REPORTS/server.log" >&2; exit 1; }

say "hangtag classify: images of the test set; file names state the true label"
"$BIN/hangtag" classify --server "$SERVER" --model cnn --top-k 3 --draw \
    examples/garments/{ankle-boot-1,dress-1,shirt-1,t-shirt-top-1}.png

say "hangtag classify: a route, in which cnn-small-int8 answers first, and cnn-int8 only if cnn-small-int8 is not sure"
"$BIN/hangtag" classify --server "$SERVER" --model fast-and-accurate --no-draw examples/garments/{bag-1,shirt-1}.png

say "hangtag loadtest: cnn, lstm, three models in 8 bits, and a route over two of these, on every 20th image of the test set"
echo "It writes $PWD/$REPORTS/loadtest.html (also by way of reports/latest), and ends with the answer in three lines."
echo "It marks figures that are not reliable as INVALID: run it on an otherwise idle machine."
# The exit code is 1 if some figures are INVALID.
"$BIN/hangtag" loadtest cnn lstm cnn-int8 lstm-int8 cnn-small-int8 fast-and-accurate --server "$SERVER" \
    --samples examples/test-images.npz --accuracy --json="$REPORTS/loadtest.json" --html "$REPORTS/loadtest.html" ||
    [ -e "$REPORTS/loadtest.html" ]
