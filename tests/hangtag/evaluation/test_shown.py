"""What `hangtag evaluate` shows and writes."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from hangtag.evaluation import pictures
from hangtag.evaluation.multi_label import MultiLabelResult, SetMistake
from hangtag.evaluation.single_label import Mistake
from hangtag.serving.server.process.server import Server
from hangtag.training.data.fashion_mnist import LABELS
from tests.hangtag.conftest import LSTM, document, hangtag
from tests.kit.exported import Exported

pytestmark = pytest.mark.slow


def test_the_tables(server: Server) -> None:
    result = hangtag("evaluate", "lstm", "--server", server.address, "--limit", 1000)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "lstm on 1,000 test images of fashion-mnist"
    assert max(map(len, lines)) <= 80
    words = " ".join(result.stdout.split())
    written = document(LSTM, "--limit", 1000)
    assert f"accuracy {written['accuracy']:.2%}" in words
    assert f"severity of mistakes {written['severity']['mean']:.4f}" in words
    nearest = written["severity"]["nearest"]
    assert f"{nearest['mean']:.4f} if least expected distance decided, {nearest['accuracy']:.2%} right" in words
    assert f"true label second {written['severity']['second']:.2%}" in words
    boot = written["classes"][9]
    assert f"Ankle boot {boot['precision']:.1%} {boot['recall']:.1%} {boot['f1']:.1%} {boot['support']}" in words
    row = next(line for line in lines[-10:] if line.startswith("T-shirt/top"))
    assert [int(cell) for cell in row.split()[1:]] == [count for count in written["confusion"][0] if count]


def test_a_trial_is_named_as_a_trial(exported: Exported) -> None:
    shown = " ".join(hangtag("evaluate", exported.run.folder, "--limit", 100).stdout.split())
    assert shown.startswith("lstm-tiny (trained on the first 32 images only) on 100 test images of fashion-mnist")
    assert hangtag("evaluate", exported.file.parents[1], "--limit", 100).stdout.startswith(str(exported.file))


def test_pictures_are_the_same_for_the_same_figures(tmp_path: Path) -> None:
    result = hangtag("evaluate", LSTM, "--limit", 300, "--pictures", tmp_path / "new" / "folder")
    assert result.exit_code == 0, result.output
    again = hangtag("evaluate", LSTM, "--limit", 300, "--pictures", tmp_path)
    assert again.exit_code == 0
    for name in ("confusion.png", "mistakes.png"):
        path = tmp_path / "new" / "folder" / name
        assert f"wrote {path}" in result.stderr
        assert path.read_bytes() == (tmp_path / name).read_bytes()
    colours = np.asarray(Image.open(tmp_path / "confusion.png").convert("RGB")).reshape(-1, 3)
    assert len(np.unique(colours, axis=0)) > 50


@pytest.mark.parametrize(("mistakes", "shown"), [(1, 1), (7, 7), (30, 24)])
def test_each_mistake_has_its_image_in_the_picture(tmp_path: Path, mistakes: int, shown: int) -> None:
    """Image i is all of one grey, which is found in the picture, and in no picture that does not show it."""
    images = np.repeat(np.arange(30, dtype=np.uint8) * 5 + 20, 784).reshape(30, 28, 28)
    listed = [Mistake(image, 0, 1, 0.9, 0.5) for image in reversed(range(30))][:mistakes]
    pictures.confident_mistakes(listed, images, "a test", tmp_path / "mistakes.png")
    grey = np.asarray(Image.open(tmp_path / "mistakes.png").convert("L"))
    areas = [int((np.abs(grey.astype(int) - (255 - images[image, 0, 0])) <= 1).sum()) for image in reversed(range(30))]
    assert all(area > 100 * 100 for area in areas[:shown])
    assert all(area < 1000 for area in areas[shown:])


@pytest.mark.parametrize(
    ("probability", "title", "suffix"),
    [(0.875, "a test: the most confident of 1 wrong sets of 2", "\nat 87.5%"), (None, "a test: the worst of 1", "")],
)
def test_a_wrong_set_is_shown_with_its_probability_if_it_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, probability: float | None, title: str, suffix: str
) -> None:
    drawn: list[Figure] = []
    save = pictures._save

    def keep(figure: Figure, path: Path) -> None:
        drawn.append(figure)
        save(figure, path)

    monkeypatch.setattr(pictures, "_save", keep)
    mistake = SetMistake(1, ("Coat", "Sandal", "Bag"), ("Coat",), probability)
    result = MultiLabelResult(LABELS, {}, [], [mistake])
    pictures.multi_label(result, np.zeros((2, 64, 64), np.uint8), "a test", tmp_path)
    (figure,) = drawn
    assert figure.get_suptitle().startswith(title)
    assert figure.axes[0].get_title() == f"Coat, Sandal,\nBag\ntaken for Coat{suffix}"
    assert (tmp_path / "mistakes.png").is_file()


def test_json_to_a_file_leaves_the_tables_on_standard_output(tmp_path: Path) -> None:
    file = tmp_path / "new" / "figures.json"
    result = hangtag("evaluate", LSTM, "--limit", 100, "--json", file)
    assert "accuracy" in result.stdout
    assert json.loads(file.read_text()) == document(LSTM, "--limit", 100)


def test_without_a_mistake_there_is_no_severity(tmp_path: Path) -> None:
    # The shipped lstm is right on the first three test images.
    result = hangtag("evaluate", LSTM, "--limit", 3, "--pictures", tmp_path)
    assert "severity of mistakes none" in " ".join(result.stdout.split())
    severity = document(LSTM, "--limit", 3)["severity"]
    assert severity["mean"] is severity["second"] is severity["nearest"]["mean"] is None
    assert (tmp_path / "mistakes.png").is_file()
