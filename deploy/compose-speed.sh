#!/usr/bin/env bash
# Compares the server of docker-compose.yml with the same server without a container. One load test calls both in turns.
set -euo pipefail
cd "$(dirname "$0")/.."
hangtag=${BIN:-.venv/bin}/hangtag
docker compose up --detach --wait server
"$hangtag" serve --port 8101 --http-port 8100 --metrics-port 8102 2>/dev/null &
alone=$!
trap 'kill "$alone"; docker compose down' EXIT
"$hangtag" health --server 127.0.0.1:8101 --wait 30
"$hangtag" loadtest --target alone=127.0.0.1:8101/lstm --target compose=127.0.0.1:8001/lstm \
    --concurrency 1,4,16,64 --min-duration 10s "$@"
