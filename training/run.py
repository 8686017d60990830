"""A run on disk: what was asked (config.json), what came of it (metrics.json), and the weights.

runs/lstm-study-seed0/
    config.json      model, recipe, seed, data digest, versions: written first, never changed
    metrics.json     one row per epoch, then the summary; rewritten after every epoch
    checkpoint.pt    all that a killed run needs to go on; deleted at the end
    best.pt          the weights of the best epoch so far
"""

import json
import os
import pickle
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.errors import RunMismatchError
from training.recipes import Recipe


@dataclass(frozen=True)
class RunConfig:
    """What decides a run's outcome. Two runs of equal configs on one machine end with equal weights."""

    model: str
    recipe: Recipe
    seed: int
    data_digest: str
    limit: int | None
    precision: str  # of the training arithmetic: "fp32", or "bf16" for autocast; the weights are FP32 either way
    threads: int
    device: str

    @property
    def run_name(self) -> str:
        return f"{self.model}-{self.recipe.name}-seed{self.seed}"


class Run:
    """A run's folder. Every file is replaced as a whole, so a kill leaves the old one or the new one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def find(cls, run: str, runs_dir: Path) -> "Run":
        """A run by its folder, by its name under runs_dir, or the latest finished one of a model under runs_dir.

        Raises RunMismatchError, which says what is there, when nothing fits.
        """
        for folder in (Path(run), runs_dir / run):
            if (folder / "config.json").is_file():
                return cls(folder)
        finished = [cls(path.parent) for path in runs_dir.glob("*/metrics.json")]
        finished = [found for found in finished if found.model == run and found.is_finished()]
        if finished:
            return max(finished, key=lambda found: (found.folder / "metrics.json").stat().st_mtime)
        known = ", ".join(sorted(path.parent.name for path in runs_dir.glob("*/config.json"))) or "none"
        raise RunMismatchError(
            f"no finished run {run!r}: not a run's folder, and under {runs_dir} there is no such run or model "
            f"(runs there: {known}). Train one with: hangtag train {run}"
        )

    @property
    def model(self) -> str:
        return str(self.read_config()["model"])

    def is_finished(self) -> bool:
        return "summary" in self.read_metrics()

    def start(self, config: RunConfig) -> None:
        """Claim the folder for this config, or confirm that it already holds it.

        Raises RunMismatchError when the folder holds another run.
        """
        wanted = _plain(asdict(config))
        if (self.folder / "config.json").is_file():
            stored = self.read_config()
            differing = [key for key, value in wanted.items() if stored.get(key) != value]
            if differing:
                raise RunMismatchError(
                    f"{self.folder} holds a run with another {' and '.join(differing)} "
                    f"({', '.join(f'{key}: {stored.get(key)} there, {wanted[key]} asked' for key in differing)}). "
                    "Choose another --out, or add --restart to replace it."
                )
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write_json("config.json", wanted | {"environment": environment()})

    def erase(self) -> None:
        """Delete this run's files, and nothing else that may lie in the folder."""
        for name in ("checkpoint.pt", "best.pt", "metrics.json", "config.json"):
            (self.folder / name).unlink(missing_ok=True)

    def read_config(self) -> dict[str, Any]:
        return self._read_json("config.json")

    def read_metrics(self) -> dict[str, Any]:
        return self._read_json("metrics.json") if (self.folder / "metrics.json").is_file() else {"epochs": []}

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        self._write_json("metrics.json", metrics)

    def save(self, name: str, state: Mapping[str, Any]) -> None:
        temporary = self.folder / f"{name}.tmp"
        with temporary.open("wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.folder / name)

    def load(self, name: str) -> dict[str, Any]:
        """A saved state, on the CPU. Raises RunMismatchError when it is missing or cannot be read."""
        path = self.folder / name
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise RunMismatchError(f"{path} cannot be read as a checkpoint: {error}") from error
        return state

    def has(self, name: str) -> bool:
        return (self.folder / name).is_file()

    def drop_checkpoint(self) -> None:
        (self.folder / "checkpoint.pt").unlink(missing_ok=True)

    def _write_json(self, name: str, value: Mapping[str, Any]) -> None:
        temporary = self.folder / f"{name}.tmp"
        temporary.write_text(json.dumps(value, indent=1) + "\n")
        temporary.replace(self.folder / name)

    def _read_json(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        try:
            value: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise RunMismatchError(f"{path} cannot be read: {error}") from error
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


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(value))  # tuples become lists, as they come back from disk
    return plain
