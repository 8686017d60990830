"""The settings of a run. Each setting is an option of ``hangtag train``, declared here or in data/sources.py."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from hangtag.options import AN_EXISTING_FILE
from hangtag.settings import declared_settings, flag_of, setting
from hangtag.training.catalog import MULTI_LABEL_NETWORKS, RECIPE_NAMES, dataset_for, entry
from hangtag.training.data import sources
from hangtag.training.data.sources import DataOptions
from hangtag.training.errors import SettingsError
from hangtag.training.networks import own
from hangtag.training.recipes import PICTURES, Recipe, changed


@dataclass(frozen=True)
class TrainSettings(DataOptions):
    """The settings of one run. None stands for the default that ``hangtag train --help`` names. Raises SettingsError if
    a setting cannot be used here, or if settings contradict each other."""

    model: str  # a key of catalog.NETWORKS, package.module:callable, or timm:NAME
    recipe: str | None = setting(
        None,
        "The training recipe. study: the settings of the study. best: for the highest accuracy. pictures: for your "
        "own pictures. teacher: for networks that teach others. same-view: longer than best, with teachers that see "
        "the same augmented images. multi-label: for several labels.  [default: 'pictures' for your own data, "
        "otherwise the first of 'study', 'teacher' and 'multi-label' that MODEL has]",
        choices=RECIPE_NAMES,
    )
    changes: tuple[str, ...] = setting(
        (),
        "Change a hyperparameter of the recipe, such as learning_rate=3e-3, flip=true or dropout=0.3. A wrong name "
        "causes an error that lists all names. Repeatable.",
        flag="--set",
        metavar="NAME=VALUE",
    )
    epochs: int | None = setting(None, "The number of epochs, instead of the recipe's.", between=(1, None))
    seed: int = setting(
        0,
        "The seed for initial weights, image order, dropout and augmentation.",
        between=(0, 2**32 - 1),
    )
    limit: int | None = setting(
        None,
        "For a quick trial, train on N images and validate on N: the first N of a built-in data set, or every k-th of "
        "your own pictures.",
        between=(1, None),
    )
    balance: bool = setting(False, "Weight the loss so that small and large classes count equally.")
    select: str = setting(
        "accuracy",
        "The validation figure by which to choose the best epoch. In balanced_accuracy all classes count equally.",
        choices=("accuracy", "balanced_accuracy"),
    )
    start_from: Path | None = setting(
        None,
        "Begin with the weights of an earlier run's best.pt, or of another PyTorch file. Weights whose shapes do not "
        "match are reinitialised and listed.",
        kind=AN_EXISTING_FILE,
        metavar="FILE.pt",
    )
    processes: int = setting(1, "Processes that share each batch: one per GPU, or several on CPUs.", between=(1, 64))
    threads: int | None = setting(
        None, "The CPU threads of each process.  [default: the process's share of the CPUs]", between=(1, 256)
    )
    precision: str = setting(
        "fp32",
        "The number format of the computation. bf16 is faster on hardware with bfloat16. The weights stay FP32.",
        choices=("fp32", "bf16"),
    )
    device: str = setting(
        "auto", "The device to train on. auto uses the GPU if PyTorch sees one.", choices=("auto", "cpu", "cuda")
    )
    teachers: tuple[Path, ...] = setting(
        (),
        "An exported model that teaches the network. If you pass several, the network learns from their average "
        "answers.  [default: all versions of the recipe's teacher under runs/teachers/]",
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
        "Train for a few steps, print data, network, number of steps and estimated time, but save no run.",
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
        if recipe.batch_norm and recipe.batch_size < (least := 2 * self.processes):
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
        if self.model in MULTI_LABEL_NETWORKS and (self.balance or self.select != "accuracy"):
            raise SettingsError(
                f"--balance and --select cannot be used with {self.model}. These options are only for networks that "
                "predict a single label."
            )

    @property
    def command(self) -> tuple[str, ...]:
        """The arguments of ``hangtag train`` for these settings, without the run's folder."""
        words = [self.model]
        for field, _ in declared_settings(type(self)):
            value = getattr(self, field.name)
            if field.name == "seed" or not (value == field.default or field.name in ("out", "dry_run", "restart")):
                for item in value if isinstance(value, tuple) else [value]:
                    words += [flag_of(field)] if item is True else [flag_of(field), str(item)]
        return tuple(words)

    @property
    def dataset(self) -> str:
        """The name of the chosen data set, or of the network's default data set."""
        return dataset_for(self.data, self.model)

    @property
    def chosen_recipe(self) -> Recipe:
        """The chosen recipe, or the default recipe for the network and data set, with the chosen changes."""
        network = entry(self.model)
        known = {recipe.name: recipe for recipe in network.recipes}
        if network.objective is None:  # every single-label network also has the recipe for the user's own pictures
            known.setdefault(PICTURES.name, PICTURES)
        name = self.recipe or (PICTURES.name if sources.kind_of(self.dataset) else next(iter(known)))
        if name not in known:
            raise SettingsError(f"--recipe {name}: {self.model} has no such recipe. Choose from: {', '.join(known)}.")
        recipe = changed(known[name], self.changes)
        return replace(recipe, epochs=self.epochs) if self.epochs else recipe

    @property
    def chosen_device(self) -> Literal["cpu", "cuda"]:
        """The device to train on: for "auto", a GPU if PyTorch sees one."""
        return "cuda" if self.device == "cuda" or (self.device == "auto" and torch.cuda.is_available()) else "cpu"
