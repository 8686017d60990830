"""The part of docs/models.md about versions; that the page is true is tested in tests/test_documents.py."""

from pathlib import Path

from studies.shipped.models import read_all, read_earlier
from studies.shipped.report import page
from tests.shipped import latest


def test_earlier_versions_stand_below_the_latest_with_their_figures_alone(tmp_path: Path) -> None:
    for name, version in (("lstm", 1), ("lstm", 9), ("lstm", 10), ("cnn", 1)):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / str(version)).symlink_to(latest(name).parent)
    text = page(read_all(tmp_path), [], [], read_earlier(tmp_path))
    rows = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| `")]
    assert rows == ["| `lstm` version 10", "| `lstm` version 9", "| `lstm` version 1", "| `cnn` version 1"]
    assert text.count("Reproduce: ") == 2
