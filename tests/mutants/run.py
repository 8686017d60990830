"""Runs the tests against each mutant, and records which test failed first.

    python -m tests.mutants.run reports/mutants.jsonl              # continues after an interruption
    python -m tests.mutants.run reports/mutants.jsonl --number 7

All tests run once, to find out which tests run the function of a mutant. Then each mutant is put into a temporary copy
of the files that git tracks, never into the checkout, and its tests run in two parts: first the tests of the mutant's
folder, then the others. A part ends after a minute or at the first failure.

Of the 150 drawn mutants, four (17, 30, 53 and 126) are left out because they were invalid Python, and five (97, 101,
109, 121 and 130) because the code that they changed no longer exists.
"""

import contextlib
import json
import re
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from tests.mutants import plugin, reach
from tests.mutants.mutant import AREAS, DRAWN, MovedError, Mutant, read

LIMIT_SECONDS = 60
"""The time limit for each of the two parts of a mutant's tests."""
OF_AN_AREA = 30
"""The number of mutants from each area; mutants are numbered area by area."""
TEST_SECONDS = 30
"""The time limit for a test, because a fault may make a test wait for ever."""
_SUMMARY = "= short test summary info ="
_FAILED = re.compile(r"^(?:FAILED|ERROR|ImportError while loading conftest '.*) ?\b(tests/.+?)(?: - |'\.$|$)", re.M)
"""A line of pytest's summary, or pytest's message about a conftest that a mutant breaks."""
_NOTHING_FOUND = (0, 5, -signal.SIGKILL)
"""pytest's exit codes if all tests pass, if there are no tests, and at the time limit. If pytest ends with another
exit code and no test failed, the mutant broke a module that the conftest imports."""
RECORDED = Path("tests/mutants/after.jsonl")
"""The results to which new results are compared."""


@dataclass(frozen=True)
class Result:
    """The result of the tests for one mutant.

    Attributes:
        number: The mutant's number.
        killed: Whether a test failed; None if the code that the mutant changes no longer exists.
        by: The first test that failed, or the reason why the mutant could not be made.
        seconds: The duration of the tests.
    """

    number: int
    killed: bool | None
    by: str
    seconds: float


def run(mutant: Mutant, checkout: Path, tests: Sequence[str]) -> Result:
    """Make a mutant in a copy of a checkout, and run the tests that may find it."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        copy = Path(name)
        reach.copy(checkout, copy)
        try:
            file = mutant.apply(copy)
        except MovedError as error:
            return Result(mutant.number, None, str(error), 0.0)
        folder = _own_folder(file, copy)
        own = [each for each in tests if each.startswith(f"{folder}/")]
        # If no test is known to run the mutant's code, all tests of the mutant's folder run.
        for chosen in (own, [each for each in tests if each not in own]) if tests else ([str(folder)],):
            failed = _first_failure(chosen, copy) if chosen else ""
            if failed:
                return Result(mutant.number, True, failed, round(time.monotonic() - started, 1))
    return Result(mutant.number, False, "", round(time.monotonic() - started, 1))


def _own_folder(file: Path, copy: Path) -> Path:
    """The folder of tests/ that corresponds to a file's folder, or to the nearest parent that has one."""
    folder = Path("tests") / file.relative_to(copy).parent
    while not (copy / folder).is_dir():
        folder = folder.parent
    return folder


def _first_failure(tests: Sequence[str], copy: Path) -> str:
    """Run tests, and return the first test that fails within the time limit, or an empty text."""
    chosen = copy / "chosen.json"
    chosen.write_text(json.dumps(tests))
    files = dict.fromkeys(each.partition("::")[0] for each in tests)
    variables = {plugin.CHOSEN: str(chosen)} if any(each.endswith(".py") or "::" in each for each in tests) else {}
    with (copy / "output").open("w+") as output:
        options = ("-x", f"--timeout={TEST_SECONDS}", *files)
        process = reach.pytest(copy, *options, variables=variables, output=output)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=LIMIT_SECONDS)
        reach.kill(copy)
        process.wait()
        output.seek(0)
        failure = _FAILED.search(output.read().rpartition(_SUMMARY)[2])
    if failure:
        return failure[1]
    return f"pytest ended with {process.returncode}" if process.returncode not in _NOTHING_FOUND else ""


def summary(mutants: Iterable[Mutant], results: dict[int, Result]) -> str:
    """A table of the numbers of killed mutants, by area."""
    drawn = list(mutants)
    counts = {
        area: Counter(results[each.number].killed for each in drawn if each.area == area and each.number in results)
        for area in AREAS
    }
    lines = [f"{'area':20} {'killed':>7} {'alive':>6} {'gone':>5}"]
    for area, count in [*counts.items(), ("all", sum(counts.values(), Counter()))]:
        lines.append(f"{area:20} {count[True]:7} {count[False]:6} {count[None]:5}")
    return "\n".join(lines)


def _tests_of(mutants: Sequence[Mutant], checkout: Path, kept: Path) -> dict[int, list[str]]:
    """The tests that reach each mutant, from the file ``kept``, which is written if it does not exist."""
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(reach.reaches(mutants, checkout)))
    return {int(key): names for key, names in json.loads(kept.read_text()).items()}


def read_results(path: Path) -> dict[int, Result]:
    """Read a file's results, by the mutant's number. If the file is missing, there are no results."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {result.number: result for result in (Result(**json.loads(line)) for line in lines)}


def revived(before: Mapping[int, Result], after: Mapping[int, Result]) -> list[int]:
    """Return the identifying numbers of the mutants that were killed before and survive now."""
    return [
        number
        for number, result in after.items()
        if result.killed is False and number in before and before[number].killed
    ]


@click.command()
@click.argument("recorded", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--checkout", default=".", type=click.Path(exists=True, path_type=Path), help="The checkout to test.")
@click.option("--number", type=int, help="Run only the mutant with this number, without recording the result.")
@click.option("--minutes", type=float, default=600.0, show_default=True, help="Start no mutant after this time.")
@click.option("--processes", default=2, show_default=True, help="The number of mutants to run at the same time.")
def main(recorded: Path, checkout: Path, number: int | None, minutes: float, processes: int) -> None:
    """Run the tests against every mutant that has no line in RECORDED, and print the number of killed mutants.

    A file next to RECORDED lists the tests that reach each mutant. The exit status is 1 if a mutant survives,
    although tests/mutants/after.jsonl records it as killed.
    """
    checkout = checkout.resolve()
    own = checkout / "tests/mutants/mutants.jsonl"  # an older checkout may lack the file
    mutants = {mutant.number: mutant for mutant in read(own if own.exists() else DRAWN)}
    results = read_results(recorded)
    # The order alternates between the areas, so that an interrupted run has results for all areas.
    ordered = sorted(mutants.values(), key=lambda each: (each.number % OF_AN_AREA, each.number))
    left = [each for each in ordered if each.number not in results] if number is None else [mutants[number]]
    tests = _tests_of(ordered, checkout, recorded.with_suffix(".reaches.json")) if left else {}
    ends = time.monotonic() + 60 * minutes

    def judge(mutant: Mutant) -> Result | None:
        return run(mutant, checkout, tests.get(mutant.number, [])) if time.monotonic() < ends else None

    if number is not None:
        click.echo(judge(mutants[number]))
        return
    with ThreadPoolExecutor(processes) as executor:
        for result in filter(None, executor.map(judge, left)):
            results[result.number] = result
            with recorded.open("a") as file:
                file.write(json.dumps(asdict(result)) + "\n")
            verdict = {True: f"killed by {result.by}", False: "ALIVE", None: result.by}[result.killed]
            name = mutants[result.number].file
            click.echo(f"{len(results):3}/{len(mutants)}  mutant {result.number:3}  {name}: {verdict}")
    click.echo(summary(mutants.values(), results))
    if living := revived(read_results(RECORDED), results):
        click.echo(f"alive now, and killed in {RECORDED}: {', '.join(map(str, living))}")
        raise SystemExit(1)


if __name__ == "__main__":
    main()
