"""TensorBoard's own reader reads what a run logs; a resumed run logs what an unbroken one does."""

import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from hangtag.training.data.fashion_mnist import FashionMnist
from hangtag.training.errors import RunMismatchError
from hangtag.training.loop import trainer
from hangtag.training.observer import Observers, StepFigures, StepProgress
from hangtag.training.runs.config import RunConfig
from hangtag.training.runs.run import EVENT_FILES, Run
from hangtag.training.tensorboard import EventLog
from tests.training.command import hangtag, one_error
from tests.training.configs import OnStep, make_config

EPOCHS, STEPS = 3, 12  # steps of an epoch; figures are summed up at the 1st, the 11th and the last
TINY = make_config(limit=32 * STEPS, epochs=EPOCHS)
CONFIG = replace(TINY, recipe=replace(TINY.recipe, schedule="one_cycle"))
SUMMED_UP = [(epoch * STEPS) + step for epoch in range(EPOCHS) for step in (1, 11, STEPS)]

Log = dict[str, list[tuple[int, float]]]


def train(folder: Path, data: FashionMnist, interrupted_at: int = 0, *, logged: bool = True) -> None:
    """Train a run, or the part of it up to a step of its second epoch."""

    def interrupt(at: StepProgress) -> None:
        if at.epoch == 2 and at.step == interrupted_at:
            raise KeyboardInterrupt

    with EventLog(folder, CONFIG.as_json()) as log:
        observers = [log, OnStep(interrupt)] if logged else [OnStep(interrupt)]
        trainer.train(CONFIG, data, Run(folder), Observers(*observers))


def read(folder: Path) -> Log:
    """Every scalar's steps and values but the times."""
    reader = EventAccumulator(str(folder)).Reload()
    tags = [tag for tag in reader.Tags()["scalars"] if not tag.startswith("time/")]
    return {tag: [(event.step, event.value) for event in reader.Scalars(tag)] for tag in tags}


@pytest.fixture(scope="module")
def unbroken(small: FashionMnist, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    train(folder, small)
    return folder


def test_the_log_holds_the_figures_of_metrics_json(unbroken: Path) -> None:
    rows, log = Run(unbroken).read_metrics()["epochs"], read(unbroken)
    for split in ("train", "validation"):
        for figure in ("loss", "accuracy"):
            steps, values = zip(*log[f"{figure}/{split}"], strict=True)
            assert steps == (STEPS, 2 * STEPS, 3 * STEPS)
            assert values == pytest.approx([row[f"{split}_{figure}"] for row in rows])
    for tag in ("loss/step", "accuracy/step", "learning_rate"):
        assert [step for step, _ in log[tag]] == SUMMED_UP


def test_figures_of_steps_are_means_since_the_last_ones(unbroken: Path) -> None:
    log = read(unbroken)
    for figure in ("loss", "accuracy"):
        steps = [value for _, value in log[f"{figure}/step"]]
        for epoch, (_, mean) in enumerate(log[f"{figure}/train"]):
            first, tenths, last = steps[3 * epoch : 3 * epoch + 3]
            assert (first + 10 * tenths + last) / STEPS == pytest.approx(mean, rel=1e-5)


def test_the_learning_rate_is_that_of_the_step(unbroken: Path) -> None:
    rates = [value for _, value in read(unbroken)["learning_rate"]]
    assert rates[0] == pytest.approx(0.04 * 1e-3)  # where one_cycle begins, before the first step raised it
    assert rates[1] == max(rates)
    assert rates[-1] == min(rates)
    rows = Run(unbroken).read_metrics()["epochs"]
    assert [row["learning_rate"] for row in rows] == pytest.approx(rates[2::3])


def test_the_log_holds_the_hyperparameters(unbroken: Path) -> None:
    reader = EventAccumulator(str(unbroken)).Reload()
    content = reader.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    logged = metadata.parse_session_start_info_plugin_data(content).hparams
    assert logged["model"].string_value == "lstm"
    assert logged["recipe.learning_rate"].number_value == 1e-3
    assert logged["recipe.schedule"].string_value == "one_cycle"


@pytest.mark.parametrize("interrupted_at", [1, 11])
def test_a_resumed_run_goes_on_in_the_same_log(
    unbroken: Path, small: FashionMnist, tmp_path: Path, interrupted_at: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, small, interrupted_at)
    assert max(step for step, _ in read(tmp_path)["loss/step"]) == STEPS + interrupted_at
    train(tmp_path, small)
    assert read(tmp_path) == read(unbroken)
    train(tmp_path, small)  # a finished run is not trained, and logs nothing
    assert len(list(tmp_path.glob(EVENT_FILES))) == 2


def test_a_log_that_begins_with_a_resumed_run_has_the_epochs_before(
    unbroken: Path, small: FashionMnist, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, small, 1, logged=False)
    assert not list(tmp_path.glob(EVENT_FILES))
    train(tmp_path, small)
    whole, resumed = read(unbroken), read(tmp_path)
    assert resumed["loss/validation"] == whole["loss/validation"]
    assert resumed["loss/step"] == whole["loss/step"][3:]


def test_a_log_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    step = StepProgress(1, 1, 2, 0.5, None, StepFigures(0.5, 0.5, 1e-3))
    with EventLog(tmp_path, CONFIG.as_json()) as log:
        log.on_start([], STEPS)
        with largest_file(1000), pytest.raises(RunMismatchError, match=r"cannot be written \(File too large\)"):
            repeat(lambda: log.on_step(step), 1000)  # the file's buffer is full before the end
    with (
        EventLog(tmp_path / "missing", CONFIG.as_json()) as log,
        largest_file(10),
        pytest.raises(RunMismatchError, match=r"missing cannot be written"),
    ):
        log.on_start([], STEPS)


def repeat(do: Callable[[], object], times: int) -> None:
    for _ in range(times):
        do()


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let the kernel refuse to write more bytes than this to one file, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("few_test_images")
def test_the_command_logs_on_request_and_restart_discards_the_log(
    raw_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["train", "lstm", "--data-dir", str(raw_dir), "--device", "cpu", "--threads", "1"]
    arguments += ["--limit", "64", "--epochs", "1"]
    assert hangtag([*arguments, "--tensorboard"], tmp_path).exit_code == 0
    assert len(read(tmp_path)["loss/validation"]) == 1
    assert "--tensorboard" in Run(tmp_path).command()
    assert hangtag([*arguments, "--restart"], tmp_path).exit_code == 0
    assert not list(tmp_path.glob(EVENT_FILES))
    assert "--tensorboard" not in Run(tmp_path).command()

    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    message = one_error(hangtag([*arguments, "--tensorboard"], tmp_path / "none"))
    assert "--tensorboard needs the Python module 'tensorboardX'" in message
    assert "pip install '.[tensorboard]'" in message
    assert not (tmp_path / "none").exists()


def test_a_run_with_a_log_is_the_same_run(small: FashionMnist) -> None:
    assert RunConfig.as_json(replace(CONFIG, tensorboard=True)) != CONFIG.as_json()
    assert replace(CONFIG, tensorboard=True) == CONFIG
