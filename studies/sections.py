"""Generated parts of a hand-written document, each between two comments that no reader sees."""

import re


def filled(text: str, name: str, body: str) -> str:
    """``text`` with the part ``name`` replaced. Raises ValueError where the document has no such part, or several."""
    begin, end = f"<!-- generated: {name} -->", f"<!-- /generated: {name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    made, times = pattern.subn(
        lambda _match: f"{begin}\n\n{body.strip()}\n\n{end}" if body else f"{begin}\n{end}", text
    )
    if times != 1:
        raise ValueError(f"the document has {times} parts between {begin} and {end}, expected one")
    return made


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table. In a cell, | stays in the cell and < is no tag."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in line) + " |" for line in lines
    )
