"""Which document has which generated parts."""

from collections.abc import Callable
from pathlib import Path

from studies.reference import metrics, options
from studies.sections import filled
from studies.server import capacity

# Document -> part -> what makes it, given the repository's root.
DOCUMENTS: dict[str, dict[str, Callable[[Path], str]]] = {
    "docs/deploy.md": {"capacity": capacity.section},
    "docs/operations.md": {"options": options.section, "metrics": metrics.section},
}


def current(root: Path, document: str) -> str:
    """The document's text as it should be, its hand-written parts as they are."""
    text = (root / document).read_text()
    for name, make in DOCUMENTS[document].items():
        text = filled(text, name, make(root))
    return text
