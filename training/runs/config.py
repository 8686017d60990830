"""The config of a run: everything that determines the result of the run. config.json also holds the environment.

This module does not import torch, so that ``hangtag runs`` starts fast.
"""

import hashlib
import json
import platform
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from hangtag.serving.image_spec import ImageSpec
from hangtag.training.data.dataset import Member
from hangtag.training.data.pictures import OwnPictures
from hangtag.training.data.sources import kind_of
from hangtag.training.recipes import Recipe
from hangtag.training.runs.run_data import changes


@dataclass(frozen=True)
class WeightsFile:
    """A teacher's ONNX file, or weights to start from. The content, and not the path, identifies the file."""

    digest: str  # the first 12 digits of the file's SHA-256
    path: str = field(compare=False)

    @classmethod
    def of(cls, path: Path) -> "WeightsFile":
        return cls(hashlib.sha256(path.read_bytes()).hexdigest()[:12], str(path))


@dataclass(frozen=True)
class RunConfig:
    """The config of a run. Two runs with equal configs on one machine end with equal weights. Paths and the command are
    stored too, but are never compared."""

    model: str
    recipe: Recipe
    seed: int
    data_digest: str
    limit: int | None
    precision: str  # the training arithmetic: "fp32", or "bf16" for autocast; the weights are always FP32
    threads: int
    device: str  # "cpu" or "cuda"
    processes: int = 1  # the world size
    dataset: str = "fashion-mnist"
    teachers: tuple[WeightsFile, ...] = ()  # the run learns from the average of their logits
    balance: bool = False  # whether the loss weights the classes equally
    select: str = "accuracy"  # the validation figure that chooses the best epoch
    start_from: WeightsFile | None = None  # the weights at the start; None: random weights
    image: ImageSpec | None = None  # the form of the user's own pictures; None: the data set's own form
    pictures: OwnPictures | None = None  # how the user's own pictures were divided and prepared
    data_dir: str | None = field(default=None, compare=False)  # None: the data set's usual place
    command: tuple[str, ...] = field(default=(), compare=False)  # arguments of ``hangtag train``, without the folder

    def as_json(self) -> dict[str, Any]:
        """Return the content of config.json: dictionaries, lists, strings and numbers."""
        stored: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return stored


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a config's settings by their full names. {"recipe": {"epochs": 10}} becomes {"recipe.epochs": 10}."""
    result: dict[str, Any] = {}
    for key, item in value.items():
        result |= flat(item, f"{prefix}{key}.") if isinstance(item, dict) else {f"{prefix}{key}": item}
    return result


# Defaults for keys that older config.json files lack.
_DEFAULTS = flat(
    RunConfig("", Recipe("", 0, 0, 0.0), 0, "", limit=None, precision="", threads=0, device="").as_json()
) | {"recipe.distillation.views": 0}
_NOT_COMPARED = {"teachers", "threads", "data_dir", "start_from.path", "command", "environment", "tensorboard", "sizes"}
"""Settings and sections of config.json that do not change a run's weights. Some names are from earlier releases."""


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that determine a run's results, by full name, from the config.json that any release wrote. A
    run may continue with another number of threads, and with its teachers in another order."""
    files = config.get("teachers")
    digests = sorted(str(file.get("digest")) for file in files) if isinstance(files, list) else []
    values = _DEFAULTS | flat(config) | {"teacher": " and ".join(digests) or None}
    if ":" in str(values.get("dataset")):  # the user's own pictures are compared by digest, not by folder
        values["dataset"] = str(values["dataset"]).partition(":")[0]
    return {key: value for key, value in values.items() if not {key, key.partition(".")[0]} & _NOT_COMPARED}


def difference(
    stored: Mapping[str, Any], requested: Mapping[str, Any], recorded: Sequence[Member], members: Sequence[Member]
) -> str | None:
    """Describe how a stored run differs from a requested run, such as "with another seed (seed: 0 there, 1 requested)".
    Returns None if both runs have the same results."""
    there, here = identity(stored), identity(requested)
    keys = [key for key in here | there if there.get(key) != here.get(key)]
    if not keys:
        return None
    if any(key.startswith("pictures.") for key in keys):  # these settings cause all other differences of the pictures
        keys = [key for key in keys if key != "data_digest" and not key.startswith("image.")]
    elif "data_digest" in keys and requested.get("pictures"):
        return f"on other pictures: {changes(recorded, members)}"
    if "model" in keys or "recipe.name" in keys:
        # Most of the recipe's settings differ too, so listing them would add nothing to the message.
        keys = [key for key in keys if key == "recipe.name" or not key.startswith("recipe.")]
    values = (f"{key}: {there.get(key)} there, {here.get(key)} requested" for key in keys)
    return f"with another {' and '.join(keys)} ({', '.join(values)})"


def key_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the values that identify a run, in its config.json and in the configs of its exported files."""
    return tuple(str(flat(config).get(key)) for key in ("model", "seed", "environment.created", "recipe.epochs"))


def command(config: Mapping[str, Any], out: Path | None = None) -> str:
    """Return the command that trains a run with this config, in the folder ``out`` if it is given. If the config holds
    no command, as in exported files and in earlier releases, the command is built from the main settings."""
    words = list(config.get("command") or ())
    if not words:
        dataset = config.get("dataset", "fashion-mnist")
        options = {
            "--data": None if dataset == "fashion-mnist" else dataset,
            "--data-dir": config.get("data_dir"),
            "--recipe": config["recipe"].get("name"),
            "--epochs": config["recipe"].get("epochs") if out else None,
            **{f"--{name}": config.get(name) for name in ("seed", "limit", "threads", "precision", "device")},
        }
        words = [config["model"]]
        words += [word for name, value in options.items() if value is not None for word in (name, str(value))]
        words += [word for file in config.get("teachers") or () for word in ("--teacher", file["path"])]
    return shlex.join(["hangtag", "train", *words, *(["--out", str(out)] if out else [])])


def portable(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of config.json for publication, without this machine's folders. An absolute path is shortened
    to its last three parts, such as resnet/1/model.onnx."""
    published = {key: _shortened(value) for key, value in config.items()}
    if kind_of(dataset := str(config.get("dataset", "fashion-mnist"))):
        published["dataset"] = f"{dataset.partition(':')[0]}:{Path(dataset.partition(':')[2]).name}"
    return published | {"data_dir": None, "command": []}


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shortened(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shortened(item) for item in value]
    return "/".join(Path(value).parts[-3:]) if isinstance(value, str) and Path(value).is_absolute() else value


def short_name(network: str) -> str:
    """Return a network's name for folders and models, such as resnet18 for timm:resnet18, or build for nets:build."""
    return network.rpartition(":")[2].replace(".", "-").lower()


def short_dataset(dataset: str) -> str:
    """Return a data set's name without its folder, such as photos for folder:/home/ann/photos."""
    return Path(dataset.partition(":")[2]).stem if kind_of(dataset) else dataset


def environment() -> dict[str, str]:
    """Return the versions, the source revision and the current time, which are never compared."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
        "numpy": metadata.version("numpy"),
        "git_revision": git_revision(),
    }


def git_revision() -> str:
    """Return the checkout's commit, with "-dirty" if tracked files differ from it, or "unknown" outside a checkout."""
    folder = Path(__file__).parent
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty", "--match=", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
