"""Every setting of ``hangtag train``, declared once: type, default, check and help. cli.py makes options from it."""

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import torch

from hangtag.training.catalog import MULTI_LABEL_NETWORKS, NETWORKS, RECIPE_NAMES, build, dataset_for, recipe_for
from hangtag.training.data.datasets import DATASETS
from hangtag.training.errors import SettingsError
from hangtag.training.losses.single_label import BETA, LOSS_WEIGHT, DistanceLossName
from hangtag.training.networks.bfloat16 import cpu_computes_lstms_in_bf16, has_lstm
from hangtag.training.recipes import Recipe


@dataclass(frozen=True)
class Option:
    """The help of a setting on the command line, and the values that it takes."""

    help: str
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    excludes_minimum: bool = False
    flag: str = ""  # by default the field's name, with dashes
    metavar: str | None = None
    type: Any = str  # this and the default are taken from the field
    default: Any = None

    @property
    def repeatable(self) -> bool:
        """Whether the option may be given several times."""
        return isinstance(self.default, tuple)

    def check(self, value: Any) -> None:
        """Raises SettingsError for a value that is not one of the choices, or out of range."""
        if self.choices and value not in self.choices:
            raise SettingsError(f"{self.flag}: {value!r} is not one of {', '.join(self.choices)}.")
        if self.type is float and not math.isfinite(value):
            raise SettingsError(f"{self.flag}: {value!r} is not a finite number.")
        too_low = self.minimum is not None and (
            value <= self.minimum if self.excludes_minimum else value < self.minimum
        )
        if too_low or (self.maximum is not None and value > self.maximum):
            bounds = [f"{'above' if self.excludes_minimum else 'at least'} {self.minimum}"]
            bounds += [] if self.maximum is None else [f"at most {self.maximum}"]
            raise SettingsError(f"{self.flag}: {value} is out of range; it must be {' and '.join(bounds)}.")


@dataclass(frozen=True)
class TrainSettings:
    """The settings of one run. None stands for the default that the help names.

    Raises:
        SettingsError: A value is out of range, or values do not fit together.

    Example:
        >>> TrainSettings("lstm", limit=2000, epochs=1, out=Path("runs/trial"))
    """

    model: str  # a key of catalog.NETWORKS
    recipe: Annotated[
        str | None,
        Option(
            "How to train: as the study did, for the best accuracy in the same network, for longer from a teacher that "
            "sees the same augmented images, or to become a teacher; the networks for several labels have one of their "
            "own.  [default: the first that MODEL has of study, teacher, "
            "multi-label]",
            choices=RECIPE_NAMES,
        ),
    ] = None
    epochs: Annotated[int | None, Option("Replaces the recipe's number of epochs.", minimum=1)] = None
    data: Annotated[
        str | None,
        Option(
            "The data set to learn from.  [default: fashion-mnist; outfits for the networks for several labels]",
            choices=DATASETS,
        ),
    ] = None
    data_dir: Annotated[
        Path | None,
        Option(
            "Folder with Fashion-MNIST's IDX files, or with VOCdevkit.  "
            "[default: Debian's package for Fashion-MNIST, else a download by torchvision]"
        ),
    ] = None
    seed: Annotated[int, Option("Decides initial weights, order and dropout.", minimum=0, maximum=2**32 - 1)] = 0
    limit: Annotated[
        int | None, Option("Train on the first N images only, and validate on N: for quick trials.", minimum=1)
    ] = None
    processes: Annotated[
        int,
        Option(
            "Start this many processes, each of which computes its share of every batch; one for each GPU.",
            minimum=1,
            maximum=64,
        ),
    ] = 1
    threads: Annotated[
        int | None,
        Option("CPU threads of each process.  [default: its share of the CPUs]", minimum=1, maximum=256),
    ] = None
    precision: Annotated[
        str,
        Option(
            "Arithmetic of the training steps. bf16 is faster where the CPU or GPU has it; weights stay FP32.",
            choices=("fp32", "bf16"),
        ),
    ] = "fp32"
    device: Annotated[
        str, Option("Where to train. auto takes the GPU if PyTorch sees one.", choices=("auto", "cpu", "cuda"))
    ] = "auto"
    teachers: Annotated[
        tuple[Path, ...],
        Option(
            "The model to learn from, where the recipe has a teacher. Repeat it to learn from the average of several.  "
            "[default: every version of the recipe's teacher under runs/teachers/]",
            flag="--teacher",
            metavar="FILE.onnx",
        ),
    ] = ()
    loss: Annotated[
        str | None,
        Option(
            "The loss to minimise. The last two weigh mistakes by label distances.  [default: cross-entropy]",
            choices=("cross-entropy", *get_args(DistanceLossName)),
        ),
    ] = None
    beta: Annotated[
        float | None,
        Option(
            f"How fast a label's weight falls with its distance.  [default: {BETA:g}]", minimum=0, excludes_minimum=True
        ),
    ] = None
    loss_weight: Annotated[
        float | None,
        Option(f"The weight of the loss's part with distances.  [default: {LOSS_WEIGHT:g}]", minimum=0, maximum=1),
    ] = None
    distances: Annotated[
        Path | None,
        Option(
            "The label distances that --loss uses, as 'hangtag labels RUN --json FILE.json' writes them.  "
            "[default: the file that ships]",
            metavar="FILE.json",
        ),
    ] = None
    out: Annotated[
        Path | None,
        Option("The run's folder.  [default: runs/MODEL-RECIPE-seedSEED, with other data or another loss named too]"),
    ] = None
    tensorboard: Annotated[
        bool,
        Option("Log losses, accuracies and the learning rate for TensorBoard. Needs the extra tensorboard."),
    ] = False
    dry_run: Annotated[
        bool,
        Option(
            "Say what the run would take: data, steps, memory, and the time, from a few measured steps. Leave no run."
        ),
    ] = False
    restart: Annotated[bool, Option("Discard the run in the folder and start anew.")] = False

    def __post_init__(self) -> None:
        if self.model not in NETWORKS:
            raise SettingsError(f"there is no model {self.model!r}; there are {', '.join(NETWORKS)}.")
        for name, option in OPTIONS.items():
            value = getattr(self, name)
            for item in value if option.repeatable else (value,):
                if item is not None:
                    option.check(item)
        if self.device == "cuda" and not torch.cuda.is_available():
            raise SettingsError("--device cuda: PyTorch sees no CUDA device here. Use --device cpu.")
        if self.precision == "bf16" and self.chosen_device == "cpu" and not cpu_computes_lstms_in_bf16():
            with torch.device("meta"):  # the layers without their weights
                network = build(self.model)
            if has_lstm(network):
                raise SettingsError(
                    f"--precision bf16: PyTorch computes no LSTM in bfloat16 on this CPU, and {self.model} has one. "
                    "Use --precision fp32."
                )
        dataset_for(self.data, self.model)
        recipe = recipe_for(self.recipe, self.model)
        if self.teachers and recipe.distillation is None:
            recipes_with_teacher = [
                f" or use --recipe {other.name}" for other in NETWORKS[self.model].recipes if other.distillation
            ]
            raise SettingsError(
                f"--teacher {self.teachers[0]}: recipe {recipe.name} learns from the labels alone. Leave --teacher out"
                f"{''.join(recipes_with_teacher)}."
            )
        if self.model in MULTI_LABEL_NETWORKS:
            reason = f"{self.model} has a loss of its own; these options are for networks that predict a single label."
            self._require_unset("loss", "beta", "loss_weight", "distances", reason=reason)
        elif self.distance_loss is None:
            reason = "the cross-entropy uses no distances; add --loss embedding-distance."
            self._require_unset("beta", "loss_weight", "distances", reason=reason)

    def _require_unset(self, *names: str, reason: str) -> None:
        if unused := [OPTIONS[name].flag for name in names if getattr(self, name) is not None]:
            raise SettingsError(f"{' and '.join(unused)}: {reason}")

    @property
    def dataset(self) -> str:
        """The name of the data set: the chosen one, or the network's default."""
        return dataset_for(self.data, self.model)

    @property
    def chosen_recipe(self) -> Recipe:
        """The chosen recipe, or the network's default, with the chosen number of epochs."""
        recipe = recipe_for(self.recipe, self.model)
        return replace(recipe, epochs=self.epochs) if self.epochs else recipe

    @property
    def distance_loss(self) -> DistanceLossName | None:
        """The loss, if it is one that uses label distances."""
        return next((name for name in get_args(DistanceLossName) if name == self.loss), None)

    @property
    def chosen_device(self) -> Literal["cpu", "cuda"]:
        """The device, with "auto" resolved."""
        return "cuda" if self.device == "cuda" or (self.device == "auto" and torch.cuda.is_available()) else "cpu"


def _options() -> dict[str, Option]:
    hints = get_type_hints(TrainSettings, include_extras=True)
    options = {}
    for declared in fields(TrainSettings)[1:]:
        annotated, option = get_args(hints[declared.name])
        value_type = next((kind for kind in get_args(annotated) if isinstance(kind, type)), annotated)
        flag = option.flag or f"--{declared.name.replace('_', '-')}"
        options[declared.name] = replace(option, flag=flag, type=value_type, default=declared.default)
    return options


OPTIONS = _options()
"""The option of each field but ``model``, which is the command's argument."""
