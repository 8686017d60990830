#!/usr/bin/env bash
# Check that a release is cut, and works without this repository: CHANGELOG.md and docs/how-to/upgrade.md are about its version. Build the
# sdist, the wheel and its SBOMs (dist/), install the wheel and its dependencies in an empty environment, check that it adds one name
# to site-packages and that the SBOMs name all that was installed, and run the demo. The demo's working directory has packages
# of the user named serving, protos, training and export, which raise when they are imported.
set -euo pipefail
cd "$(dirname "$0")/.."
BIN=${BIN:-.venv/bin}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
unset PYTHONPATH

version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
say "CHANGELOG.md and docs/how-to/upgrade.md are those of $version"
"$BIN/python" -m deploy.release
"$BIN/python" -m pytest --quiet tests/deploy/test_release.py

say "sdist, the wheel from the sdist, and its SBOMs"
make --no-print-directory -C deploy wheel

say "an empty environment"
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet "dist/hangtag-$version-py3-none-any.whl[cpu,otel,loadtest]"
installed=$("$work/venv/bin/hangtag" --version)
[[ $installed == *" $version" ]] || { echo "hangtag --version prints '$installed', and pyproject.toml has $version" >&2; exit 1; }
"$work/venv/bin/python" -I -c '
import importlib.metadata, sys, hangtag.serving
assert hangtag.serving.__file__.startswith(sys.prefix), "not the installed wheel"
names = {file.parts[0] for file in importlib.metadata.files("hangtag") if file.parts[0] != ".."}
names = {name for name in names if not name.endswith(".dist-info")}
assert names == {"hangtag"}, f"the wheel adds {sorted(names)} to site-packages, expected hangtag alone"'

say "the SBOMs name every package that was installed"
"$work/venv/bin/python" - dist/hangtag-"$version"-cpu.cdx.json dist/hangtag-"$version"-client.cdx.json <<'END'
import json, re, sys
from importlib.metadata import distributions
from pathlib import Path

def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()

listed = {canonical(part["name"]) for file in sys.argv[1:] for part in json.loads(Path(file).read_text())["components"]}
installed = {canonical(one.name) for one in distributions()} - {"hangtag", "pip", "setuptools"}
print(f"{len(installed)} packages are installed, {len(listed)} are listed")
missing = installed - listed
assert not missing, f"the SBOMs lack {sorted(missing)}: run 'make -C deploy lock'"
END

say "a working directory with a user's own serving, protos, training and export"
mkdir "$work/user"
for name in serving protos training export; do
    mkdir "$work/user/$name"
    echo "raise ImportError('the folder $name of the user was imported instead of hangtag')" >"$work/user/$name/__init__.py"
done
cp -r examples models "$work/user"

say "the demo, from the wheel, in that directory"
(cd "$work/user" && PYTHONPATH=$work/user BIN=$work/venv/bin examples/demo.sh)
say "hangtag $version can be released"
