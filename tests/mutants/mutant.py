"""A mutant: one small fault in one function of the product, found again by its text where the code has moved."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

AREAS = ("serving/server", "serving/connection", "serving/loadtest", "export", "training")
"""Folders of which mutants are drawn, equally many of each."""
FOLDER = Path(__file__).parent
DRAWN = FOLDER / "mutants.jsonl"
LINES_BEFORE = 3
"""Lines that stand before the changed ones and help to find their place again."""


class MovedError(Exception):
    """The code that a mutant changes is no longer there, or is there several times."""


@dataclass(frozen=True)
class Mutant:
    """A change of some lines of one file.

    Attributes:
        number: From 0 on, in the order of drawing.
        file: Relative to the repository's root.
        definition: The function or class that has the lines; empty at the level of the module.
        operator: cosmic-ray's name for the change.
        context: Up to LINES_BEFORE lines before the changed ones.
        before: The lines as they are.
        after: The lines with the fault.
    """

    number: int
    file: str
    definition: str
    operator: str
    context: str
    before: str
    after: str

    @property
    def area(self) -> str:
        """The area that the mutant was drawn of."""
        return next(area for area in AREAS if self.file.startswith(f"{area}/"))

    def place(self, root: Path) -> tuple[Path, int]:
        """Return the file of a checkout that has the lines which the mutant changes, and the number of the first.

        Raises:
            MovedError: The lines are not in the file that had them, nor in exactly one other file of the area.
        """
        place = root / self.file
        files = [place] if place.exists() and _count(place, self) == 1 else []
        files = files or [each for each in sorted((root / self.area).rglob("*.py")) if _count(each, self) == 1]
        if len(files) != 1:
            raise MovedError(
                f"mutant {self.number}: the lines of {self.definition} are in {len(files)} files of {self.area}"
            )
        before = files[0].read_text().partition(self.context + self.before)[0] + self.context
        return files[0], before.count("\n") + 1

    def apply(self, root: Path) -> Path:
        """Put the fault into a checkout, and return the file that has it.

        Raises:
            MovedError: The lines are no longer there.
        """
        file, _ = self.place(root)
        text = file.read_text()
        file.write_text(text.replace(self.context + self.before, self.context + self.after))
        return file


def _count(file: Path, mutant: Mutant) -> int:
    return file.read_text().count(mutant.context + mutant.before)


def read(path: Path = DRAWN) -> list[Mutant]:
    """Read the mutants of a file."""
    return [Mutant(**json.loads(line)) for line in path.read_text().splitlines()]


def write(mutants: Iterable[Mutant], path: Path = DRAWN) -> None:
    """Write mutants to a file, one a line."""
    path.write_text("".join(json.dumps(asdict(mutant)) + "\n" for mutant in mutants))


def changed_lines(before: Sequence[str], after: Sequence[str]) -> tuple[int, int, int]:
    """Return the first line in which two texts differ, and where the difference ends in each."""
    first = next(place for place, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1])
    same = 0
    while before[-1 - same] == after[-1 - same] and same < min(len(before), len(after)) - first:
        same += 1
    return first, len(before) - same, len(after) - same
