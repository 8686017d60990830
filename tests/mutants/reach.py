"""Finds the tests that run a mutant's function, so that other tests need not run."""

import ast
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO

from tests.mutants import plugin
from tests.mutants.mutant import MovedError, Mutant

PLUGIN = "mutant_plugin"
"""The plugin's name in a copy of a checkout."""
TESTS = tuple(
    f"tests/{each}" for each in ("serving", "export", "training", "protos", "compatibility", "e2e", "hangtag")
)
"""The tests that may detect a mutant. Tests of deployment and of studies do not test code in AREAS."""


def copy(checkout: Path, folder: Path) -> None:
    """Copy the plugin and the tracked files into an empty folder, with links to the checkout's environments."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=checkout, check=True, capture_output=True, text=True)
    for path in filter(None, tracked.stdout.split("\0")):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if (checkout / path).exists():
            shutil.copy2(checkout / path, folder / path, follow_symlinks=False)
    for environment in checkout.glob(".venv*"):
        (folder / environment.name).symlink_to(environment.resolve())
    shutil.copy2(plugin.__file__, folder / f"{PLUGIN}.py")


def pytest(
    folder: Path, *options: str, variables: Mapping[str, str], output: IO[str] | None = None
) -> subprocess.Popen[bytes]:
    """Start pytest with the plugin in a copy of a checkout, in a separate process group.

    ``output`` must not be a pipe, because a process that pytest leaves behind would keep the pipe open.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-p", PLUGIN, "-p", "no:cacheprovider", *options]
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), **variables},
        stdout=output,
        stderr=subprocess.STDOUT if output else None,
        start_new_session=True,
    )


def kill(folder: Path) -> None:
    """Kill the processes that pytest left running in a copy of a checkout, such as a server with a fault."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"PYTHONPATH={folder}\0".encode() in (process / "environ").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)


def reaches(mutants: Iterable[Mutant], checkout: Path) -> dict[int, list[str]]:
    """Run all tests once, and return, for each mutant, the tests that run the function to be mutated.

    Returns:
        The tests of each mutant, by the mutant's number. If a fixture runs the function, the list names the whole
        test file. The tests that cover the fewest mutants come first, because they are the most specific. A
        mutant whose code no longer exists has no tests. Tests that fail in this run are left out.
    """
    with tempfile.TemporaryDirectory(prefix="mutants-") as name, tempfile.TemporaryDirectory() as folder:
        copied = Path(name)
        copy(checkout, copied)
        _probe(mutants, copied)
        tests = [each for each in TESTS if (copied / each).exists()]
        (Path(folder) / plugin.FAILED).touch()
        pytest(copied, "-n2", "--dist", "loadfile", *tests, variables={plugin.REACHES: folder}).wait()
        kill(copied)
        recorded = {tuple(line.split("\t")) for line in (Path(folder) / plugin.REACHED).read_text().splitlines()}
        failed = {*(Path(folder) / plugin.FAILED).read_text().splitlines()}
    numbers: dict[str, set[int]] = defaultdict(set)
    for number, test in recorded:
        if test not in failed:
            numbers[test].add(int(number))
    tests_of: dict[int, list[str]] = defaultdict(list)
    for test in sorted(numbers, key=lambda each: (len(numbers[each]), each)):
        for reached in numbers[test]:
            tests_of[reached].append(test)
    return tests_of


def _probe(mutants: Iterable[Mutant], root: Path) -> None:
    """Insert a call of ``reached`` into the function that contains a mutant. If no function contains the mutant, insert
    a call into every function of the file."""
    probes: dict[Path, set[tuple[int, int]]] = defaultdict(set)
    for mutant in mutants:
        try:
            file, line = mutant.place(root)
        except MovedError:
            continue
        functions = list(_functions(ast.parse(file.read_text())))
        within = [each for each in functions if each.lineno <= line <= (each.end_lineno or 0)]
        for function in within[-1:] or functions:  # the last function is the innermost
            probes[file].update((start, mutant.number) for start in _start(function))
    for file, places in probes.items():
        lines = file.read_text().splitlines(keepends=True)
        for start, number in sorted(places, reverse=True):
            indented = lines[start - 1][: -len(lines[start - 1].lstrip())]
            lines.insert(start - 1, f'{indented}__import__("{PLUGIN}").reached({number})\n')
        file.write_text("".join(lines))


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def _start(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[int]:
    """The line of a function's first statement after its docstring; empty if ``def`` is on the same line."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    if not body or body[0].lineno == function.lineno:
        return []
    first = body[0]
    decorators = getattr(first, "decorator_list", [])
    return [min([first.lineno, *(each.lineno for each in decorators)])]
