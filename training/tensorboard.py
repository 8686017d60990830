"""Writes a run's figures into its folder as TensorBoard's events, which ``tensorboard --logdir runs`` shows."""

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from hangtag.training.errors import reporting_write_errors
from hangtag.training.progress import Observer, StepProgress
from hangtag.training.runs.config import flat
from hangtag.training.runs.run import EVENT_FILES, Run


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
        self._writer: SummaryWriter | None = None
        self._steps = 0  # per epoch

    def on_step(self, progress: StepProgress) -> None:
        if self._writer is None:
            self._begin(progress.steps)
        if figures := progress.figures:
            tags = {name if name == "learning_rate" else f"{name}/step": value for name, value in figures.items()}
            self._write(tags, (progress.epoch - 1) * self._steps + progress.step)

    def on_epoch(self, row: Mapping[str, float]) -> None:
        """Log an epoch's figures by tags: {"validation_loss": 0.3} as {"loss/validation": 0.3}."""
        splits = {key: key.partition("_") for key in row if key.startswith(("train_", "validation_"))}
        tags = {f"{figure}/{split}": row[key] for key, (split, _, figure) in splits.items()}
        times = {f"time/{key}": row[key] for key in ("seconds", "step_ms") if key in row}
        self._write(tags | times, int(row["epoch"]) * self._steps)

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            with reporting_write_errors(self._folder):
                self._writer.close()
            self._writer = None

    def _begin(self, steps: int) -> None:
        """Open the file, before the run's first step."""
        self._steps = steps
        rows = Run(self._folder).read_metrics()["epochs"]
        earlier = list(self._folder.glob(EVENT_FILES))
        with reporting_write_errors(self._folder):
            # Readers take the files by their names, in which the second comes first.
            while any(self._folder.glob(EVENT_FILES.replace("*", f"{int(time.time())}.*"))):
                time.sleep(0.05)
            purge_step = len(rows) * steps + 1 if earlier else None
            self._writer = SummaryWriter(str(self._folder), purge_step=purge_step)
            if not earlier:
                settings = {key: x for key, x in flat(self._config).items() if isinstance(x, str | int | float)}
                _, session, _ = hparams(settings, {})  # TensorBoard finds the metrics by itself
                self._writer.file_writer.add_summary(session, 0)  # type: ignore[attr-defined]  # there is one now
        for row in rows if not earlier else ():
            self.on_epoch(row)

    def _write(self, tags: Mapping[str, float], step: int) -> None:
        assert self._writer
        with reporting_write_errors(self._folder):
            for tag, value in tags.items():
                self._writer.add_scalar(tag, value, step, new_style=False)
            self._writer.flush()
