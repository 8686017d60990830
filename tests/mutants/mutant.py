"""A mutant: one small fault in one function of the product. If the code moves, its text identifies the place."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

AREAS = ("serving/server", "serving/connection", "serving/loadtest", "export", "training")
"""The folders from which mutants are drawn, with the same number for each folder."""
FOLDER = Path(__file__).parent
DRAWN = FOLDER / "mutants.jsonl"


class MovedError(Exception):
    """The code that a mutant changes is missing, or occurs several times."""


@dataclass(frozen=True)
class Mutant:
    """A change of one place of a file.

    Attributes:
        number: The mutant's number, from 0 on, in the order of drawing.
        file: The file's path, relative to the repository's root.
        definition: The function or class that contains the text; empty at module level.
        operator: The name that cosmic-ray gives the change.
        before: The original text, which the file contains once. The text is as short as possible and has no comment, so
            that few other changes of the file remove it.
        after: The changed text.
    """

    number: int
    file: str
    definition: str
    operator: str
    before: str
    after: str

    @property
    def area(self) -> str:
        """The area from which the mutant was drawn."""
        return next(area for area in AREAS if self.file.startswith(f"{area}/"))

    def place(self, root: Path) -> tuple[Path, int]:
        """Find the text that the mutant changes in a checkout. Return its file and the number of its first line.

        Raises:
            MovedError: The file does not contain the text once. If the checkout lacks the file, not exactly one other
                file of the area contains the text once.
        """
        place = root / self.file
        files = [place] if place.exists() else sorted((root / self.area).rglob("*.py"))
        files = [each for each in files if each.read_text().count(self.before) == 1]
        if len(files) != 1:
            raise MovedError(
                f"mutant {self.number}: the text of {self.definition} is in {len(files)} files of {self.area}"
            )
        return files[0], files[0].read_text().partition(self.before)[0].count("\n") + 1

    def apply(self, root: Path) -> Path:
        """Put the fault into a checkout, and return the changed file.

        Raises:
            MovedError: The text no longer exists.
        """
        file, _ = self.place(root)
        text = file.read_text()
        file.write_text(text.replace(self.before, self.after))
        return file


def read(path: Path = DRAWN) -> list[Mutant]:
    """Read the mutants from a file."""
    return [Mutant(**json.loads(line)) for line in path.read_text().splitlines()]


def write(mutants: Iterable[Mutant], path: Path = DRAWN) -> None:
    """Write mutants to a file, one mutant per line."""
    path.write_text("".join(json.dumps(asdict(mutant)) + "\n" for mutant in mutants))
