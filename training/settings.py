"""The settings of a run, each of which is an option of ``hangtag train``, declared here or in data/data_options.py."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

import torch

from hangtag.options import AN_EXISTING_FILE
from hangtag.settings import flag_of, setting
from hangtag.training.catalog import MULTI_LABEL_NETWORKS, RECIPE_NAMES, dataset_for, entry, recipe_for
from hangtag.training.data import sources
from hangtag.training.data.data_options import DataOptions
from hangtag.training.errors import SettingsError
from hangtag.training.networks import own
from hangtag.training.recipes import Recipe, changed


@dataclass(frozen=True)
class TrainSettings(DataOptions):
    """The settings of one run. None stands for the default that ``hangtag train --help`` names.

    Raises:
        SettingsError: Values do not fit together.

    Example:
        >>> TrainSettings("lstm", limit=2000, epochs=1, out=Path("runs/trial"))
        >>> TrainSettings("cnn", data="folder:photos", changes=("learning_rate=3e-3",))
    """

    model: str
    """A key of catalog.NETWORKS, package.module:callable, or timm:NAME."""
    recipe: str | None = setting(
        None,
        "How to train. study: as the study did. best: the same network for the highest accuracy. pictures: for your "
        "own pictures. teacher: to teach other networks. same-view: longer, from a teacher that sees the same "
        "augmented images. multi-label: for several labels.  [default: pictures for your own, else the first that "
        "MODEL has of study, teacher, multi-label]",
        choices=RECIPE_NAMES,
    )
    changes: tuple[str, ...] = setting(
        (),
        "Change a hyperparameter of the recipe, such as learning_rate=3e-3, batch_size=64, flip=true or dropout=0.3. "
        "A wrong name lists all names. Repeatable.",
        flag="--set",
        metavar="NAME=VALUE",
    )
    epochs: int | None = setting(None, "Replaces the recipe's number of epochs.", between=(1, None))
    seed: int = setting(0, "Decides initial weights, order, dropout and augmentation.", between=(0, 2**32 - 1))
    limit: int | None = setting(
        None,
        "Train and validate on only N images each, for quick trials: the first N, or N evenly spaced ones of your "
        "own pictures.",
        between=(1, None),
    )
    balance: bool = setting(False, "Weigh classes so that each counts the same, however many pictures it has.")
    select: str = setting(
        "accuracy",
        "The validation figure that chooses the best epoch; balanced_accuracy counts each class the same.",
        choices=("accuracy", "balanced_accuracy"),
    )
    start_from: Path | None = setting(
        None,
        "Begin with the weights of an earlier run's best.pt, or of another PyTorch file. Weights that do not fit, "
        "such as the last layer's for other labels, begin fresh and are listed.",
        kind=AN_EXISTING_FILE,
        metavar="FILE.pt",
    )
    processes: int = setting(1, "Processes that share every batch; one for each GPU.", between=(1, 64))
    threads: int | None = setting(
        None, "CPU threads of each process.  [default: the process's share of the CPUs]", between=(1, 256)
    )
    precision: str = setting(
        "fp32",
        "Arithmetic of the training steps. bf16 is faster if the CPU or GPU supports it; weights stay FP32.",
        choices=("fp32", "bf16"),
    )
    device: str = setting(
        "auto", "Where to train. auto takes the GPU if PyTorch sees one.", choices=("auto", "cpu", "cuda")
    )
    teachers: tuple[Path, ...] = setting(
        (),
        "The model to learn from, if the recipe has a teacher. Repeatable: the network learns from the average.  "
        "[default: every version of the recipe's teacher under runs/teachers/]",
        flag="--teacher",
        metavar="FILE.onnx",
    )
    out: Path | None = setting(
        None,
        "The run's folder.  [default: runs/MODEL-RECIPE-seedSEED, with other data also their name]",
        folder=True,
    )
    dry_run: bool = setting(
        False,
        "Train only a few steps, show the data, network, steps and estimated time of the run, and leave no run.",
    )
    restart: bool = setting(False, "Discard the run in the folder and start again.")

    def __post_init__(self) -> None:
        entry(self.model)
        if sources.kind_of(self.dataset) is not None and self.data_dir is not None:
            raise SettingsError(f"--data-dir: --data {self.data} names the folder already.")
        _ = self.own_pictures  # checks the options
        if self.device == "cuda" and not torch.cuda.is_available():
            raise SettingsError("--device cuda: PyTorch sees no CUDA device here. Use --device cpu.")
        recipe = self.chosen_recipe
        if recipe.batch_norm and own.is_own(self.model):
            raise SettingsError(f"--set batch_norm=true: {self.model} has its own normalisation layers, or none.")
        least = 2 * self.processes
        if recipe.batch_norm and recipe.batch_size < least:
            raise SettingsError(
                f"--set batch_size={recipe.batch_size}: batch normalisation needs at least {least} images in every "
                "batch. Give a larger number, or add --set batch_norm=false."
            )
        if self.teachers and recipe.distillation is None:
            with_teacher = [f" or use --recipe {one.name}" for one in entry(self.model).recipes if one.distillation]
            raise SettingsError(
                f"--teacher {self.teachers[0]}: recipe {recipe.name} learns only from the labels. Leave --teacher "
                f"out{''.join(with_teacher)}."
            )
        if self.model in MULTI_LABEL_NETWORKS:
            given = {"--balance": self.balance, "--select": self.select != "accuracy"}
            if unused := [flag for flag, is_given in given.items() if is_given]:
                raise SettingsError(
                    f"{' and '.join(unused)}: {self.model} has its own loss; these options are for networks that "
                    "predict a single label."
                )

    @property
    def command(self) -> tuple[str, ...]:
        """The arguments of ``hangtag train`` for these settings, without the run's folder."""
        words = [self.model]
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("model", "out", "dry_run", "restart") or (
                value == field.default and field.name != "seed"
            ):
                continue
            for item in value if isinstance(value, tuple) else [value]:
                words += [flag_of(field)] if item is True else [flag_of(field), str(item)]
        return tuple(words)

    @property
    def dataset(self) -> str:
        """The name of the chosen data set, or of the network's default."""
        return dataset_for(self.data, self.model)

    @property
    def chosen_recipe(self) -> Recipe:
        """The chosen recipe, or the default, with the chosen changes and number of epochs."""
        recipe = changed(recipe_for(self.recipe, self.model, self.dataset), self.changes)
        return replace(recipe, epochs=self.epochs) if self.epochs else recipe

    @property
    def chosen_device(self) -> Literal["cpu", "cuda"]:
        """The device, with "auto" resolved."""
        return "cuda" if self.device == "cuda" or (self.device == "auto" and torch.cuda.is_available()) else "cpu"
