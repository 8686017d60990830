#!/bin/sh
# Check that the index has a wheel for every locked package on both architectures of the images, for Debian 13's glibc and Python,
# so that no build needs a compiler there. Nothing is downloaded, so hashes are left to the build. hdrhistogram alone has no wheel
# for Linux on arm64; the Dockerfile compiles it on both.
set -eu
cd "$(dirname "$0")/.."
BIN=${BIN:-.venv/bin}
nowhere=$(mktemp -d)
trap 'rm -rf "$nowhere"' EXIT
failed=0
for platform in x86_64-manylinux_2_40 aarch64-manylinux_2_40; do
    for lock in deploy/locks/*.txt; do
        if problem=$("$BIN/uv" pip install --dry-run --quiet --target "$nowhere" --python-platform "$platform" --python-version 3.13 \
            --no-deps --require-hashes --only-binary :all: --no-binary hdrhistogram --requirement "$lock" 2>&1); then
            echo "$platform $(basename "$lock" .txt): $(grep -c '^[a-z]' "$lock") packages"
        else
            echo "$platform $(basename "$lock" .txt): $problem" >&2
            failed=1
        fi
    done
done
exit $failed
