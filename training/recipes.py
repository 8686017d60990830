"""How a network is trained: everything that is chosen before the first step, in one frozen value."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal


@dataclass(frozen=True)
class Augmentation:
    """What is done to a training image, anew in every epoch; by default nothing."""

    flip: bool = False  # left and right, half of the time
    shift: int = 0  # by up to so many pixels each way, black moving in
    erase: float = 0.0  # probability of a rectangle of noise over 2 to 20 % of the image (Zhong et al., 2017)


@dataclass(frozen=True)
class Distillation:
    """Learning from a teacher's answers as well as from the labels (Hinton et al., 2015)."""

    teacher: str  # the model whose trained run teaches
    weight: float  # of the teacher's part in the loss; the labels get the rest
    temperature: float


@dataclass(frozen=True)
class Recipe:
    """The settings of the optimizer, the schedule and the loss. The epoch with the best validation figure is kept."""

    name: str
    batch_size: int
    epochs: int
    learning_rate: float  # with one_cycle the highest; with muon the matrices'
    optimizer: Literal["adam", "adamw", "sgd", "muon"] = "adam"  # muon: for matrices, and AdamW for the rest
    betas: tuple[float, float] = (0.9, 0.999)  # Adam's; the first is also SGD's momentum (Nesterov)
    epsilon: float = 1e-7
    weight_decay: float = 0.0
    schedule: Literal["constant", "one_cycle"] = "constant"
    ema_decay: float = 0.0  # per step, of a moving average of the weights; the average is what is kept
    batch_norm: bool = False  # while training; folded into the layer before it when the weights are kept
    dropout: float | None = None  # instead of the network's own rates
    label_smoothing: float = 0.0
    augmentation: Augmentation = field(default_factory=Augmentation)
    distillation: Distillation | None = None


# The study: Keras' Adam with its defaults (its epsilon is 1e-7 where PyTorch's is 1e-8), cross-entropy, ten epochs.
STUDY = Recipe(name="study", batch_size=32, epochs=10, learning_rate=1e-3)

# A network that others learn from, and that learns from labels alone.
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
TEACHERS = ("resnet", "cnn")

_LSTM_BEST = Recipe(
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

BEST: Mapping[str, Recipe] = {
    # The teacher knows which garments are nearly another one; that is what labels do not tell (Hinton et al., 2015).
    "cnn": replace(
        TEACHER,
        name="best",
        epochs=45,
        dropout=0.2,
        label_smoothing=0.0,
        augmentation=Augmentation(flip=True, shift=2, erase=0.5),
        distillation=Distillation(teacher="resnet", weight=0.8, temperature=2.0),
    ),
    "lstm": _LSTM_BEST,
    # Twenty times as many weights: it needs fewer epochs, and more to keep it from learning the images by heart.
    "lstm2": replace(
        _LSTM_BEST,
        batch_size=256,
        epochs=28,
        learning_rate=6e-3,
        ema_decay=0.996,
        dropout=0.2,
        augmentation=Augmentation(flip=True, shift=2),
    ),
}

# One for CNN-RNN and its baselines, so that what differs between them is the network and its loss alone.
MULTI_LABEL = Recipe(
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

MULTI_LABEL_MODELS = ("cnn_rnn", "sigmoids", "softmax_ranking", "cnn_embedding")

RECIPES = ("study", "teacher", "best", "multi-label")


def recipe_for(name: str, model: str) -> Recipe:
    """A recipe by name, as it is for this model. Raises KeyError with a message where there is none."""
    if name == "multi-label" and model in MULTI_LABEL_MODELS:
        return MULTI_LABEL
    if name == "study" and "study" in recipes_of(model):
        return STUDY
    if name == "teacher" and model in TEACHERS:
        return TEACHER
    if name == "best" and model in BEST:
        return BEST[model]
    raise KeyError(f"there is no such recipe for {model}; it has: {', '.join(recipes_of(model))}.")


def recipes_of(model: str) -> list[str]:
    """The names of the recipes that there are for a model."""
    if model in MULTI_LABEL_MODELS:
        return ["multi-label"]
    if model == "resnet":
        return ["teacher"]
    return ["study", *(["teacher"] if model in TEACHERS else []), *(["best"] if model in BEST else [])]


def default_recipe(model: str) -> str:
    """The recipe of a model where none was named."""
    return recipes_of(model)[0]
