import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from hangtag.training.catalog import recipe_for
from hangtag.training.data import fashion_mnist as data
from hangtag.training.data.fashion_mnist import LABELS, FashionMnist
from hangtag.training.data.multi_label import MultiLabelData, MultiLabelSplit
from hangtag.training.data.outfits import make_split, together
from hangtag.training.loop import trainer
from hangtag.training.observer import StepProgress
from hangtag.training.runs.config import RunConfig
from hangtag.training.runs.run import Run
from tests.kit import forkserver
from tests.training.broken_runs import CheckpointKeptRun
from tests.training.command import EPOCHS, hangtag
from tests.training.configs import OnStep, make_config

forkserver.preload_training()


@pytest.fixture(scope="session")
def whole() -> FashionMnist:
    """The real data set. Where it is missing, the error says how to get it."""
    return data.load()


@pytest.fixture(scope="session")
def small(whole: FashionMnist) -> FashionMnist:
    """The real data set with only the first 100 test images, which every finished run looks at."""
    return replace(whole, test=whole.test.first(100))


@pytest.fixture
def few_test_images(raw_dir: Path, small: FashionMnist, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands in this process load the small data set: each would classify 10,000 test images at its end."""
    monkeypatch.setattr(data, "load", {raw_dir: small}.__getitem__)


@pytest.fixture(scope="session")
def raw_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The four published files, decompressed: quicker to read than the .gz."""
    folder = tmp_path_factory.mktemp("raw")
    source = data.locate()
    for name in data.DIGESTS:
        packed = source / f"{name}.gz"
        contents = gzip.decompress(packed.read_bytes()) if packed.is_file() else (source / name).read_bytes()
        (folder / name).write_bytes(contents)
    return folder


@pytest.fixture(scope="session")
def unbroken(small: FashionMnist, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three epochs of three steps without a break."""
    folder = tmp_path_factory.mktemp("unbroken")
    trainer.train(make_config(epochs=3), small, CheckpointKeptRun(folder))
    return folder


@pytest.fixture(scope="session")
def arguments(raw_dir: Path) -> list[str]:
    """A run of about two seconds, without --out."""
    return [
        *("train", "lstm", "--data-dir", str(raw_dir), "--device", "cpu"),
        *("--limit", "640", "--epochs", str(EPOCHS), "--threads", "1"),
    ]


@pytest.fixture(scope="session")
def config(whole: FashionMnist, raw_dir: Path) -> RunConfig:
    """What these arguments mean."""
    recipe = replace(recipe_for("study", "lstm"), epochs=EPOCHS)
    return RunConfig(
        model="lstm",
        recipe=recipe,
        seed=0,
        data_digest=whole.digest,
        limit=640,
        precision="fp32",
        threads=1,
        device="cpu",
        data_dir=str(raw_dir),
    )


@pytest.fixture(scope="session")
def finished(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A whole run by the command, without a break, and its output."""
    folder = tmp_path_factory.mktemp("cli") / "finished"
    return folder, hangtag(arguments, folder)


@pytest.fixture(scope="session")
def broken_off(config: RunConfig, small: FashionMnist, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, ended in its second epoch."""

    def interrupt(at: StepProgress) -> None:
        if at.epoch == 2:
            raise KeyboardInterrupt

    folder = tmp_path_factory.mktemp("cli") / "broken-off"
    with pytest.raises(KeyboardInterrupt):
        trainer.train(config, small, Run(folder), OnStep(interrupt))
    return folder


@pytest.fixture
def linked(raw_dir: Path, tmp_path: Path) -> Path:
    """A folder of links to the four files, for a test to spoil."""
    folder = tmp_path / "linked"
    folder.mkdir()
    for name in data.DIGESTS:
        (folder / name).symlink_to(raw_dir / name)
    return folder


@pytest.fixture(scope="module")
def outfits(whole: FashionMnist) -> MultiLabelData:
    train, validation, test = (
        make_split(together(), garments, (0, number), count)
        for number, (garments, count) in enumerate([(whole.train, 96), (whole.validation, 40), (whole.test, 40)])
    )
    return MultiLabelData("outfits", LABELS, train, validation, test, source="", digest="")


@pytest.fixture(scope="module")
def plain(whole: FashionMnist) -> MultiLabelData:
    """Four looks that differ in where two bright bars lie: learned in seconds."""
    rng = np.random.default_rng(0)
    looks = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 1, 1], [0, 1, 0, 1]], np.bool_)

    def split(count: int) -> MultiLabelSplit:
        labels = looks[rng.integers(4, size=count)]
        images = rng.integers(0, 30, (count, 64, 64), dtype=np.uint8)
        for index, label in np.argwhere(labels):
            images[index, :, 16 * label : 16 * label + 12] += np.uint8(150)
        return MultiLabelSplit(images, labels)

    return MultiLabelData("bars", ("a", "b", "c", "d"), split(256), split(100), split(100), source="", digest="")
