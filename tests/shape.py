"""Prints the size of the tests and the number of their dependencies on the product: `make test-shape`.

The exit status is 1 if a limit is exceeded. An *edge* is the import of an internal module by a test file. A module is
*internal* unless users of hangtag import it or its errors. A *patch* replaces an attribute or an item while a test
runs.
"""

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click

LIMITS = {"lines": 40_600, "files": 320, "internal modules": 120, "edges": 400, "patches": 60}
PUBLIC = re.compile(
    r"hangtag(\.(cli|errors|protos(\.\w+)?|serving\.client|\w+\.errors|serving\.(server|loadtest)\.errors))?"
    r"|hangtag\.serving\.server\.(process\.server|config\.(server_config|limits))"
)
"""The modules that are not internal: the package, its command, errors, protocols, client, and what starts a server."""
_PATCH = re.compile(
    r"\.(set|del)(attr|item)\(|mock\.patch|patch\.object\(|\bMock\(|__kwdefaults__\."
    r"|^(\w+\.)+\w+ = |(?<!\bself)\._[a-z]\w* = ",
    re.MULTILINE,
)  # the last line finds assignments to private attributes, and to attributes of modules


def shape(files: list[Path]) -> tuple[dict[str, int], Counter[str]]:
    """Measure the tests.

    Args:
        files: The tests' Python files, relative to the current folder, which must be the repository's root.

    Returns:
        A count for each of LIMITS, and the number of files that import each internal module.
    """
    importers: Counter[str] = Counter()
    lines = patches = 0
    for file in files:
        text = file.read_text()
        lines += text.count("\n")
        patches += sum(1 for _ in _PATCH.finditer(text))
        importers.update(name for name in set(_imports(ast.parse(text))) if not PUBLIC.fullmatch(name))
    figures = (lines, len(files), len(importers), importers.total(), patches)
    return dict(zip(LIMITS, figures, strict=True)), importers


def _imports(tree: ast.Module) -> Iterator[str]:
    """Yield the modules of hangtag that a file imports, at the top or in a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            within = [f"{node.module}.{each.name}" for each in node.names]
            names = [name if _is_module(name) else node.module for name in within]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "hangtag")


def _is_module(name: str) -> bool:
    path = Path(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def main() -> int:
    """Print the counts of the tests in the repository.

    Returns:
        The exit status, which is 1 if a limit is exceeded.
    """
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "tests/*.py"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0")
    figures, importers = shape(sorted(Path(name) for name in listed if name and Path(name).exists()))
    click.echo("Imported most, by files:")
    for name, count in importers.most_common(15):
        click.echo(f"  {count:4} {name}")
    for name, figure in figures.items():
        click.echo(f"{name:17} {figure:6,} of at most {LIMITS[name]:6,}{'  TOO MANY' if figure > LIMITS[name] else ''}")
    return int(any(figure > LIMITS[name] for name, figure in figures.items()))


if __name__ == "__main__":
    sys.exit(main())
