"""Recipes: every hyperparameter of a training run. catalog.py says which network has which recipes."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args, get_type_hints

from hangtag.training.errors import SettingsError


@dataclass(frozen=True)
class Augmentation:
    """Random changes to a training image, different in every epoch; none by default."""

    flip: bool = False  # mirror left and right, with probability 1/2
    shift: float = 0  # the most pixels in each direction, or if below 1, the part of the shorter edge; the gap is black
    erase: float = 0.0  # probability of a rectangle of noise over 2 to 20 % of the image (Zhong et al., 2017)


@dataclass(frozen=True)
class Distillation:
    """Learning from a teacher's logits as well as from the labels (Hinton et al., 2015)."""

    teacher: str  # the model that teaches unless --teacher names files
    weight: float  # of the teacher's part in the loss; the labels' part has the rest
    temperature: float
    views: int = 0  # augmented images of each original that the teacher answers and the student sees; 0: the teacher
    # answers only the original image, and the student sees new augmented images in every epoch


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of the optimizer, the schedule and the loss. The trainer keeps the epoch that validates best."""

    name: str
    batch_size: int
    epochs: int
    learning_rate: float  # with one_cycle: the peak; with muon: of the matrices
    optimizer: Literal["adam", "adamw", "sgd", "muon"] = "adam"  # muon: Muon for matrices, AdamW for the rest
    betas: tuple[float, float] = (0.9, 0.999)  # Adam's; the first is also SGD's momentum (Nesterov)
    epsilon: float = 1e-7
    weight_decay: float = 0.0
    schedule: Literal["constant", "one_cycle"] = "constant"
    ema_decay: float = 0.0  # per step, of a moving average of the weights; the average is validated and saved
    batch_norm: bool = False  # while training; folded into the layer before it when the weights are saved
    dropout: float | None = None  # replaces the network's own rates
    label_smoothing: float = 0.0
    augmentation: Augmentation = field(default_factory=Augmentation)
    distillation: Distillation | None = None


# The study: Keras' Adam with its defaults (its epsilon is 1e-7, PyTorch's is 1e-8), cross-entropy, ten epochs.
STUDY = Recipe(name="study", batch_size=32, epochs=10, learning_rate=1e-3)

# For a network that teaches others, and learns only from labels.
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

# A network that sees every pixel has more to learn, and more epochs need more variety.
FULL_RESOLUTION_TEACHER = replace(
    TEACHER, epochs=20, ema_decay=0.998, augmentation=Augmentation(flip=True, shift=2, erase=0.5)
)

# A teacher's probabilities show which garments resemble each other; labels do not (Hinton et al., 2015).
CNN_BEST = replace(
    TEACHER,
    name="best",
    epochs=45,
    dropout=0.2,
    label_smoothing=0.0,
    augmentation=Augmentation(flip=True, shift=2, erase=0.5),
    distillation=Distillation(teacher="resnet", weight=0.8, temperature=2.0),
)

# Augmentation may hide what the teacher saw in the original image, and in many epochs a network learns the answer to
# each image by heart. Here the teacher answers exactly the images that the student sees (Beyer et al., Knowledge
# distillation: A good teacher is patient and consistent, 2022). It answers them all before the first epoch, because new
# answers in every step would take longer than the student's own computation.
CNN_SAME_VIEW = replace(
    CNN_BEST,
    name="same-view",
    epochs=90,
    distillation=Distillation(teacher="resnet-28x28-int8", weight=0.8, temperature=2.0, views=8),
)

# With a tenth of the weights a network cannot learn the images by heart. So it gets more epochs, a larger share of the
# teachers in the loss, no dropout, and noise on fewer images.
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

# lstm2 has twenty times as many weights: it needs fewer epochs, and more regularisation against overfitting.
LSTM2_BEST = replace(
    LSTM_BEST,
    batch_size=256,
    epochs=28,
    learning_rate=6e-3,
    ema_decay=0.996,
    dropout=0.2,
    augmentation=Augmentation(flip=True, shift=2),
)

# For the user's own pictures. They are not mirrored, because a mirrored digit or traffic sign is wrong. If left and
# right mean the same, --set flip=true is worth trying first. The weights are not averaged: a small data set has so few
# steps that the average would still contain the first, bad weights. The falling learning rate has the effect of an
# average.
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

# One recipe for CNN-RNN and its baselines, so that only the network and its loss differ between them.
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
    """A recipe with some hyperparameters changed.

    Args:
        recipe: The recipe.
        changes: Each NAME=VALUE, such as learning_rate=3e-3. The names are those of Recipe's fields, and of
            Augmentation's and Distillation's.

    Raises:
        SettingsError: There is no such hyperparameter, or the value is not of its kind.

    Example:
        >>> changed(STUDY, ["batch_size=64", "flip=true"]).augmentation.flip
        True
    """
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise SettingsError(f"--set {change}: write NAME=VALUE, such as --set learning_rate=3e-3.")
        if name not in _KINDS:
            raise SettingsError(f"--set {change}: there is no such hyperparameter; there are {', '.join(_KINDS)}.")
        part, kind = _KINDS[name]
        if part and getattr(recipe, part) is None:
            raise SettingsError(f"--set {change}: recipe {recipe.name} learns from no teacher.")
        value = {name: _parsed(change, text, kind)}
        recipe = replace(recipe, **({part: replace(getattr(recipe, part), **value)} if part else value))
    return recipe


_PARTS: dict[str, type] = {"": Recipe, "augmentation": Augmentation, "distillation": Distillation}
_KINDS: dict[str, tuple[str, Any]] = {
    name: (part, kind)
    for part, owner in _PARTS.items()
    for name, kind in get_type_hints(owner).items()
    if name not in ("name", *_PARTS)
}
"""The hyperparameters that ``--set`` reaches: the part of the recipe that has each, and its type."""
_READERS: dict[Any, tuple[Callable[[str], Any], str]] = {
    int: (int, "a whole number"),
    float: (float, "a number"),
    float | None: (lambda text: None if text == "none" else float(text), "a number"),
    bool: (lambda text: {"true": True, "false": False}[text.lower()], "true or false"),
    tuple[float, float]: (
        lambda text: (float(text.partition(",")[0]), float(text.partition(",")[2])),
        "two numbers, such as 0.9,0.999",
    ),
}
"""How a value of each type is read, with ValueError or KeyError for another text; and the type in words."""
_Range = tuple[str, Callable[[float], bool]]
_POSITIVE: _Range = "above 0", lambda number: number > 0
_BELOW_ONE: _Range = "from 0, and below 1", lambda number: 0 <= number < 1
_UP_TO_ONE: _Range = "from 0 to 1", lambda number: 0 <= number <= 1
_ANY: _Range = "0 or more", lambda number: number >= 0
_RANGES: dict[str, _Range] = {
    **dict.fromkeys(("batch_size", "epochs", "learning_rate", "epsilon", "temperature"), _POSITIVE),
    **dict.fromkeys(("betas", "ema_decay", "dropout", "label_smoothing"), _BELOW_ONE),
    **dict.fromkeys(("erase", "weight"), _UP_TO_ONE),
}
"""The ranges of numbers: in words, and as a test of a number."""


def _parsed(change: str, text: str, kind: Any) -> Any:
    """The value of a change. Raises SettingsError if it is not of this kind, or out of range."""
    name, words = change.partition("=")[0], get_args(kind)
    read, expected = _READERS.get(kind) or ({word: word for word in words}.__getitem__, " or ".join(map(str, words)))
    try:
        value = read(text)
    except (ValueError, KeyError):
        raise SettingsError(f"--set {change}: {text!r} is not {expected}.") from None
    limits, contains = _RANGES.get(name, _ANY)
    for number in value if isinstance(value, tuple) else (value,):
        if not isinstance(number, bool | str | None) and not (math.isfinite(number) and contains(number)):
            raise SettingsError(f"--set {change}: {text} is out of range; {name} is {limits}.")
    return value
