"""Distances between labels, which say how bad a mistake is, computed from a trained network's embeddings of them.

'Shirt' for 'T-shirt/top' is a mild mistake, 'Shirt' for 'Ankle boot' is not. The distance of labels i and j is the
cosine distance of their embeddings, scaled so that it is 0 from a label to itself and 1 for the farthest pair:

    d(i, j) = (1 - cos(w_i, w_j)) / max over k, l of (1 - cos(w_k, w_l))

CNN-RNN has a matrix of embeddings (Wang et al., CVPR 2016, U_l). In any other network, the rows of the last layer's
weights are the embeddings: a label's score is the inner product of the image's features with the label's row.

A matrix is stored as a JSON file with its provenance. The default is training/labels/distances.json.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hangtag.errors import reason
from hangtag.training.errors import LabelDistanceError

SCHEMA = "hangtag.label_distances/1"
DEFAULT_PATH = Path(__file__).with_name("distances.json")
DECIMALS = 6
_CNN_RNN_PARAMETER = "embeddings.weight"
HOW_TO_MAKE_ONE = "Write a file of distances with: hangtag labels RUN --json=FILE"

Matrix = npt.NDArray[np.float64]  # [labels, labels]


class Neighbour(NamedTuple):
    """Another label, and its distance in [0, 1]."""

    label: str
    distance: float


@dataclass(frozen=True, eq=False)
class LabelDistances:
    """A matrix of distances: matrix[i, j] in [0, 1] is the distance of labels i and j; symmetric, 0 on the diagonal.

    Raises LabelDistanceError if the matrix is not of this form. ``provenance`` names the network and its parameter.
    """

    labels: tuple[str, ...]
    matrix: Matrix
    provenance: Mapping[str, Any]

    def __post_init__(self) -> None:
        count = len(self.labels)
        if count < 2 or len(set(self.labels)) != count:
            raise LabelDistanceError(f"distances need at least two different labels, not {list(self.labels)}.")
        if self.matrix.shape != (count, count):
            raise LabelDistanceError(
                f"the matrix of distances has the shape {list(self.matrix.shape)}; its {count} labels need "
                f"{[count, count]}."
            )
        # This form of the condition refuses NaN too.
        if not ((self.matrix >= 0) & (self.matrix <= 1)).all():
            raise LabelDistanceError("distances of labels are numbers from 0 to 1; the matrix holds other values.")
        if self.matrix.diagonal().any() or not np.array_equal(self.matrix, self.matrix.T):
            raise LabelDistanceError("a matrix of distances is symmetric, with 0 from each label to itself.")

    @property
    def digest(self) -> str:
        """SHA-256 of the labels and the matrix, without the provenance."""
        return hashlib.sha256(json.dumps([self.labels, self.matrix.tolist()]).encode()).hexdigest()

    def neighbours(self, label: str) -> list[Neighbour]:
        """Every other label, the nearest first. Raises LabelDistanceError for an unknown label."""
        if label not in self.labels:
            raise LabelDistanceError(f"there is no label {label!r}; the labels are {', '.join(self.labels)}.")
        index = self.labels.index(label)
        order = np.argsort(self.matrix[index], kind="stable")
        return [Neighbour(self.labels[j], float(self.matrix[index, j])) for j in order if j != index]

    def require(self, labels: Sequence[str]) -> None:
        """Raises LabelDistanceError unless the matrix has these labels, in this order."""
        if tuple(labels) != self.labels:
            raise LabelDistanceError(
                f"the distances are of other labels ({', '.join(self.labels)}) than are needed ({', '.join(labels)}). "
                f"{HOW_TO_MAKE_ONE}"
            )

    def text(self) -> str:
        """The JSON file: schema, labels, distances [labels][labels] with one row per line, provenance."""
        document = {
            "schema": SCHEMA,
            "labels": self.labels,
            "distances": [],
            "provenance": dict(self.provenance),
        }
        rows = ",\n  ".join(json.dumps(row) for row in self.matrix.tolist())
        return json.dumps(document, indent=1).replace('"distances": []', f'"distances": [\n  {rows}\n ]', 1)


class Embeddings(NamedTuple):
    """The embeddings [labels, dim], and the name of the parameter that holds them."""

    parameter: str
    vectors: npt.NDArray[Any]

    @property
    def origin(self) -> str:
        """The kind of the embeddings, in words."""
        return "label embeddings" if self.parameter == _CNN_RNN_PARAMETER else "weights of the last layer"


def find_embeddings(parameters: Mapping[str, npt.NDArray[Any]], labels: int) -> Embeddings | None:
    """The embeddings of the labels; None if no parameter can hold them.

    CNN-RNN's embeddings are looked up by name, without END's row. For other networks they are the last float matrix
    with a row for each label.

    Args:
        parameters: The network's parameters, in the network's order.
        labels: The number of labels.
    """
    named = parameters.get(_CNN_RNN_PARAMETER)
    if named is not None:
        return Embeddings(_CNN_RNN_PARAMETER, named[:labels]) if len(named) == labels + 1 else None
    for name, value in reversed(list(parameters.items())):
        if value.ndim == 2 and len(value) == labels and np.issubdtype(value.dtype, np.floating):
            return Embeddings(name, value)
    return None


def from_embeddings(labels: Sequence[str], embeddings: npt.ArrayLike, provenance: Mapping[str, Any]) -> LabelDistances:
    """The distances of labels by their embeddings, rounded to six decimals.

    Args:
        labels: The labels' names.
        embeddings: [labels, dim].
        provenance: Stored with the matrix.

    Raises:
        LabelDistanceError: An embedding is zero or not finite, or all embeddings are parallel.
    """
    vectors = np.asarray(embeddings, np.float64)
    if vectors.ndim != 2 or len(vectors) != len(labels):
        raise LabelDistanceError(
            f"embeddings have the shape [labels, dim]; these have {list(vectors.shape)} for {len(labels)} labels."
        )
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or not lengths.all():
        raise LabelDistanceError("a label's embedding is zero or not finite: the network was not trained.")
    units = vectors / lengths
    raw = 1 - units @ units.T
    raw = (raw + raw.T) / 2  # rounding may make it asymmetric
    np.fill_diagonal(raw, 0.0)
    raw = raw.clip(min=0.0)
    if raw.max() < 1e-9:
        raise LabelDistanceError("all labels' embeddings are parallel, so they define no distances.")
    return LabelDistances(tuple(labels), np.round(raw / raw.max(), DECIMALS), provenance)


def read(path: Path) -> LabelDistances:
    """Read a file that ``hangtag labels --json`` wrote. Raises LabelDistanceError for any other file."""
    try:
        return _parse(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise LabelDistanceError(f"{path} cannot be read ({error.strerror}). {HOW_TO_MAKE_ONE}") from error
    except LabelDistanceError as error:
        raise LabelDistanceError(f"{path}: {error} {HOW_TO_MAKE_ONE}") from error
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else reason(error)
        raise LabelDistanceError(f"{path} holds no distances of labels ({why}). {HOW_TO_MAKE_ONE}") from error


def _parse(document: Any) -> LabelDistances:
    schema, labels = document["schema"], document["labels"]
    if schema != SCHEMA:
        raise ValueError(f"its schema is {schema!r}, not {SCHEMA!r}")
    if not (isinstance(labels, list) and all(isinstance(label, str) for label in labels)):
        raise TypeError("its labels are not a list of names")
    return LabelDistances(tuple(labels), np.array(document["distances"], np.float64), dict(document["provenance"]))


def default() -> LabelDistances:
    """The matrix that hangtag ships, of Fashion-MNIST's labels."""
    return read(DEFAULT_PATH)
