"""TensorBoard's own reader reads what a run logs with --tensorboard."""

import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from hangtag.training.errors import RunMismatchError
from hangtag.training.progress import Observer, StepProgress
from hangtag.training.tensorboard import EventLog
from tests.kit import garments, shipped
from tests.training.small_runs import EPOCHS, Finished, OnStep, config, learn, read, scalars, train

pytestmark = pytest.mark.slow

STEPS = 20  # of an epoch; figures are summed up at the 1st, the 11th and the last
SUMMED_UP = [(epoch * STEPS) + step for epoch in range(EPOCHS) for step in (1, 11, STEPS)]


def test_the_log_holds_the_figures_of_metrics_json_and_those_of_steps(finished: Finished) -> None:
    rows, log = read(finished.folder)["epochs"], scalars(finished.folder)
    for split in ("train", "validation"):
        for figure in ("loss", "accuracy"):
            logged = log[f"{figure}/{split}"]
            assert [step for step, _ in logged] == [STEPS * epoch for epoch in range(1, EPOCHS + 1)]
            assert [value for _, value in logged] == pytest.approx([row[f"{split}_{figure}"] for row in rows])
    for tag in ("loss/step", "accuracy/step", "learning_rate"):
        assert [step for step, _ in log[tag]] == SUMMED_UP
    for figure in ("loss", "accuracy"):  # means since the last ones
        values = [value for _, value in log[f"{figure}/step"]]
        for epoch, (_, mean) in enumerate(log[f"{figure}/train"]):
            first, tenth, last = values[3 * epoch : 3 * epoch + 3]
            assert (first + 10 * tenth + 9 * last) / STEPS == pytest.approx(mean, rel=1e-5)


def test_the_log_holds_the_hyperparameters(finished: Finished) -> None:
    reader = EventAccumulator(str(finished.folder)).Reload()
    content = reader.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    logged = metadata.parse_session_start_info_plugin_data(content).hparams
    assert logged["model"].string_value == "lstm"
    assert logged["recipe.learning_rate"].number_value == 1e-3
    assert logged["recipe.schedule"].string_value == "constant"


def test_the_learning_rate_is_that_of_the_step(tmp_path: Path) -> None:
    options = ("--recipe", "best", "--teacher", shipped.latest("lstm"), "--tensorboard")
    train("lstm", tmp_path, *options, limit=512, epochs=3)  # 4 steps an epoch
    rates = [value for _, value in scalars(tmp_path)["learning_rate"]]
    assert rates[0] == pytest.approx(1.2e-2 / 25)  # where one_cycle begins, before the first step raised it
    assert rates[1:] == sorted(rates[1:], reverse=True)
    assert max(rates) > 10 * rates[0]
    assert [row["learning_rate"] for row in read(tmp_path)["epochs"]] == pytest.approx(rates[1::2])


def test_a_log_that_begins_later_has_the_epochs_before_and_a_run_without_is_the_same_run(tmp_path: Path) -> None:
    train("lstm", tmp_path / "whole", "--tensorboard", epochs=2)
    train("lstm", tmp_path / "run")
    assert not list((tmp_path / "run").glob("events.*"))
    train("lstm", tmp_path / "run", "--tensorboard", epochs=2)
    whole, later = scalars(tmp_path / "whole"), scalars(tmp_path / "run")
    assert later["loss/validation"] == whole["loss/validation"]
    assert later["loss/step"] == whole["loss/step"][2:]
    assert "had finished already" in train("lstm", tmp_path / "whole", epochs=2).stderr


def test_a_resumed_run_goes_on_in_the_same_log(tmp_path: Path) -> None:
    """Readers drop what was logged between the last checkpoint and the break."""

    def logged(folder: Path, stop_at: int = 0) -> None:
        def interrupt(at: StepProgress) -> None:
            if (at.epoch, at.step) == (2, stop_at):
                raise KeyboardInterrupt

        with EventLog(folder, {}) as log:
            learn(config(limit=12 * 32), garments.few(), folder, Observer(log, OnStep(interrupt)))

    logged(tmp_path / "unbroken")
    with pytest.raises(KeyboardInterrupt):
        logged(tmp_path / "run", stop_at=11)
    assert scalars(tmp_path / "run")["loss/step"][-1][0] == 12 + 11
    logged(tmp_path / "run")
    assert scalars(tmp_path / "run") == scalars(tmp_path / "unbroken")
    logged(tmp_path / "run")  # a finished run is not trained, and logs nothing
    assert len(list((tmp_path / "run").glob("events.out.tfevents.*"))) == 2


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let the kernel refuse to write more bytes than this to one file, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_log_that_cannot_be_written_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _: None)  # the writer's thread ends by the error, too
    step = StepProgress(1, 1, 2, 0.5, {"loss": 0.5, "learning_rate": 1e-3})
    new = tmp_path / "new"
    for folder, most, message in ((tmp_path, 1000, r"written \(File too large\)"), (new, 10, "new cannot be written")):
        with pytest.raises(RunMismatchError, match=message), largest_file(most), EventLog(folder, {}) as log:
            list(map(log.on_step, [step] * 1000))  # the file's buffer is full before the end
