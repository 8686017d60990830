"""Load the images that a model is evaluated on: one split of a data set."""

from dataclasses import dataclass
from pathlib import Path

from hangtag.evaluation.errors import EvaluationError
from hangtag.evaluation.subject import Array, Subject
from hangtag.extras import needs
from hangtag.training.data import datasets, outfits
from hangtag.training.data import fashion_mnist as data
from hangtag.training.data.datasets import DATASETS, SINGLE_LABEL
from hangtag.training.data.fashion_mnist import LABELS, FashionMnist, Split
from hangtag.training.data.multi_label import MultiLabelSplit

DEFAULTS = {"single_label": SINGLE_LABEL, "multi_label": outfits.NAMES[0]}


@dataclass(frozen=True)
class Samples:
    """One split of a data set, or the first images of it."""

    dataset: str
    split: str
    source: str
    labels: tuple[str, ...]
    content: Split | MultiLabelSplit

    @property
    def images(self) -> Array:
        return self.content.images

    def __len__(self) -> int:
        return len(self.content)


def load(subject: Subject, split: str, limit: int | None, data_dir: Path | None, name: str | None) -> Samples:
    """Load a split of a data set.

    Args:
        subject: the model to evaluate.
        split: ``validation`` or ``test``.
        limit: load only so many images, the first ones.
        data_dir: the data set's folder; None is its usual places.
        name: the data set; None is the one that the subject was trained on if that is known, else its task's default.

    Raises:
        EvaluationError: there is no such data set, or it does not fit the subject's task.
        MissingExtraError: the data set needs packages that are not installed.
        TrainingError: the data set is missing or damaged.
    """
    name = name or subject.dataset or DEFAULTS[subject.task]
    if name not in DATASETS:
        raise EvaluationError(f"there is no data set {name!r}; there are {', '.join(DATASETS)}.")
    if (name == SINGLE_LABEL) != (subject.task == "single_label"):
        raise EvaluationError(f"{subject.name} is a {subject.task} model and cannot be evaluated on {name}.")
    if name == SINGLE_LABEL:
        garments, source = _garments(split, data_dir)
        return Samples(name, split, source, LABELS, garments.first(limit))
    if name in outfits.NAMES:
        garments, source = _garments(split, data_dir)
        return Samples(name, split, source, LABELS, _outfits(name, garments, split, limit))
    with needs("train", f"the data set {name}"):
        whole = datasets.load(name, data_dir)
    assert not isinstance(whole, FashionMnist)
    chosen_set = whole.validation if split == "validation" else whole.test
    return Samples(name, split, whole.source, whole.labels, chosen_set.first(limit))


def _garments(split: str, data_dir: Path | None) -> tuple[Split, str]:
    """A split of Fashion-MNIST, and the folder that it is from.

    The test images are read alone, because to decompress the training images takes most of a second.
    """
    if split == "test":
        folder = data.locate(data_dir)
        return data.load_test(folder), str(folder)
    whole = data.load(data_dir)
    return whole.validation, whole.source


def _outfits(name: str, garments: Split, split: str, limit: int | None) -> MultiLabelSplit:
    """Compose only the images needed, because composing all splits takes seconds."""
    size = outfits.SIZES[split]
    return outfits.load_split(name, split, garments, min(size, limit or size))
