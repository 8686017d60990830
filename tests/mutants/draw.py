"""Draws mutants with cosmic-ray, which needs a separate environment: ``make mutants-draw``.

    python -m tests.mutants.draw --seed 34 --count 150

The module draws a place in the code first, and then one of cosmic-ray's changes of this place. Otherwise, most mutants
would replace a binary operator, because most changes do. Annotations are never changed.
"""

import ast
import io
import random
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from cosmic_ray.commands.init import _all_work_items
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator

from tests.mutants.mutant import AREAS, Mutant, write

_BROKEN = "ExceptionReplacer"
"""An operator of cosmic-ray that is not used, because cosmic-ray 8.7 fails on ``except (A, B)``."""
LEAST_CHARACTERS = 12
"""The minimum length of the text that identifies a place. A shorter text may occur twice when the file has changed."""
_MOST_TOKENS = 40
"""The maximum number of tokens in this text. Almost any change of the file would change a longer text."""

Position = tuple[str, tuple[int, int]]


def _places(area: Path) -> dict[Position, list[Any]]:
    """The changes that cosmic-ray can make in an area, by file and place."""
    places: dict[Position, list[Any]] = defaultdict(list)
    files = [file for file in sorted(area.rglob("*.py")) if not file.name.endswith("_pb2.py")]
    annotated = {str(file): list(_annotations(file)) for file in files}
    for item in _all_work_items(files, {}):
        (change,) = item.mutations
        file = str(change.module_path)
        if change.operator_name.endswith(_BROKEN):
            continue
        if not any(start <= change.start_pos < end for start, end in annotated[file]):
            places[file, change.start_pos].append(change)
    return places


def _annotations(file: Path) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Yield the start and the end of each annotation and type alias."""
    for node in ast.walk(ast.parse(file.read_text())):
        parts: list[ast.expr | None] = []
        if isinstance(node, ast.AnnAssign):
            parts = [node.annotation, node.value if ast.unparse(node.annotation) == "TypeAlias" else None]
        elif isinstance(node, ast.arg):
            parts = [node.annotation]
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            parts = [node.returns]
        for part in parts:
            if part is not None and part.end_lineno is not None and part.end_col_offset is not None:
                yield (part.lineno, part.col_offset), (part.end_lineno, part.end_col_offset)


def _mutant(number: int, change: Any) -> Mutant | None:
    """Return the mutant of a change; None if no text identifies the place, or if the changed file is invalid Python."""
    source = Path(change.module_path).read_text()
    mutated = mutate_code(source, get_operator(change.operator_name)(), change.occurrence)
    try:
        ast.parse(mutated)
    except SyntaxError:
        return None
    texts = shortest(source, mutated)
    if texts is None:
        return None
    return Mutant(number, str(change.module_path), change.definition_name or "", change.operator_name, *texts)


def shortest(source: str, mutated: str) -> tuple[str, str] | None:
    """Return the shortest text that contains the place of a change and occurs only once, and the changed text.

    The text consists of whole tokens, if possible of one line. It has at least LEAST_CHARACTERS, and contains neither
    a comment nor a string with spaces. Returns None if there is no such text.
    """
    start = next(place for place, pair in enumerate(zip(source, mutated, strict=False)) if pair[0] != pair[1])
    room = min(len(source), len(mutated)) - start
    same = next((count for count in range(room) if source[-1 - count] != mutated[-1 - count]), room)
    end = len(source) - same
    texts = [
        (first, last)
        for tokens in _runs_of_code(source)
        for place, (first, _) in enumerate(tokens)
        for _, last in tokens[place : place + _MOST_TOKENS]
        if first <= start and end <= last and last - first >= LEAST_CHARACTERS
    ]
    for first, last in sorted(texts, key=lambda text: (source.count("\n", *text), text[1] - text[0])):
        if source.count(source[first:last]) == 1:
            return source[first:last], source[first:start] + mutated[start : len(mutated) - same] + source[end:last]
    return None


def _runs_of_code(source: str) -> Iterator[list[tuple[int, int]]]:
    """Yield each run of tokens that has no comment and no string with spaces, as the tokens' starts and ends."""
    lines = [0]
    for line in source.splitlines(keepends=True):
        lines.append(lines[-1] + len(line))
    tokens: list[tuple[int, int]] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        is_text = tokenize.tok_name[token.type] in ("STRING", "FSTRING_MIDDLE")
        if token.type == tokenize.COMMENT or (is_text and " " in token.string.strip()):
            yield tokens
            tokens = []
        elif token.string.strip():
            tokens.append((lines[token.start[0] - 1] + token.start[1], lines[token.end[0] - 1] + token.end[1]))
    yield tokens


@click.command()
@click.option("--seed", default=34, show_default=True)
@click.option("--count", default=150, show_default=True, help="The number of mutants. Each area gets the same share.")
def main(seed: int, count: int) -> None:
    """Draw mutants, and write them to tests/mutants/mutants.jsonl."""
    chosen = random.Random(seed)
    mutants: list[Mutant] = []
    for area in AREAS:
        places = _places(Path(area))
        positions = sorted(places)
        chosen.shuffle(positions)
        wanted = len(mutants) + count // len(AREAS)
        while len(mutants) < wanted:
            mutant = _mutant(len(mutants), chosen.choice(places[positions.pop()]))
            mutants += [mutant] if mutant is not None else []
    write(mutants)
    click.echo(f"{len(mutants)} mutants were drawn with seed {seed}")


if __name__ == "__main__":
    main()
