"""Writes every generated part anew."""

from pathlib import Path

from studies.documents import DOCUMENTS, current

ROOT = Path(__file__).parents[1]


def main() -> None:
    for document in DOCUMENTS:
        (ROOT / document).write_text(current(ROOT, document))


if __name__ == "__main__":
    main()
