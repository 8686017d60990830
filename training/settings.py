"""The settings of a run, as ``hangtag train`` takes them. cli.py has an option for each, with its range."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

import torch

from hangtag.training.catalog import MULTI_LABEL_NETWORKS, dataset_for, entry, recipe_for
from hangtag.training.data import sources
from hangtag.training.data.pictures import OwnPictures
from hangtag.training.errors import SettingsError
from hangtag.training.networks import own
from hangtag.training.recipes import BETA, LOSS_WEIGHT, DistanceLossName, Recipe, changed


@dataclass(frozen=True)
class TrainSettings:
    """The settings of one run. None stands for the default that ``hangtag train --help`` names.

    Raises:
        SettingsError: Values do not fit together.

    Example:
        >>> TrainSettings("lstm", limit=2000, epochs=1, out=Path("runs/trial"))
        >>> TrainSettings("cnn", data="folder:photos", changes=("learning_rate=3e-3",))
    """

    model: str  # a key of catalog.NETWORKS, package.module:callable, or timm:NAME
    data: str | None = None
    data_dir: Path | None = None
    size: str | None = None  # HEIGHTxWIDTH
    colour: bool = False
    grey: bool = False  # neither: as fits the pictures
    fit: str | None = None
    validation_share: float | None = None
    test_share: float | None = None
    split_seed: int | None = None
    recipe: str | None = None
    changes: tuple[str, ...] = ()  # of the recipe, each NAME=VALUE
    epochs: int | None = None
    seed: int = 0
    limit: int | None = None
    balance: bool = False
    select: str = "accuracy"
    start_from: Path | None = None
    processes: int = 1
    threads: int | None = None
    precision: str = "fp32"
    device: str = "auto"
    teachers: tuple[Path, ...] = ()
    loss: DistanceLossName | Literal["cross-entropy"] = "cross-entropy"
    beta: float = BETA
    loss_weight: float = LOSS_WEIGHT
    distances: Path | None = None
    out: Path | None = None
    tensorboard: bool = False
    dry_run: bool = False
    restart: bool = False

    def __post_init__(self) -> None:
        entry(self.model)
        kind = sources.kind_of(dataset_for(self.data, self.model))
        if kind is not None and self.data_dir is not None:
            raise SettingsError(f"--data-dir: --data {self.data} names the folder already.")
        _ = self.own_pictures  # checks the options
        if self.device == "cuda" and not torch.cuda.is_available():
            raise SettingsError("--device cuda: PyTorch sees no CUDA device here. Use --device cpu.")
        recipe = self.chosen_recipe
        if recipe.batch_norm and own.is_own(self.model):
            raise SettingsError(f"--set batch_norm=true: {self.model} has normalisations of its own, or none.")
        least = 2 * self.processes
        if recipe.batch_norm and recipe.batch_size < least:
            raise SettingsError(
                f"--set batch_size={recipe.batch_size}: batch normalisation needs {least} images at least in every "
                "batch. Name more, or add --set batch_norm=false."
            )
        if self.teachers and recipe.distillation is None:
            with_teacher = [f" or use --recipe {one.name}" for one in entry(self.model).recipes if one.distillation]
            raise SettingsError(
                f"--teacher {self.teachers[0]}: recipe {recipe.name} learns from the labels alone. Leave --teacher out"
                f"{''.join(with_teacher)}."
            )
        if self.model in MULTI_LABEL_NETWORKS:
            reason = f"{self.model} has a loss of its own; these options are for networks that predict a single label."
            self._require_unset("loss", "beta", "loss_weight", "distances", "balance", "select", reason=reason)
        elif self.distance_loss is None:
            reason = "the cross-entropy uses no distances; add --loss embedding-distance."
            self._require_unset("beta", "loss_weight", "distances", reason=reason)
        elif kind is not None and self.distances is None:
            raise SettingsError(f"--loss {self.loss}: name your labels' distances with --distances FILE.json.")

    def _require_unset(self, *names: str, reason: str) -> None:
        defaults = type(self).__dataclass_fields__
        if unused := [flag(name) for name in names if getattr(self, name) != defaults[name].default]:
            raise SettingsError(f"{' and '.join(unused)}: {reason}")

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
            if isinstance(value, bool):
                words.append(flag(field.name))
            else:
                words += [
                    word
                    for item in (value if isinstance(value, tuple) else [value])
                    for word in (flag(field.name), str(item))
                ]
        return tuple(words)

    @property
    def dataset(self) -> str:
        """The name of the data set: the chosen one, or the network's default."""
        return dataset_for(self.data, self.model)

    @property
    def own_pictures(self) -> OwnPictures:
        """How the user's own pictures are divided and prepared."""
        return sources.own_pictures(self.dataset, **{name: getattr(self, name) for name in sources.OPTIONS})

    @property
    def chosen_recipe(self) -> Recipe:
        """The chosen recipe, or the default, with the chosen changes and number of epochs."""
        recipe = changed(recipe_for(self.recipe, self.model, self.dataset), self.changes)
        return replace(recipe, epochs=self.epochs) if self.epochs else recipe

    @property
    def distance_loss(self) -> DistanceLossName | None:
        """The loss, if it is one that uses label distances."""
        return None if self.loss == "cross-entropy" else self.loss

    @property
    def chosen_device(self) -> Literal["cpu", "cuda"]:
        """The device, with "auto" resolved."""
        return "cuda" if self.device == "cuda" or (self.device == "auto" and torch.cuda.is_available()) else "cpu"


def flag(name: str) -> str:
    """The option of ``hangtag train`` that sets a field, such as --teacher for teachers."""
    return {"teachers": "--teacher", "changes": "--set"}.get(name, f"--{name.replace('_', '-')}")
