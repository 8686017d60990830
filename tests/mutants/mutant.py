"""A mutant: one small fault in one function of the product. If the code moves, its text identifies the place."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

AREAS = ("serving/server", "serving/connection", "serving/loadtest", "export", "training")
"""The folders from which mutants are drawn, with the same number for each folder."""
FOLDER = Path(__file__).parent
DRAWN = FOLDER / "mutants.jsonl"
LINES_BEFORE = 3
"""The number of lines before the changed ones that help to find their place again."""


class MovedError(Exception):
    """The code that a mutant changes is missing, or occurs several times."""


@dataclass(frozen=True)
class Mutant:
    """A change of a few lines of one file.

    Attributes:
        number: The mutant's number, from 0 on, in the order of drawing.
        file: The file's path, relative to the repository's root.
        definition: The function or class that contains the lines; empty at module level.
        operator: The name that cosmic-ray gives the change.
        context: Up to LINES_BEFORE lines before the changed ones.
        before: The original lines.
        after: The changed lines.
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
        """The area from which the mutant was drawn."""
        return next(area for area in AREAS if self.file.startswith(f"{area}/"))

    def place(self, root: Path) -> tuple[Path, int]:
        """Find the lines that the mutant changes in a checkout. Return their file and the number of the first of them.

        Raises:
            MovedError: The lines are neither in the original file nor in exactly one other file of the area.
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
        """Put the fault into a checkout, and return the changed file.

        Raises:
            MovedError: The lines no longer exist.
        """
        file, _ = self.place(root)
        text = file.read_text()
        file.write_text(text.replace(self.context + self.before, self.context + self.after))
        return file


def _count(file: Path, mutant: Mutant) -> int:
    return file.read_text().count(mutant.context + mutant.before)


def read(path: Path = DRAWN) -> list[Mutant]:
    """Read the mutants from a file."""
    return [Mutant(**json.loads(line)) for line in path.read_text().splitlines()]


def write(mutants: Iterable[Mutant], path: Path = DRAWN) -> None:
    """Write mutants to a file, one mutant per line."""
    path.write_text("".join(json.dumps(asdict(mutant)) + "\n" for mutant in mutants))


def changed_lines(before: Sequence[str], after: Sequence[str]) -> tuple[int, int, int]:
    """Return the first line in which two texts differ, and the line in each text where the difference ends."""
    first = next(place for place, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1])
    same = 0
    while before[-1 - same] == after[-1 - same] and same < min(len(before), len(after)) - first:
        same += 1
    return first, len(before) - same, len(after) - same
