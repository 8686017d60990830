"""The settings of a run. Each setting is an option of ``hangtag train``, declared here or in data/data_options.py."""

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
        SettingsError: A setting cannot be used here, or settings contradict each other.

    Example:
        >>> TrainSettings("lstm", limit=2000, epochs=1, out=Path("runs/trial"))
        >>> TrainSettings("cnn", data="folder:photos", changes=("learning_rate=3e-3",))
    """

    model: str
    """A key of catalog.NETWORKS, package.module:callable, or timm:NAME."""
    recipe: str | None = setting(
        None,
        "The training recipe: study (as in the study), best (for the highest accuracy), pictures (for your own "
        "pictures), teacher (to teach other networks), same-view (longer than best, from a teacher that sees the same "
        "augmented images) or multi-label (for several labels).  [default: pictures for your own pictures, otherwise "
        "the first of study, teacher and multi-label that MODEL has]",
        choices=RECIPE_NAMES,
    )
    changes: tuple[str, ...] = setting(
        (),
        "Change a hyperparameter of the recipe, such as learning_rate=3e-3, flip=true or dropout=0.3. The error "
        "for a wrong name lists all names. Repeatable.",
        flag="--set",
        metavar="NAME=VALUE",
    )
    epochs: int | None = setting(None, "Replace the recipe's number of epochs.", between=(1, None))
    seed: int = setting(0, "The seed for initial weights, order, dropout and augmentation.", between=(0, 2**32 - 1))
    limit: int | None = setting(
        None,
        "For quick trials, use only the first N training and N validation images, or N evenly spaced ones of "
        "your own pictures.",
        between=(1, None),
    )
    balance: bool = setting(False, "Weight the loss so that classes of different sizes count equally.")
    select: str = setting(
        "accuracy",
        "The validation figure that chooses the best epoch. In balanced_accuracy all classes count equally.",
        choices=("accuracy", "balanced_accuracy"),
    )
    start_from: Path | None = setting(
        None,
        "Begin with the weights of an earlier run's best.pt, or of another PyTorch file. Weights of another shape "
        "stay freshly initialised and are listed.",
        kind=AN_EXISTING_FILE,
        metavar="FILE.pt",
    )
    processes: int = setting(1, "The number of processes that share every batch, one for each GPU.", between=(1, 64))
    threads: int | None = setting(
        None, "The CPU threads of each process.  [default: the process's share of the CPUs]", between=(1, 256)
    )
    precision: str = setting(
        "fp32",
        "The arithmetic of training. bf16 is faster on hardware with bfloat16. The weights stay FP32.",
        choices=("fp32", "bf16"),
    )
    device: str = setting(
        "auto", "The device to train on. auto uses the GPU if PyTorch sees one.", choices=("auto", "cpu", "cuda")
    )
    teachers: tuple[Path, ...] = setting(
        (),
        "The exported model to learn from, if the recipe has a teacher. Repeatable: the network learns from the "
        "average.  [default: all versions of the recipe's teacher under runs/teachers/]",
        flag="--teacher",
        metavar="FILE.onnx",
    )
    out: Path | None = setting(
        None,
        "The run's folder.  [default: runs/MODEL[-DATA]-RECIPE-seedSEED]",
        folder=True,
    )
    dry_run: bool = setting(
        False,
        "Train a few steps, show the run's data, network, steps and estimated time, and keep no run.",
    )
    restart: bool = setting(False, "Delete the run in the folder and start again.")

    def __post_init__(self) -> None:
        entry(self.model)
        if sources.kind_of(self.dataset) is not None and self.data_dir is not None:
            raise SettingsError(f"--data-dir: --data {self.data} already names the folder. Omit --data-dir.")
        _ = self.own_pictures  # checks the options
        if self.device == "cuda" and not torch.cuda.is_available():
            raise SettingsError("--device cuda: PyTorch sees no CUDA device here. Use --device cpu.")
        recipe = self.chosen_recipe
        if recipe.batch_norm and own.is_own(self.model):
            raise SettingsError(f"--set batch_norm=true: hangtag does not add batch normalisation to {self.model}.")
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
                    f"{' and '.join(unused)}: {self.model} has its own loss. These options are only for networks "
                    "that predict a single label."
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
        """The name of the chosen data set, or of the network's default data set."""
        return dataset_for(self.data, self.model)

    @property
    def chosen_recipe(self) -> Recipe:
        """The chosen or default recipe, with the chosen changes and number of epochs."""
        recipe = changed(recipe_for(self.recipe, self.model, self.dataset), self.changes)
        return replace(recipe, epochs=self.epochs) if self.epochs else recipe

    @property
    def chosen_device(self) -> Literal["cpu", "cuda"]:
        """The device to train on, which replaces "auto" by "cpu" or "cuda"."""
        return "cuda" if self.device == "cuda" or (self.device == "auto" and torch.cuda.is_available()) else "cpu"
