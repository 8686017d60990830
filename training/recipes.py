"""Recipes: every hyperparameter of a training run. catalog.py lists the recipes of each network."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from hangtag.training.errors import SettingsError


@dataclass(frozen=True)
class Augmentation:
    """Random changes to a training image, which differ from epoch to epoch. By default there are no changes."""

    flip: bool = False  # mirror the image left to right, with probability 1/2
    # The largest shift of the image in each direction, in pixels; a value below 1 is a share of the shorter edge. The
    # uncovered strip becomes black.
    shift: float = 0
    erase: float = 0.0  # probability that a rectangle of noise covers 2 to 20 % of the image (Zhong et al., 2017)


@dataclass(frozen=True)
class Distillation:
    """How a network learns from a teacher's logits as well as from the labels (Hinton et al., 2015)."""

    teacher: str  # the name of the teacher's model, if --teacher names no files
    weight: float  # the weight of the teacher in the loss; the labels have the weight 1 - weight
    temperature: float
    # The number of augmented images of each original, which both the teacher and the student see. If it is 0, the
    # teacher sees only the original image, and the student sees new augmented images in every epoch.
    views: int = 0


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of the optimizer, the schedule and the loss. The trainer keeps the weights of the epoch with the
    best validation metric."""

    name: str
    batch_size: int
    epochs: int
    learning_rate: float  # one_cycle's peak learning rate; for muon, the learning rate of the matrices
    optimizer: Literal["adam", "adamw", "sgd", "muon"] = "adam"  # muon: Muon for matrices, and AdamW for the rest
    betas: tuple[float, float] = (0.9, 0.999)  # Adam's betas; the first beta is also the Nesterov momentum of SGD
    epsilon: float = 1e-7
    weight_decay: float = 0.0
    schedule: Literal["constant", "one_cycle"] = "constant"
    # The decay, per step, of the weights' moving average, which is validated and saved. With 0, no average is computed.
    ema_decay: float = 0.0
    # Batch normalisation is used only during training, and is folded into the layers before the weights are saved.
    batch_norm: bool = False
    dropout: float | None = None  # the rate that replaces the network's own rates
    label_smoothing: float = 0.0
    augmentation: Augmentation = field(default_factory=Augmentation)
    distillation: Distillation | None = None


# The study trained for ten epochs with Keras' Adam and its defaults (Keras' epsilon is 1e-7, PyTorch's is 1e-8).
STUDY = Recipe(name="study", batch_size=32, epochs=10, learning_rate=1e-3)

# This recipe trains a network that will teach other networks. The teacher itself learns only from labels.
TEACHER = Recipe(
    name="teacher",
    batch_size=128,
    epochs=12,
    learning_rate=4e-3,
    optimizer="muon",
    epsilon=1e-8,
    weight_decay=0.1,
    schedule="one_cycle",
    ema_decay=0.995,
    batch_norm=True,
    dropout=0.3,
    label_smoothing=0.05,
    augmentation=Augmentation(flip=True, shift=2, erase=0.3),
)

# A network that sees every pixel needs more epochs, and more epochs need a larger variety of images.
FULL_RESOLUTION_TEACHER = replace(
    TEACHER, epochs=20, ema_decay=0.998, augmentation=Augmentation(flip=True, shift=2, erase=0.5)
)

# Unlike the labels, a teacher's probabilities show which garments resemble each other (Hinton et al., 2015).
CNN_BEST = replace(
    TEACHER,
    name="best",
    epochs=45,
    dropout=0.2,
    label_smoothing=0.0,
    augmentation=Augmentation(flip=True, shift=2, erase=0.5),
    distillation=Distillation(teacher="resnet", weight=0.8, temperature=2.0),
)

# A teacher's logits of the original images have two drawbacks: augmentation may hide from the student what the teacher
# saw, and over many epochs the student memorises each image's logits. With this recipe the teacher computes logits for
# exactly the images that the student sees (Beyer et al., Knowledge distillation: A good teacher is patient and
# consistent, 2022). All these logits are computed before the first epoch, because computing new logits in every step
# would take longer than the student's own computation.
CNN_SAME_VIEW = replace(
    CNN_BEST,
    name="same-view",
    epochs=90,
    distillation=Distillation(teacher="resnet-28x28-int8", weight=0.8, temperature=2.0, views=8),
)

# A network with a tenth of cnn's weights cannot memorise the images. Therefore this recipe has more epochs, a larger
# weight of the teacher in the loss, no dropout, and noise on fewer images.
CNN_SMALL_SAME_VIEW = replace(
    CNN_SAME_VIEW,
    epochs=300,
    ema_decay=0.998,
    dropout=0.0,
    augmentation=Augmentation(flip=True, shift=2, erase=0.25),
    distillation=Distillation(teacher="resnet-28x28-int8", weight=0.9, temperature=2.0, views=8),
)

LSTM_BEST = Recipe(
    name="best",
    batch_size=128,
    epochs=60,
    learning_rate=1.2e-2,
    optimizer="muon",
    epsilon=1e-8,
    weight_decay=0.1,
    schedule="one_cycle",
    ema_decay=0.998,
    dropout=0.0,
    augmentation=Augmentation(flip=True, shift=1),
    distillation=Distillation(teacher="resnet", weight=0.9, temperature=3.0),
)

# lstm2 has twenty times as many weights as lstm, so it needs fewer epochs, and more regularisation.
LSTM2_BEST = replace(
    LSTM_BEST,
    batch_size=256,
    epochs=28,
    learning_rate=6e-3,
    ema_decay=0.996,
    dropout=0.2,
    augmentation=Augmentation(flip=True, shift=2),
)

# This recipe is for the user's own pictures. These pictures are not mirrored, because a mirrored digit or traffic sign
# is wrong. If mirroring does not change the class of a picture, --set flip=true is the first change to try. The weights
# are not averaged, because a small data set has so few steps that the average would still contain the first, bad
# weights. The falling learning rate has an effect similar to averaging.
PICTURES = Recipe(
    name="pictures",
    batch_size=32,
    epochs=20,
    learning_rate=2e-3,
    optimizer="adamw",
    epsilon=1e-8,
    weight_decay=0.05,
    schedule="one_cycle",
    batch_norm=True,
    dropout=0.2,
    label_smoothing=0.05,
    augmentation=Augmentation(shift=0.06),
)

# CNN-RNN and its baselines share one recipe, so that they differ only in the network and the loss.
MULTI_LABEL_RECIPE = Recipe(
    name="multi-label",
    batch_size=128,
    epochs=5,
    learning_rate=2e-3,
    optimizer="adamw",
    epsilon=1e-8,
    weight_decay=0.02,
    schedule="one_cycle",
    batch_norm=True,
    augmentation=Augmentation(flip=True),
)


def changed(recipe: Recipe, changes: Iterable[str]) -> Recipe:
    """Return a recipe with changes of the form NAME=VALUE. The names are the fields of Recipe, Augmentation and
    Distillation. Raises SettingsError if there is no such hyperparameter, or if the value has the wrong type or is out
    of range."""
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise SettingsError(f"--set {change}: write NAME=VALUE, such as --set learning_rate=3e-3.")
        if name not in _KINDS:
            raise SettingsError(f"--set {change}: there is no such hyperparameter. Choose from {', '.join(_KINDS)}.")
        part, kind = _KINDS[name]
        if part and getattr(recipe, part) is None:
            raise SettingsError(f"--set {change}: the recipe {recipe.name} has no teacher.")
        value = {name: _parsed(name, text, kind)}
        recipe = replace(recipe, **({part: replace(getattr(recipe, part), **value)} if part else value))
    return recipe


_PARTS: dict[str, type] = {"": Recipe, "augmentation": Augmentation, "distillation": Distillation}
_KINDS: dict[str, tuple[str, Any]] = {
    name: (part, kind)
    for part, owner in _PARTS.items()
    for name, kind in get_type_hints(owner).items()
    if name not in ("name", "teacher", *_PARTS)
}
"""The hyperparameters that ``--set`` can change, each with its type and with the part of the recipe that holds it."""
_RANGES: tuple[tuple[Iterable[str], str, Callable[[float], bool]], ...] = (
    (("batch_size", "epochs", "learning_rate", "epsilon", "temperature"), "above 0", lambda number: number > 0),
    (("betas", "ema_decay", "dropout", "label_smoothing"), "at least 0 and below 1", lambda number: 0 <= number < 1),
    (("erase", "weight"), "from 0 to 1", lambda number: 0 <= number <= 1),
    (_KINDS, "0 or more", lambda number: number >= 0),
)
"""Hyperparameters, their range in words, and a function that checks a number. If a hyperparameter is in several rows,
the first row applies."""


def _parsed(name: str, text: str, kind: Any) -> Any:
    """Parse the value of a hyperparameter. Raises SettingsError if it has the wrong type, or is out of range."""
    choices = {"true": True, "false": False} if kind is bool else {one: one for one in get_args(kind)}
    pair = kind == tuple[float, float]
    expected = "two numbers, such as 0.9,0.999" if pair else "a whole number" if kind is int else "a number"
    try:
        if kind is bool or get_origin(kind) is Literal:
            expected = " or ".join(choices)
            return choices[text.lower()]
        if kind == float | None and text == "none":
            return None
        numbers = [int(text)] if kind is int else [float(part) for part in (text.split(",", 1) if pair else [text])]
        first, second = numbers if pair else (numbers[0], numbers[0])
    except (KeyError, ValueError):
        raise SettingsError(f"--set {name}={text}: {text!r} is not {expected}.") from None
    _, limits, contains = next(each for each in _RANGES if name in each[0])
    if not all(math.isfinite(number) and contains(number) for number in (first, second)):
        raise SettingsError(f"--set {name}={text}: {text} is out of range; {name} must be {limits}.")
    return (first, second) if pair else first
