"""The images that a model is asked about: one split of its data set."""

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
    """One split, or its first images, of the data set of this name."""

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
    """The split of the data set of this name, else of the one that the subject learned from, else of its task's own.

    Raises EvaluationError for a data set that is not of the subject's task, and as the data sets themselves do.
    """
    name = name or subject.dataset or DEFAULTS[subject.task]
    if name not in DATASETS:
        raise EvaluationError(f"there is no data set {name!r}; there are {', '.join(DATASETS)}.")
    if (name == SINGLE_LABEL) != (subject.task == "single_label"):
        raise EvaluationError(f"{subject.name} is a {subject.task} model and cannot be asked about {name}.")
    if name == SINGLE_LABEL:
        garments = data.load(data_dir)
        chosen = garments.validation if split == "validation" else garments.test
        return Samples(name, split, garments.source, LABELS, chosen.first(limit))
    if name in outfits.NAMES:
        garments = data.load(data_dir)
        return Samples(name, split, garments.source, LABELS, _outfits(name, garments, split, limit))
    with needs("train", f"the data set {name}"):
        whole = datasets.load(name, data_dir)
    assert not isinstance(whole, FashionMnist)
    chosen_set = whole.validation if split == "validation" else whole.test
    return Samples(name, split, whole.source, whole.labels, chosen_set.first(limit))


def _outfits(name: str, garments: FashionMnist, split: str, limit: int | None) -> MultiLabelSplit:
    """Only what is asked for: to compose all splits takes seconds."""
    size = outfits.SIZES[split]
    source = garments.validation if split == "validation" else garments.test
    return outfits.load_split(name, split, source, min(size, limit or size))
