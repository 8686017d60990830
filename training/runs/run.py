"""A run on disk: its folder, its files, and the lock that keeps two processes from training in the folder.

runs/lstm-study-seed0/
    config.json      the model, recipe, seed, data digest and versions; written first
    metrics.json     one row per epoch, then the summary; rewritten after every epoch
    checkpoint.pt    the state that a killed run needs to continue; deleted at the end
    best.pt          the weights of the best epoch so far
    teacher.pt       the teacher's logits, so that a killed run need not compute them again; deleted at the end
    report.html      a page about the run; written at the end
    pictures.csv     the split, label, path and pixels' digest of each of the user's own pictures

torch is imported only to read and write PyTorch's files.
"""

import csv
import fcntl
import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hangtag.errors import reason
from hangtag.extras import needs
from hangtag.printable import counted
from hangtag.training.data.dataset import Member
from hangtag.training.errors import RunMismatchError
from hangtag.training.runs.config import RunConfig, command, difference, environment, short_name

REPORT = "report.html"
RESTART_HINT = "'hangtag train' with --restart replaces the run."
# The encoding of pictures.csv also preserves file names that are not valid text.
_AS_WRITTEN: dict[str, Any] = {"encoding": "utf-8", "errors": "surrogateescape"}
_KINDS: dict[str, type] = {"model": str, "recipe": dict, "environment": dict, "epochs": list, "summary": dict}
_FILES = ("checkpoint.pt", "teacher.pt", "best.pt", "metrics.json", "config.json", REPORT, "pictures.csv")


@contextmanager
def _reporting_write_errors(path: Path) -> Iterator[None]:
    """Turn an OSError into a RunMismatchError that names the path."""
    try:
        yield
    except OSError as error:
        raise RunMismatchError(f"{path} cannot be written ({error.strerror}).") from error


class Run:
    """A run's folder, which need not exist yet. The properties read the run's files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def all(cls, runs: Path) -> "list[Run]":
        """Return every run under a folder, sorted by name."""
        return [cls(config.parent) for config in sorted(runs.glob("*/config.json"))]

    @classmethod
    def find(cls, run: str, runs_dir: Path, *, alternative: str = "") -> "Run":
        """Find a run by its folder, by a file in the folder, by its name under runs_dir, or by its model. The name of a
        model, such as build or nets:build, stands for the model's latest finished run.

        Raises RunMismatchError if there is no such run, or if a file cannot be read. The message ends with
        ``alternative``, a sentence on what the caller accepts instead of a run.
        """
        folders = [path.parent if path.name in _FILES else path for path in (Path(run), runs_dir / run)]
        found = [cls(folder) for folder in folders if (folder / "config.json").is_file()]
        known = [] if found else cls.all(runs_dir)
        of_model = [one for one in known if not one.trouble and run in (one.model, short_name(one.model))]
        finished = [one for one in of_model if "summary" in one.metrics]
        found += sorted(finished, key=lambda one: (one.folder / "metrics.json").stat().st_mtime)[-1:]
        if not found:
            names = ", ".join(one.folder.name for one in known) or "none"
            raise RunMismatchError(
                f"no finished run {run!r}: it is not a run's folder, and {runs_dir} has no such run or model (runs "
                f"there: {names}). Train one with: hangtag train MODEL" + (f". {alternative}" if alternative else "")
            )
        if found[0].trouble:
            raise RunMismatchError(found[0].trouble)
        return found[0]

    @property
    def config(self) -> dict[str, Any]:
        """The content of config.json. Raises RunMismatchError if the file is missing or is not a run's config."""
        config = _read_json(self.folder / "config.json")
        if "model" in config and "recipe" in config:
            return config
        raise RunMismatchError(f"{self.folder / 'config.json'} lacks the model or the recipe. {RESTART_HINT}")

    @property
    def metrics(self) -> dict[str, Any]:
        """The content of metrics.json; before the first epoch, an empty list of epochs. Raises RunMismatchError if the
        file is damaged."""
        return {"epochs": []} | (_read_json(self.folder / "metrics.json") if self.has("metrics.json") else {})

    @property
    def trouble(self) -> str | None:
        """The reason why config.json or metrics.json is not a readable file of a run, or None."""
        try:
            _ = self.config, self.metrics
        except RunMismatchError as error:
            return str(error)
        return None

    @property
    def model(self) -> str:
        return str(self.config["model"])

    def require_finished(self) -> None:
        """Raise RunMismatchError unless the folder holds a run that was trained to its end."""
        if not self.has("config.json"):
            raise RunMismatchError(f"{self.folder} is not a run's folder: it holds no config.json.")
        if "summary" not in self.metrics:
            epochs = counted(len(self.metrics["epochs"]), "epoch", "epochs")
            raise RunMismatchError(f"{self.folder} is not finished ({epochs} so far). Continue with: {self.command()}")

    def command(self) -> str:
        return command(self.config, self.folder)

    def start(self, config: RunConfig, members: Sequence[Member] = ()) -> None:
        """Write this config, and the records of the user's own pictures, into the folder. If the folder already holds
        this run, update the paths in its config.json. Raises RunMismatchError for a folder that holds other files or
        cannot be written."""
        self.require_fitting(config, members)
        requested = config.as_json()
        stored = self.config if self.has("config.json") else {}
        updated = requested | {"environment": stored.get("environment", {}) if stored else environment()}
        if json.dumps(updated) != json.dumps(stored):
            self.write_json("config.json", updated)
        if members and not self.has("pictures.csv"):
            with self._replacing("pictures.csv") as temporary, temporary.open("w", newline="", **_AS_WRITTEN) as file:
                csv.writer(file).writerows([Member._fields, *members])

    def require_fitting(self, config: RunConfig, members: Sequence[Member] = ()) -> None:
        """Raise RunMismatchError if the folder holds another run, or files of an unknown run."""
        if not self.has("config.json"):
            if orphans := [name for name in _FILES if self.has(name)]:
                raise RunMismatchError(
                    f"{self.folder} holds {' and '.join(orphans)} but no config.json, so it is unknown which run they "
                    "belong to. Choose another --out, or add --restart to replace the files."
                )
            return
        stored, requested = self.config, config.as_json()
        _ = self.metrics  # a damaged file must be reported before the training
        if other := difference(stored, requested, self.members(), members):
            raise RunMismatchError(
                f"{self.folder} holds a run {other}. Choose another --out, or add --restart to replace the run."
            )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Create the folder, and keep other processes from training in it. The kernel releases the lock if this process
        dies. Raises RunMismatchError if another process holds the lock."""
        with _reporting_write_errors(self.folder):
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
        """Delete only this run's files. Raises RunMismatchError if another process trains in the folder."""
        with self.lock(), _reporting_write_errors(self.folder):
            for name in _FILES:
                (self.folder / name).unlink(missing_ok=True)
                (self.folder / f"{name}.tmp").unlink(missing_ok=True)

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Replace a JSON file, such as metrics.json. Raises RunMismatchError if the folder cannot be written."""
        with self._replacing(name) as temporary:
            temporary.write_text(json.dumps(value, indent=1) + "\n")

    def save(self, name: str, state: Mapping[str, Any]) -> None:
        """Replace one of PyTorch's files, such as best.pt. Raises RunMismatchError if the folder cannot be written."""
        import torch

        with self._replacing(name) as temporary, temporary.open("wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())

    def load(self, name: str) -> dict[str, Any]:
        """Load one of PyTorch's files, such as best.pt, to the CPU. Raises RunMismatchError if the file is missing or
        damaged, and MissingExtraError if torch is not installed."""
        with needs("train", "reading the weights of a run"):
            import torch
        path = self.folder / name
        try:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()  # torch.load does not verify the archive's checksums
            if damaged is not None:
                raise ValueError(f"{damaged} does not match its checksum")  # noqa: TRY301  # as torch.load's errors
            state = torch.load(path, map_location="cpu", weights_only=True)
            if not isinstance(state, dict):
                raise TypeError("it holds no state")  # noqa: TRY301
        except Exception as error:  # torch.load raises many kinds of exceptions for a damaged file
            # Only the first line is shown, because PyTorch's other lines advise the user to run code from the file.
            first = next(iter(str(error).splitlines()), type(error).__name__)
            why = reason(error) if isinstance(error, OSError) else first
            raise RunMismatchError(f"{path} cannot be read as a checkpoint ({why}). {RESTART_HINT}") from error
        return state

    def members(self) -> Sequence[Member]:
        """Return the records of the user's own pictures. Raises RunMismatchError if pictures.csv cannot be read."""
        path = self.folder / "pictures.csv"
        if not path.is_file():
            return ()
        try:
            with path.open(newline="", **_AS_WRITTEN) as file:
                return [Member(**row) for row in csv.DictReader(file)]
        except (OSError, csv.Error, TypeError) as error:
            raise RunMismatchError(f"{path} is not a list of pictures. {RESTART_HINT}") from error

    def has(self, name: str) -> bool:
        """Return whether the folder holds this file."""
        return (self.folder / name).is_file()

    @contextmanager
    def _replacing(self, name: str) -> Iterator[Path]:
        """Yield a temporary path, whose file then replaces the file ``name`` in one step."""
        path = self.folder / name
        with _reporting_write_errors(path):
            yield path.with_name(f"{name}.tmp")
            path.with_name(f"{name}.tmp").replace(path)


def _read_json(path: Path) -> dict[str, Any]:
    """Read a run's JSON file. Raises RunMismatchError if it is missing, unreadable, or not a JSON object of a run."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise RunMismatchError(f"{path} cannot be read ({reason(error)}). {RESTART_HINT}") from error
    if not isinstance(value, dict) or not all(isinstance(value.get(key, kind()), kind) for key, kind in _KINDS.items()):
        raise RunMismatchError(f"{path} is not a JSON object of a run. {RESTART_HINT}")
    return value
