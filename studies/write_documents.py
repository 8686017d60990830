"""Writes every generated part anew."""

from pathlib import Path

from deploy.pages.documents import DOCUMENTS, current

ROOT = Path(__file__).parents[2]


def main() -> None:
    for document in DOCUMENTS:
        (ROOT / document).write_text(current(ROOT, document))


if __name__ == "__main__":
    main()
