"""The mistakes of a run on the validation split, as its page shows them: the confusion matrix, and the worst images.

The test split is left out on purpose: who looks at its mistakes while choosing settings chooses by it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hangtag.page.images import png_address
from hangtag.training.data import fashion_mnist, sources
from hangtag.training.data.dataset import Images
from hangtag.training.errors import TrainingError
from hangtag.training.metrics.single_label import ClassFigures, per_class
from hangtag.training.runs import data
from hangtag.training.runs.overview import RunOverview

MOST_LABELS = 40
"""Of a matrix that can be read."""
_MOST_FREQUENT = 40


@dataclass(frozen=True)
class Confusion:
    """How often a label was taken for another.

    Attributes:
        counts: [true][predicted]; empty where there are more than MOST_LABELS labels.
        deepest: The count of the most frequent mistake.
        frequent: The most frequent mistakes, each as count, true label and predicted label.
        figures: Precision, recall and F1 of each label, by its name.
    """

    counts: Sequence[Sequence[int]]
    deepest: int
    frequent: Sequence[tuple[int, str, str]]
    figures: Mapping[str, ClassFigures]


@dataclass(frozen=True)
class ShownImage:
    """An image that the network is most wrong about."""

    source: str
    name: str
    caption: str


def confusion(run: RunOverview) -> Confusion | None:
    """The confusion matrix of the validation split; None for runs that have none."""
    counts, names = _validation(run).get("confusion"), labels(run)
    if not isinstance(counts, list) or len(counts) != len(names):
        return None
    mistakes = np.where(np.eye(len(names), dtype=bool), 0, counts)
    pairs = np.argsort(-mistakes, axis=None, kind="stable")[:_MOST_FREQUENT].tolist()
    places = [divmod(pair, len(names)) for pair in pairs]
    return Confusion(
        counts if len(names) <= MOST_LABELS else [],
        max(1, int(mistakes.max())),
        [(int(mistakes[true, other]), names[true], names[other]) for true, other in places if mistakes[true, other]],
        dict(zip(names, per_class(counts), strict=True)),
    )


def worst_images(run: RunOverview, validation: Images | None = None) -> tuple[list[ShownImage], str]:
    """The images with the highest loss, and a sentence that says why where there are none.

    Args:
        run: The run, whose metrics.json names the images.
        validation: The images of the validation split; None reads them from the data set's files.
    """
    worst, names = _summary(run).get("worst"), labels(run)
    if not isinstance(worst, list):
        return [], "An earlier hangtag trained this run, and did not record them."
    if validation is None:
        try:
            validation = _validation_images(run)
        except TrainingError as error:
            return [], f"The images cannot be read: {error}"
    negated = data.image(run.config).fit == "garment"
    return [
        ShownImage(
            png_address(validation[entry["image"]], negated=negated),
            f"validation image {entry['image']}",
            f"{names[entry['true']]}, "
            + (f"taken for {names[entry['predicted']]}" if entry["predicted"] != entry["true"] else "as it is,")
            + f" at {entry['probability']:.1%}; loss {entry['loss']:.2f}",
        )
        for entry in worst
    ], ""


def labels(run: RunOverview) -> Sequence[str]:
    """The names of the run's labels."""
    return data.labels(_summary(run))


def _validation_images(run: RunOverview) -> Images:
    """Read the run's validation images. Raises TrainingError as the data set's reader does."""
    folder, name = run.config.get("data_dir"), str(run.config.get("dataset", fashion_mnist.NAME))
    if sources.kind_of(name) is None:
        return fashion_mnist.load_validation(Path(folder) if folder else None).images
    return data.load(run.config).validation.images


def _summary(run: RunOverview) -> Mapping[str, object]:
    summary = run.metrics.get("summary")
    return summary if isinstance(summary, dict) else {}


def _validation(run: RunOverview) -> Mapping[str, object]:
    figures = _summary(run).get("validation")
    return figures if isinstance(figures, dict) else {}
