#!/bin/sh
# Lock the versions and hashes of the images' packages, for every platform. Keeps locked versions unless called with --upgrade.
set -eu
cd "$(dirname "$0")/.."
BIN=${BIN:-.venv/bin}
# --python-version: that of the base image.
lock() {
    name=$1 source=$2; shift 2
    "$BIN/uv" pip compile "$source" --output-file "deploy/locks/$name.txt" --universal --python-version 3.13 \
        --generate-hashes --no-annotate --quiet --custom-compile-command "make -C deploy lock" "$@"
}
lock cpu pyproject.toml --extra cpu --extra network --extra otel --extra stores "$@"
lock gpu pyproject.toml --extra gpu --extra network --extra otel --extra stores "$@"
lock client pyproject.toml --extra loadtest "$@"
lock build deploy/locks/build.in "$@"
lock compile deploy/locks/compile.in "$@"
lock audit deploy/locks/audit.in "$@"
lock stand-ins deploy/locks/stand-ins.in "$@"
