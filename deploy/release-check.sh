#!/usr/bin/env bash
# What is released works on its own: wheel and sdist are built, the wheel is installed in an empty environment with what its
# metadata asks for, and the demo runs from there, away from this repository's sources.
set -euo pipefail
cd "$(dirname "$0")/.."
BIN=${BIN:-.venv/bin}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
unset PYTHONPATH

version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
say "CHANGELOG.md has something to say about $version"
"$BIN/python" -m pytest --quiet tests/deploy/test_release.py
grep -q "^## \[$version\]" CHANGELOG.md || echo "note: [Unreleased] is to become [$version] with its date"

say "sdist, and the wheel from the sdist"
"$BIN/uv" build --quiet --out-dir "$work/dist" .
ls -l "$work/dist"

say "an empty environment"
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet "$work/dist/hangtag-$version-py3-none-any.whl[cpu,loadtest]"
told=$("$work/venv/bin/hangtag" --version)
[[ $told == *" $version" ]] || { echo "hangtag --version says '$told', and pyproject.toml $version" >&2; exit 1; }
"$work/venv/bin/python" -I -c '
import hangtag, serving, sys
assert all(module.__file__.startswith(sys.prefix) for module in (hangtag, serving)), "not the installed wheel"'

say "the demo, from the wheel"
BIN=$work/venv/bin examples/demo.sh
say "hangtag $version can be released"
