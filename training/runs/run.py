"""A run on disk: its folder, its files, and the lock that keeps two processes from training in it.

runs/lstm-study-seed0/
    config.json      model, recipe, seed, data digest, versions: written first
    metrics.json     one row per epoch, then the summary; rewritten after every epoch
    checkpoint.pt    what a killed run needs to continue; at the end it is deleted, unless more epochs may follow
    best.pt          the weights of the best epoch so far
    teacher.pt       with a teacher: its logits, which a killed run need not compute again; deleted as checkpoint.pt is
    report.html      the run as a page, once it is finished
    events.out.*     with --tensorboard: TensorBoard's events, one file for each time that the run was begun or resumed
"""

import fcntl
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from hangtag.training.errors import RunMismatchError
from hangtag.training.runs import overview
from hangtag.training.runs.config import RunConfig, command, environment
from hangtag.training.runs.files import (
    EVENT_FILES,
    FILES,
    RESTART_HINT,
    read_json,
    read_metrics,
    reporting_write_errors,
)
from hangtag.training.runs.identity import is_extension


class Run:
    """A run's folder, which need not exist yet.

    Example:
        >>> run = Run.find("lstm", Path("runs"))
        >>> run.read_metrics()["summary"]["test"]["accuracy"]
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def find(cls, run: str, runs_dir: Path, *, alternative: str = "") -> "Run":
        """Find a run.

        Args:
            run: A run's folder or a file in it, its name under runs_dir, or a model, for its latest finished run.
            runs_dir: The folder of runs.
            alternative: What the caller takes instead of a run, as a sentence for the end of the message.

        Raises:
            RunMismatchError: Nothing fits, or a file cannot be read; the message lists the runs that there are.
        """
        return cls(overview.find(run, runs_dir, alternative).folder)

    @property
    def model(self) -> str:
        """The model's name. Raises RunMismatchError for a config.json without one."""
        name = self.read_config().get("model")
        if not isinstance(name, str):
            raise RunMismatchError(f"{self.folder / 'config.json'} names no model. {RESTART_HINT}")
        return name

    def is_finished(self) -> bool:
        """Whether the run was trained to its end. Raises RunMismatchError if metrics.json is damaged."""
        return "summary" in self.read_metrics()

    def require_finished(self) -> None:
        """Raises RunMismatchError unless the folder holds a run that was trained to its end."""
        if not self.has("config.json"):
            raise RunMismatchError(f"{self.folder} is not a run's folder: it holds no config.json.")
        metrics = self.read_metrics()
        if "summary" not in metrics:
            count = len(metrics.get("epochs", []))
            raise RunMismatchError(
                f"{self.folder} is not finished ({count} epoch{'' if count == 1 else 's'} so far). "
                f"Continue with: {self.command()}"
            )

    def command(self) -> str:
        """The command that continues this run. Raises RunMismatchError if config.json is not a run's config."""
        try:
            return command(self.read_config(), self.folder)
        except (KeyError, TypeError) as error:
            raise RunMismatchError(f"{self.folder / 'config.json'} is not a run's config. {RESTART_HINT}") from error

    def start(self, config: RunConfig) -> None:
        """Claim the folder for this config, or confirm that it already holds a run with it. Paths are updated.

        A run that differs in its number of epochs alone goes on to the requested number, where its recipe allows it.

        Raises:
            RunMismatchError: The folder holds another run, one that cannot go on, or files of an unknown run.
            RunMismatchError: The folder cannot be written.
        """
        extended = self.require_fitting(config)
        requested = config.as_json()
        if not self.has("config.json"):
            self._write_json("config.json", requested | {"environment": environment()})
            return
        if extended:
            # The summary goes first: after a kill in between, the run is unfinished, and the same command goes on.
            self.write_metrics({"epochs": self.read_metrics().get("epochs", [])})
        stored = self.read_config()
        updated = requested | {"environment": stored.get("environment", {})}
        if json.dumps(updated) != json.dumps(stored):
            self._write_json("config.json", updated)

    def require_fitting(self, config: RunConfig) -> bool:
        """Check that ``start`` takes this config, without writing anything.

        Returns:
            Whether the folder holds this run with another number of epochs.

        Raises:
            RunMismatchError: The folder holds another run, one that cannot go on, or files of an unknown run.
        """
        if self.has("config.json"):
            done, has_checkpoint = len(self.read_metrics().get("epochs", [])), self.has("checkpoint.pt")
            return is_extension(self.folder, self.read_config(), config.as_json(), done, has_checkpoint=has_checkpoint)
        if orphans := [name for name in FILES if self.has(name)]:
            raise RunMismatchError(
                f"{self.folder} holds {' and '.join(orphans)} but no config.json, so their run is unknown. "
                "Choose another --out, or add --restart to replace it."
            )
        return False

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from training in this folder; the kernel releases the lock if this process dies.

        Creates the folder. Raises RunMismatchError if another process holds the lock.
        """
        with reporting_write_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunMismatchError(
                    f"another process is training in {self.folder}. Let it finish, or choose another --out."
                ) from error
            yield
        finally:
            os.close(descriptor)

    def erase(self) -> None:
        """Delete this run's files, and no others. Raises RunMismatchError if another process trains in the folder."""
        with self.lock(), reporting_write_errors(self.folder):
            for name in FILES:
                (self.folder / name).unlink(missing_ok=True)
                (self.folder / f"{name}.tmp").unlink(missing_ok=True)
            for file in self.folder.glob(EVENT_FILES):
                file.unlink()

    def read_config(self) -> dict[str, Any]:
        """The content of config.json. Raises RunMismatchError if it is missing or damaged."""
        return read_json(self.folder / "config.json")

    def read_metrics(self) -> dict[str, Any]:
        """The content of metrics.json; before the first epoch, no rows."""
        return read_metrics(self.folder)

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Replace metrics.json. Raises RunMismatchError if the folder cannot be written."""
        self._write_json("metrics.json", metrics)

    def save(self, name: str, state: Mapping[str, Any]) -> None:
        """Replace a file of PyTorch's, such as best.pt. Raises RunMismatchError if the folder cannot be written."""
        with self._replacing(name) as temporary, temporary.open("wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())

    def load(self, name: str) -> dict[str, Any]:
        """A saved state, on the CPU. Raises RunMismatchError if it is missing or damaged."""
        path = self.folder / name
        try:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()  # torch.load does not verify the archive's checksums
            if damaged is not None:
                raise ValueError(f"{damaged} does not match its checksum")  # noqa: TRY301  # as torch.load's errors
            state = torch.load(path, map_location="cpu", weights_only=True)
            if not isinstance(state, dict):
                raise TypeError("it holds no state")  # noqa: TRY301
        except Exception as error:  # torch.load raises all kinds of exceptions for a damaged file
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise RunMismatchError(f"{path} cannot be read as a checkpoint ({reason}). {RESTART_HINT}") from error
        return state

    def has(self, name: str) -> bool:
        """Whether the folder holds this file."""
        return (self.folder / name).is_file()

    def drop_checkpoint(self) -> None:
        """Delete checkpoint.pt and teacher.pt, which a finished run needs only to go on to more epochs."""
        for name in ("checkpoint.pt", "teacher.pt"):
            (self.folder / name).unlink(missing_ok=True)

    def _write_json(self, name: str, value: Mapping[str, Any]) -> None:
        with self._replacing(name) as temporary:
            temporary.write_text(json.dumps(value, indent=1) + "\n")

    @contextmanager
    def _replacing(self, name: str) -> Iterator[Path]:
        """A file to write, which then replaces the one of this name: a kill leaves the old one or the new one."""
        path = self.folder / name
        with reporting_write_errors(path):
            yield path.with_name(f"{name}.tmp")
            path.with_name(f"{name}.tmp").replace(path)
