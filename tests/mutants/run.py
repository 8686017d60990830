"""Runs the tests against each mutant, and records which test failed first.

    python -m tests.mutants.run tests/mutants/after.jsonl            # goes on where it was stopped
    python -m tests.mutants.run tests/mutants/after.jsonl --number 7

Each mutant is put into a copy of the files that git tracks, in a temporary folder, never into the checkout. The tests
of its folder run first, then the public ones of its area, each for a minute at most and until the first failure.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from tests.mutants.mutant import AREAS, MovedError, Mutant, read

LIMIT_SECONDS = 60
"""Of each of the two runs of tests."""
TEST_SECONDS = 30
"""A test that takes longer has failed: a fault may make it wait for ever."""
PUBLIC = {
    "serving/server": ("tests/serving/server/transport", "tests/serving/client"),
    "serving/connection": ("tests/serving/client", "tests/compatibility"),
    "serving/loadtest": ("tests/serving/loadtest",),
    "export": ("tests/export", "tests/e2e"),
    "training": ("tests/training", "tests/e2e"),
}
"""The tests of what a user sees of an area."""
_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)
_NO_TESTS = 5  # pytest's exit code


@dataclass(frozen=True)
class Result:
    """What the tests say of a mutant.

    Attributes:
        number: The mutant's.
        killed: Whether a test failed; None where the mutant's code is no longer there.
        by: The first test that failed, or why there is no mutant.
        seconds: What the tests took.
    """

    number: int
    killed: bool | None
    by: str
    seconds: float


def run(mutant: Mutant, checkout: Path) -> Result:
    """Put a mutant into a copy of a checkout, and run the tests that may find it."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        copy = Path(name)
        _copy(checkout, copy)
        try:
            file = mutant.apply(copy)
        except MovedError as error:
            return Result(mutant.number, None, str(error), 0.0)
        for tests in (_own_tests(file, copy), [each for each in PUBLIC[mutant.area] if (copy / each).exists()]):
            failed = _first_failure(tests, copy)
            if failed:
                return Result(mutant.number, True, failed, round(time.monotonic() - started, 1))
    return Result(mutant.number, False, "", round(time.monotonic() - started, 1))


def _copy(checkout: Path, copy: Path) -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=checkout, check=True, capture_output=True, text=True)
    for path in filter(None, tracked.stdout.split("\0")):
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        if (checkout / path).exists():
            shutil.copy2(checkout / path, copy / path, follow_symlinks=False)
    for environment in checkout.glob(".venv*"):
        (copy / environment.name).symlink_to(environment.resolve())


def _own_tests(file: Path, copy: Path) -> list[str]:
    """The nearest folder of tests that mirrors a file's folder."""
    folder = Path("tests") / file.relative_to(copy).parent
    while not (copy / folder).is_dir():
        folder = folder.parent
    return [str(folder)]


def _first_failure(tests: list[str], copy: Path) -> str:
    """The first test that fails within the limit; empty if none does."""
    options = ["-x", "-q", "-n2", "--dist", "loadfile", "-p", "no:cacheprovider", f"--timeout={TEST_SECONDS}"]
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *options, *tests],
        cwd=copy,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        output, _ = process.communicate()
        found = _FAILED.search(output)
        return found[1] if found else ""
    if process.returncode in (0, _NO_TESTS):
        return ""
    found = _FAILED.search(output)
    return found[1] if found else f"pytest ended with {process.returncode}"


def summary(mutants: list[Mutant], results: dict[int, Result]) -> str:
    """A table of how many mutants were killed, by area."""
    counts = {
        area: Counter(results[each.number].killed for each in mutants if each.area == area and each.number in results)
        for area in AREAS
    }
    lines = [f"{'area':20} {'killed':>7} {'alive':>6} {'gone':>5}"]
    for area, count in [*counts.items(), ("all", sum(counts.values(), Counter()))]:
        lines.append(f"{area:20} {count[True]:7} {count[False]:6} {count[None]:5}")
    return "\n".join(lines)


@click.command()
@click.argument("recorded", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--number", type=int, help="Run this mutant alone, and record nothing.")
@click.option("--minutes", type=float, default=600.0, show_default=True, help="Start no mutant after so long.")
def main(recorded: Path, number: int | None, minutes: float) -> None:
    """Run the tests against every mutant that has no line in RECORDED yet, and print how many were killed."""
    mutants, checkout = read(), Path.cwd()
    if number is not None:
        click.echo(run(mutants[number], checkout))
        return
    lines = recorded.read_text().splitlines() if recorded.exists() else []
    results = {result.number: result for result in (Result(**json.loads(line)) for line in lines)}
    ends = time.monotonic() + 60 * minutes
    # The areas in turn, so that what is there says something of each when it is stopped.
    for mutant in sorted(mutants, key=lambda each: each.number % (len(mutants) // len(AREAS))):
        if mutant.number in results or time.monotonic() > ends:
            continue
        result = results[mutant.number] = run(mutant, checkout)
        with recorded.open("a") as file:
            file.write(json.dumps(asdict(result)) + "\n")
        verdict = {True: f"killed by {result.by}", False: "ALIVE", None: result.by}[result.killed]
        click.echo(f"{len(results):3}/{len(mutants)}  mutant {mutant.number:3}  {mutant.file}: {verdict}")
    click.echo(summary(mutants, results))


if __name__ == "__main__":
    main()
