"""A run on disk: what was asked (config.json), what came of it (metrics.json), and the weights.

runs/lstm-study-seed0/
    config.json      model, recipe, seed, data digest, versions: written first, never changed
    metrics.json     one row per epoch, then the summary; rewritten after every epoch
    checkpoint.pt    all that a killed run needs to go on; deleted at the end
    best.pt          the weights of the best epoch so far
"""

import fcntl
import json
import os
import platform
import subprocess
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hangtag.training.errors import RunMismatchError
from hangtag.training.runs.config import RunConfig, command, identity

FILES = ("checkpoint.pt", "best.pt", "metrics.json", "config.json")
RESTART_HINT = "'hangtag train' with --restart replaces the run."


class Run:
    """A run's folder. Every file is replaced as a whole, so a kill leaves the old one or the new one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def find(cls, run: str, runs_dir: Path) -> "Run":
        """A run by its folder or a file in it, by its name under runs_dir, or the latest finished one of a model there.

        Raises RunMismatchError, which says what is there, when nothing fits.
        """
        for path in (Path(run), runs_dir / run):
            folder = path.parent if path.name in FILES else path
            if (folder / "config.json").is_file():
                return cls(folder)
        finished = [cls(path.parent) for path in runs_dir.glob("*/metrics.json")]
        finished = [found for found in finished if found.model == run and found.is_finished()]
        if finished:
            return max(finished, key=lambda found: (found.folder / "metrics.json").stat().st_mtime)
        from hangtag.training.catalog import NETWORKS

        known = ", ".join(sorted(path.parent.name for path in runs_dir.glob("*/config.json"))) or "none"
        raise RunMismatchError(
            f"no finished run {run!r}: not a run's folder, and under {runs_dir} there is no such run or model "
            f"(runs there: {known}). Train one with: hangtag train {run if run in NETWORKS else 'MODEL'}"
        )

    @property
    def model(self) -> str:
        name = self.read_config().get("model")
        if not isinstance(name, str):
            raise RunMismatchError(f"{self.folder / 'config.json'} names no model. {RESTART_HINT}")
        return name

    def is_finished(self) -> bool:
        return "summary" in self.read_metrics()

    def require_finished(self) -> None:
        """Raises RunMismatchError for a folder that is no run's, and a run that was only begun, or stopped."""
        if not self.has("config.json"):
            raise RunMismatchError(f"{self.folder} is no run's folder: it holds no config.json.")
        metrics = self.read_metrics()
        if "summary" not in metrics:
            raise RunMismatchError(
                f"{self.folder} is not finished ({len(metrics.get('epochs', []))} epochs so far). "
                f"Go on with: {self.command()}"
            )

    def command(self) -> str:
        """The command that goes on with this run. Raises RunMismatchError for a config.json that tells none."""
        try:
            return command(self.read_config(), self.folder)
        except (KeyError, TypeError) as error:
            raise RunMismatchError(f"{self.folder / 'config.json'} is no run's config. {RESTART_HINT}") from error

    def start(self, config: RunConfig) -> None:
        """Claim the folder for this config, or confirm that it already holds it, whose files may have been moved since.

        Raises RunMismatchError when the folder holds another run, or files of one that nobody can tell.
        """
        wanted = config.plain()
        if self.has("config.json"):
            held = self.read_config()
            there, asked = identity(held), identity(wanted)
            differing = [key for key in asked | there if there.get(key) != asked.get(key)]
            if "model" in differing or "recipe.name" in differing:
                # Then most of the recipe's settings differ too, and tell nothing more.
                differing = [key for key in differing if key == "recipe.name" or not key.startswith("recipe.")]
            if differing:
                raise RunMismatchError(
                    f"{self.folder} holds a run with another {' and '.join(differing)} "
                    f"({', '.join(f'{key}: {there.get(key)} there, {asked.get(key)} asked' for key in differing)}). "
                    "Choose another --out, or add --restart to replace it."
                )
            now = wanted | {"environment": held.get("environment", {})}
            if json.dumps(now) != json.dumps(held):
                self._write_json("config.json", now)
            return
        orphans = [name for name in FILES if self.has(name)]
        if orphans:
            raise RunMismatchError(
                f"{self.folder} holds {' and '.join(orphans)} but no config.json, which would say of what run. "
                "Choose another --out, or add --restart to replace it."
            )
        self._write_json("config.json", wanted | {"environment": environment()})

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from training in this folder; the kernel lets go of it when this one dies.

        Creates the folder. Raises RunMismatchError when another process is at work in it.
        """
        with self._writing(self.folder):
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
        """Delete this run's files, and nothing else that may lie in the folder."""
        with self.lock(), self._writing(self.folder):
            for name in FILES:
                (self.folder / name).unlink(missing_ok=True)
                (self.folder / f"{name}.tmp").unlink(missing_ok=True)

    def read_config(self) -> dict[str, Any]:
        return self._read_json("config.json")

    def read_metrics(self) -> dict[str, Any]:
        return self._read_json("metrics.json") if self.has("metrics.json") else {"epochs": []}

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        self._write_json("metrics.json", metrics)

    def save(self, name: str, state: Mapping[str, Any]) -> None:
        temporary = self.folder / f"{name}.tmp"
        with self._writing(self.folder / name):
            with temporary.open("wb") as file:
                torch.save(dict(state), file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.folder / name)

    def load(self, name: str) -> dict[str, Any]:
        """A saved state, on the CPU. Raises RunMismatchError when it is missing or cannot be read."""
        path = self.folder / name
        try:
            return _load_checked(path)
        except Exception as error:  # what a broken file raises is anybody's guess
            raise RunMismatchError(
                f"{path} cannot be read as a checkpoint ({_first_line(error)}). {RESTART_HINT}"
            ) from error

    def has(self, name: str) -> bool:
        return (self.folder / name).is_file()

    def drop_checkpoint(self) -> None:
        (self.folder / "checkpoint.pt").unlink(missing_ok=True)

    def _write_json(self, name: str, value: Mapping[str, Any]) -> None:
        temporary = self.folder / f"{name}.tmp"
        with self._writing(self.folder / name):
            temporary.write_text(json.dumps(value, indent=1) + "\n")
            temporary.replace(self.folder / name)

    @contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunMismatchError(f"{path} cannot be written ({error.strerror}).") from error

    def _read_json(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        try:
            value = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise RunMismatchError(f"{path} cannot be read ({error}). {RESTART_HINT}") from error
        if not isinstance(value, dict):
            raise RunMismatchError(f"{path} holds no JSON object. {RESTART_HINT}")
        return value


def environment() -> dict[str, str]:
    """Where a run was made: versions, source revision, time. Recorded, never compared."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "git_revision": git_revision(),
    }


def git_revision() -> str:
    """The checkout's commit, with "-dirty" when tracked files differ from it; "unknown" outside a checkout."""
    folder = Path(__file__).parent
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty", "--match=", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _load_checked(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        broken = archive.testzip()  # torch.load takes flipped bits without a word
    if broken is not None:
        raise ValueError(f"{broken} does not match its checksum")
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise TypeError("it holds no state")
    return state


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
