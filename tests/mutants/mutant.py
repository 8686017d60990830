"""A mutant: one small fault in the product. The text around the fault identifies its place, even if the code moves."""

import json
from dataclasses import dataclass
from pathlib import Path

AREAS = ("serving/server", "serving/connection", "serving/loadtest", "export", "training")
"""Folders of the product. The same number of mutants is drawn from each folder."""
FOLDER = Path(__file__).parent
DRAWN = FOLDER / "mutants.jsonl"


class MovedError(Exception):
    """The code that a mutant changes is missing, or occurs more than once."""


@dataclass(frozen=True)
class Mutant:
    """A change at one place of a file.

    Attributes:
        number: The mutant's number in the order of drawing, from 0.
        file: The file's path, relative to the repository's root.
        definition: The function or class that contains the change; empty at module level.
        operator: The name that cosmic-ray gives the change.
        before: The original text, which the file contains only once. It is as short as possible, so that few later
            edits of the file affect it.
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
        """The folder in AREAS from which the mutant was drawn."""
        return next(area for area in AREAS if self.file.startswith(f"{area}/"))

    def place(self, root: Path) -> tuple[Path, int]:
        """Find the mutant's original text in a checkout, and return the file and the number of the text's first line.

        Raises:
            MovedError: The file does not contain the text exactly once. If the checkout lacks the file, exactly one
                other file of the area must contain the text, and only once.
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
        """Make the change in a checkout, and return the changed file.

        Raises:
            MovedError: The text no longer exists.
        """
        file, _ = self.place(root)
        text = file.read_text()
        file.write_text(text.replace(self.before, self.after))
        return file


def read(path: Path = DRAWN) -> list[Mutant]:
    return [Mutant(**json.loads(line)) for line in path.read_text().splitlines()]
