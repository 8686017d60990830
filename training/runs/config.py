"""The config of a run: everything that decides its outcome. It is stored as config.json, with the run's environment.

Needs no torch, so that ``hangtag runs`` starts fast.
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
from hangtag.training.runs.data import changes


@dataclass(frozen=True)
class WeightsFile:
    """A teacher's ONNX file, or weights to start from. Its content identifies the file, wherever it is."""

    digest: str  # the first 12 hexadecimal digits of the file's SHA-256
    path: str = field(compare=False)

    @classmethod
    def of(cls, path: Path) -> "WeightsFile":
        return cls(hashlib.sha256(path.read_bytes()).hexdigest()[:12], str(path))


@dataclass(frozen=True)
class RunConfig:
    """Two runs of equal configs on one machine end with equal weights.

    Paths and the command that continues the run are stored too, and never compared.
    """

    model: str
    recipe: Recipe
    seed: int
    data_digest: str
    limit: int | None
    precision: str  # of the training arithmetic: "fp32", or "bf16" for autocast; the weights are FP32 either way
    threads: int
    device: str  # "cpu" or "cuda"
    processes: int = 1  # the world size
    dataset: str = "fashion-mnist"
    teachers: tuple[WeightsFile, ...] = ()  # the run learns from the average of their logits
    balance: bool = False  # whether classes are weighed
    select: str = "accuracy"  # the validation figure that chooses the best epoch
    start_from: WeightsFile | None = None  # None: fresh weights
    image: ImageSpec | None = None  # of the user's own pictures; None: the data set's own
    pictures: OwnPictures | None = None  # how they were divided and prepared
    sizes: Mapping[str, int] | None = None  # how many pictures each split has
    data_dir: str | None = field(default=None, compare=False)  # None: the data set's usual place
    command: tuple[str, ...] = field(default=(), compare=False)  # arguments of ``hangtag train``, without the folder

    def as_json(self) -> dict[str, Any]:
        """The content of config.json: dictionaries, lists, strings and numbers."""
        stored: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return stored


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A config's settings by their full names: {"recipe": {"epochs": 10}} as {"recipe.epochs": 10}."""
    result: dict[str, Any] = {}
    for key, item in value.items():
        result |= flat(item, f"{prefix}{key}.") if isinstance(item, dict) else {f"{prefix}{key}": item}
    return result


# Defaults for keys that older config.json files lack.
_DEFAULTS = flat(
    RunConfig("", Recipe("", 0, 0, 0.0), 0, "", limit=None, precision="", threads=0, device="").as_json()
) | {"recipe.distillation.views": 0}
_NOT_COMPARED = ("teachers", "threads", "data_dir", "start_from.path", "command")
_OF_EARLIER_RELEASES = ("tensorboard",)
"""Keys of config.json that have no effect, and that hangtag no longer writes."""


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """What two runs of equal outcome have in common, flat, whichever release wrote their config.json.

    The environment, paths, the log and the number of threads are left out: threads change how sums are rounded, but a
    run that a busy machine slows down may continue with fewer threads. Teachers count by their content, in any order.
    """
    files = config.get("teachers")
    digests = sorted(str(file.get("digest")) for file in files) if isinstance(files, list) else []
    values = _DEFAULTS | flat(config) | {"teacher": " and ".join(digests) or None}
    if ":" in str(values.get("dataset")):  # own pictures count by their digest, wherever their folder is
        values["dataset"] = str(values["dataset"]).partition(":")[0]
    return {
        key: value
        for key, value in values.items()
        if key not in (*_NOT_COMPARED, *_OF_EARLIER_RELEASES) and key.partition(".")[0] not in ("environment", "sizes")
    }


def differing(stored: Mapping[str, Any], requested: Mapping[str, Any]) -> list[str]:
    """The settings that make two runs of these configs end differently, by their full names."""
    there, here = identity(stored), identity(requested)
    return [key for key in here | there if there.get(key) != here.get(key)]


def what_differs(
    keys: Sequence[str],
    stored: Mapping[str, Any],
    requested: Mapping[str, Any],
    recorded: Sequence[Member] = (),
    members: Sequence[Member] = (),
) -> str:
    """How a stored run differs from a requested run, in words: with another seed (seed: 0 there, 1 requested).

    Args:
        keys: The settings that differ.
        stored: The config of the stored run.
        requested: The config of the requested run.
        recorded: The stored run's own pictures, if they are known.
        members: The requested run's own pictures.
    """
    if loss := gone_loss(stored):
        return f"with {loss}"
    if any(key.startswith("pictures.") for key in keys):  # all other differences of the pictures follow from these
        keys = [key for key in keys if key != "data_digest" and not key.startswith("image.")]
    elif "data_digest" in keys and requested.get("pictures"):
        return f"on other pictures: {changes(stored, requested['sizes'], recorded, members)}"
    if "model" in keys or "recipe.name" in keys:
        # Then most of the recipe's settings differ too, so listing them would add nothing to the message.
        keys = [key for key in keys if key == "recipe.name" or not key.startswith("recipe.")]
    there, here = identity(stored), identity(requested)
    values = (f"{key}: {there.get(key)} there, {here.get(key)} requested" for key in keys)
    return f"with another {' and '.join(keys)} ({', '.join(values)})"


def gone_loss(config: Mapping[str, Any]) -> str | None:
    """The loss of an earlier release's run that minimised another one than the cross-entropy, in words; else None."""
    name = identity(config).get("loss.name")
    return f"--loss {name}, which only releases up to 0.2.1 can continue" if name else None


def key_of(config: Mapping[str, Any]) -> tuple[object, ...]:
    """What a run's config.json and the config in an exported file have in common, and other runs do not."""
    created, epochs = config.get("environment", {}).get("created"), config.get("recipe", {}).get("epochs")
    return (config.get("model"), config.get("seed"), created, epochs)


def command(config: Mapping[str, Any], out: Path | None = None) -> str:
    """The command that trains a run with this config. Raises KeyError or TypeError if ``config`` is not a config.

    Args:
        config: The content of config.json, or of an exported file. Without a command, as in exported files and in
            earlier releases, it is built from the settings that matter.
        out: The run's folder; None for a command for any machine.
    """
    words = list(config.get("command", ()))
    if not words:
        dataset = config.get("dataset", "fashion-mnist")
        options = {
            "--data": None if dataset == "fashion-mnist" else dataset,
            "--data-dir": config.get("data_dir"),
            "--recipe": config["recipe"]["name"],
            "--epochs": config["recipe"]["epochs"] if out else None,
            **{f"--{name}": config.get(name) for name in ("seed", "limit", "threads", "precision", "device")},
        }
        words = [
            config["model"],
            *(word for name, value in options.items() if value is not None for word in (name, str(value))),
        ]
        words += [word for file in config.get("teachers", ()) for word in ("--teacher", file["path"])]
    return shlex.join(["hangtag", "train", *words, *(["--out", str(out)] if out else [])])


def portable(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json's content to publish, without this machine's folders.

    An absolute path is shortened to its last three parts, such as resnet/1/model.onnx.
    """
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
    """A name for folders and models, such as resnet18 for timm:resnet18, or build for nets:build."""
    return network.rpartition(":")[2].replace(".", "-").lower()


def short_dataset(dataset: str) -> str:
    """A data set's name without its folder, such as photos for folder:/home/ann/photos."""
    return Path(dataset.partition(":")[2]).stem if kind_of(dataset) else dataset


def environment() -> dict[str, str]:
    """The versions, the source revision and the present time, which are never compared."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
        "numpy": metadata.version("numpy"),
        "git_revision": git_revision(),
    }


def git_revision() -> str:
    """The checkout's commit, with "-dirty" if tracked files differ from it; "unknown" outside a checkout."""
    folder = Path(__file__).parent
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty", "--match=", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
