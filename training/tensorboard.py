"""Writes a run's figures as TensorBoard events into the run's folder, so that ``tensorboard --logdir runs`` shows it.

tensorboardX makes the events and the file's records; torch.utils.tensorboard would need the whole of TensorBoard, with
its web server. Its SummaryWriter is not used: that writes on a thread of its own, which a full disk ends in silence.
"""

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.summary import hparams

from hangtag.training.progress import Observer, StepProgress
from hangtag.training.runs.config import flat
from hangtag.training.runs.run import EVENT_FILES, Run, reporting_write_errors

_SPLITS = ("train", "validation")


class EventLog(Observer, AbstractContextManager["EventLog"]):
    """The TensorBoard log of one run. Use it in a ``with`` block, which closes the file.

    Every figure's step is the number of training steps since the run's beginning. A run that is resumed adds a file to
    those in its folder, and readers drop what was logged between the last checkpoint and the kill. A log that begins
    with a resumed run gets the figures of the epochs before it.

    Raises RunMismatchError, from every method, where the folder cannot be written.

    Example:
        >>> with EventLog(run.folder, config.as_json()) as log:
        ...     train(config, data, run, log)
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Write nothing yet.

        Args:
            folder: The run's folder.
            config: The content of config.json, whose texts and numbers are logged as hyperparameters.
        """
        self._folder, self._config = folder, config
        self._writer: EventsWriter | None = None
        self._steps = 0  # per epoch

    def on_step(self, progress: StepProgress) -> None:
        if not self._writer:
            self._begin(progress.steps)
        if figures := progress.figures:
            tags = {name if name == "learning_rate" else f"{name}/step": value for name, value in figures.items()}
            self._write((progress.epoch - 1) * self._steps + progress.step, summary=_scalars(tags))

    def on_epoch(self, row: Mapping[str, float]) -> None:
        self._write(int(row["epoch"]) * self._steps, summary=_scalars(_tags(row)))

    def __exit__(self, *_: object) -> None:
        if self._writer:
            with reporting_write_errors(self._folder):
                self._writer.close()
            self._writer = None

    def _begin(self, steps: int) -> None:
        """Open the file, before the run's first step."""
        self._steps = steps
        rows = Run(self._folder).read_metrics()["epochs"]
        earlier = len(list(self._folder.glob(EVENT_FILES)))
        with reporting_write_errors(self._folder):
            # The number makes the name another one than that of a file of the same second.
            self._writer = EventsWriter(str(self._folder / "events"), f".{earlier:04}")
        if earlier:
            self._write(len(rows) * steps + 1, session_log=SessionLog(status=SessionLog.START))
        else:
            settings = {key: value for key, value in flat(self._config).items() if isinstance(value, str | int | float)}
            _, session, _ = hparams(settings, {})  # TensorBoard finds the metrics by itself
            self._write(0, summary=session)
            for row in rows:
                self.on_epoch(row)

    def _write(self, step: int, **content: Any) -> None:
        assert self._writer
        with reporting_write_errors(self._folder):
            self._writer.write_event(Event(wall_time=time.time(), step=step, **content))
            self._writer.flush()


def _tags(row: Mapping[str, float]) -> dict[str, float]:
    """An epoch's figures by tag: {"validation_loss": 0.3} as {"loss/validation": 0.3}."""
    tags = {}
    for key, value in row.items():
        split, _, figure = key.partition("_")
        if split in _SPLITS:
            tags[f"{figure}/{split}"] = value
    return tags | {f"time/{key}": row[key] for key in ("seconds", "step_ms") if key in row}


def _scalars(figures: Mapping[str, float]) -> Summary:
    return Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in figures.items()])
