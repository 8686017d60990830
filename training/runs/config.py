"""What a run is asked for: its config, what tells two of them apart, and the command that asks for it again."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hangtag.training.catalog import recipe_for
from hangtag.training.errors import SettingsError
from hangtag.training.losses.single_label import DistanceLoss
from hangtag.training.recipes import Recipe


@dataclass(frozen=True)
class TeacherFile:
    """A model that was learned from. It is what its contents are, wherever it lies."""

    digest: str  # the start of the file's SHA-256
    path: str = field(compare=False)


@dataclass(frozen=True)
class RunConfig:
    """What decides a run's outcome. Two runs of equal configs on one machine end with equal weights.

    Where files lay is kept too, for the command that goes on with the run, and is never compared.
    """

    model: str
    recipe: Recipe
    seed: int
    data_digest: str
    limit: int | None
    precision: str  # of the training arithmetic: "fp32", or "bf16" for autocast; the weights are FP32 either way
    threads: int
    device: str
    processes: int = 1  # that shared every batch
    dataset: str = "fashion-mnist"  # its name; the digest tells its contents
    teachers: tuple[TeacherFile, ...] = ()  # whose answers are learned from too, on average
    loss: DistanceLoss | None = None  # None: the cross-entropy
    data_dir: str | None = field(default=None, compare=False)  # None: where the data set usually lies

    @property
    def run_name(self) -> str:
        loss = f"-{self.loss.name}" if self.loss else ""
        dataset = "" if self.dataset == "fashion-mnist" else f"-{self.dataset}"
        return f"{self.model}{dataset}-{self.recipe.name}{loss}-seed{self.seed}"

    def plain(self) -> dict[str, Any]:
        """As config.json has it: dictionaries, lists, strings and numbers."""
        stored: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return stored

    def command(self, out: Path | None = None) -> str:
        """See command()."""
        return command(self.plain(), out)


def command(config: Mapping[str, Any], out: Path | None = None) -> str:
    """The command that trains what a config.json asks for, whichever version of this code wrote it.

    out: the folder of a run to go on with, on the machine where it was begun; without, a command for any machine.
    """
    model, recipe = config["model"], config["recipe"]
    options: list[tuple[str, Any]] = [
        ("recipe", recipe["name"]),
        ("epochs", None if recipe["epochs"] == _own_epochs(recipe["name"], model) else recipe["epochs"]),
        ("data", _unless(config.get("dataset"), "fashion-mnist")),
        ("data-dir", config.get("data_dir") if out else None),
        ("seed", config["seed"]),
        ("limit", config["limit"]),
        ("processes", _unless(config.get("processes"), 1)),
        ("threads", config["threads"]),
        ("precision", _unless(config["precision"], "fp32")),
        ("device", config["device"]),
        *(("teacher", path) for path in _teachers(config, "path")),
    ]
    if loss := config.get("loss"):
        options += [("loss", loss["name"]), ("beta", f"{loss['beta']:g}"), ("loss-weight", f"{loss['weight']:g}")]
        options.append(("distances", loss.get("file")))
    options.append(("out", out))
    words = ["hangtag", "train", model]
    for name, value in options:
        words += [] if value is None else [f"--{name}", str(value)]
    return shlex.join(words)


def portable(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a config.json says, for other machines: without the folders in which files lay on this one.

    Of an absolute path its last three parts stay, as in resnet/1/model.onnx.
    """
    told = dict(config) | {"data_dir": None}
    if isinstance(files := config.get("teachers"), list):
        told["teachers"] = [file | {"path": _shortened(file["path"])} for file in files]
    if isinstance(loss := config.get("loss"), dict) and loss.get("file"):
        told["loss"] = loss | {"file": _shortened(loss["file"])}
    return told


def _shortened(path: str) -> str:
    return "/".join(Path(path).parts[-3:]) if Path(path).is_absolute() else path


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """What tells one run from another, as {"recipe.epochs": 10}, so that a message can name just what differs.

    Of files it is their contents: they may be moved, and teachers named in any order.
    """
    told = {key: value for key, value in config.items() if key != "environment"}
    flat = _UNSAID | _flat(told) | {"teacher": " and ".join(sorted(_teachers(config, "digest"))) or None}
    return {key: value for key, value in flat.items() if key not in ("teachers", "data_dir", "loss.file")}


def _teachers(config: Mapping[str, Any], what: str) -> list[str]:
    """The digests or the paths of the teachers' files."""
    if isinstance(config.get("teacher"), str):  # of a run that was begun before there could be several
        path, _, digest = config["teacher"].rpartition("@")
        return [{"path": path, "digest": digest}[what]]
    files = config.get("teachers")
    return [str(file.get(what)) for file in files if isinstance(file, dict)] if isinstance(files, list) else []


def _own_epochs(recipe: str, model: str) -> int | None:
    try:
        return recipe_for(recipe, model).epochs
    except (KeyError, SettingsError):
        return None


def _unless(value: Any, usual: Any) -> Any:
    return None if value == usual else value


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"recipe": {"epochs": 10}} as {"recipe.epochs": 10}."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{prefix}{key}.") if isinstance(item, dict) else {f"{prefix}{key}": item}
    return flat


# What a config.json of before means by what it does not say: the defaults of the fields that came since.
_UNSAID = _flat(
    RunConfig("", Recipe("", 0, 0, 0.0), seed=0, data_digest="", limit=None, precision="", threads=0, device="").plain()
)
