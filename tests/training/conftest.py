from pathlib import Path

import pytest

from tests.kit import forkserver, garments
from tests.kit.command import invoke
from tests.kit.once import once
from tests.training.small_runs import SOURCES, TRAINED, DiedError, Finished, dying

forkserver.preload_training()


@pytest.fixture(autouse=True)
def few_test_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit commands in this process to a few test images, because each training run ends by classifying them all."""
    garments.use_few(monkeypatch)


@pytest.fixture(scope="session")
def forkable() -> None:
    """Import PyTorch into the process from which commands are forked, so that no test waits for this import."""
    with forkserver.Forked(int) as process:
        process.wait()


def _finish(folder: Path) -> Finished:
    with pytest.MonkeyPatch.context() as patch:
        garments.use_few(patch)
        result = invoke(*TRAINED, "--out", folder / "run")
    return Finished(folder / "run", result.stdout, result.stderr)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return once(tmp_path_factory, "finished", _finish, sources=SOURCES)


def _break_off(folder: Path) -> Path:
    with dying(writes=5), pytest.raises(DiedError):
        invoke(*TRAINED, "--out", folder / "run")
    return folder / "run"


@pytest.fixture(scope="session")
def broken_off(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed after its first epoch. Tests must not change it."""
    return once(tmp_path_factory, "broken-off", _break_off, sources=SOURCES)
