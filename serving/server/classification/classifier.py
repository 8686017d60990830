"""What a classifier's outputs mean: which labels the image has, in which order, and how sure the model is of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hangtag.serving.server.errors import InferenceError, InvalidRequestError
from hangtag.serving.signature import Signature

MULTI_LABEL = "multi_label"
DEFAULT_TOP_K = 3
"""Labels told where one of them is right and the caller does not say how many it wants."""


@dataclass(frozen=True)
class LabelScore:
    """A label by its place among the model's outputs; distance from the answer's first label where the model has it."""

    index: int
    probability: float
    distance: float | None = None


@dataclass(frozen=True)
class PredictedLabels:
    """An image's labels; path_probability is that of the whole set, where the model predicts a path."""

    labels: tuple[LabelScore, ...]
    path_probability: float | None = None


@dataclass(frozen=True)
class Classifier:
    """How to ask a model that takes one picture, and how to read what it answers.

    ``single_label``, and a model that does not say: the labels are rivals. ``multi_label``: the answer is a set, as the
    output ``path``, INT64 [batch, any], lists it where there is one (places of labels in the order predicted, then -1)
    with its ``path_probability`` [batch]; else of the labels whose probability reaches the threshold, and of the most
    probable ones up to min_labels.
    """

    signature: Signature
    height: int
    width: int

    @classmethod
    def from_signature(cls, name: str, signature: Signature) -> "Classifier":
        """Raises InvalidRequestError for a model of another kind."""
        size = _picture_size(signature)
        if size is None:
            raise InvalidRequestError(
                f"{name!r} is not a classifier of pictures (it needs one UINT8 [batch, height, width] input, an output "
                "`probabilities`, and hangtag.labels in its metadata); call it with ModelInfer"
            )
        return cls(signature, *size)

    @staticmethod
    def fits(signature: Signature) -> bool:
        """Whether the model classifies pictures."""
        return _picture_size(signature) is not None

    @property
    def is_multi_label(self) -> bool:
        return self.signature.task == MULTI_LABEL

    def read(self, outputs: Mapping[str, npt.NDArray[Any]], top_k: int) -> PredictedLabels:
        """The labels of the first sample: top_k of them, or for 0 three rivals and every label of a set.

        Raises InferenceError for a path with a label that the model does not have.
        """
        probabilities = outputs["probabilities"][0]
        ranking = np.argsort(-probabilities, kind="stable")
        if not self.is_multi_label:
            return PredictedLabels(self._scores(ranking[: top_k or DEFAULT_TOP_K], probabilities, rivals=True))
        if not self._has_path:
            count = max(int((probabilities >= self.signature.threshold).sum()), self.signature.min_labels)
            return PredictedLabels(self._scores(ranking[: min(count, top_k or count)], probabilities))
        path = outputs["path"][0]
        path = path[path >= 0]
        if (path >= len(probabilities)).any():
            raise InferenceError(
                f"the model's path names label {path.max()}; it has the labels 0 to {len(probabilities) - 1}"
            )
        return PredictedLabels(
            self._scores(path[: top_k or None], probabilities), float(outputs["path_probability"][0])
        )

    @property
    def _has_path(self) -> bool:
        path, probability = self.signature.output("path"), self.signature.output("path_probability")
        if path is None or probability is None:
            return False
        return path.datatype == "INT64" and len(path.shape) == 2 and len(probability.shape) == 1

    def _scores(
        self, chosen: npt.NDArray[Any], probabilities: npt.NDArray[Any], *, rivals: bool = False
    ) -> tuple[LabelScore, ...]:
        distances = self.signature.label_distances if rivals else None
        return tuple(
            LabelScore(
                int(index), float(probabilities[index]), None if distances is None else distances[chosen[0]][index]
            )
            for index in chosen
        )


def _picture_size(signature: Signature) -> tuple[int, int] | None:
    """Height and width of the one picture that a classifier takes; None for a model of another kind."""
    probabilities = signature.output("probabilities")
    if len(signature.inputs) == 1 and probabilities and signature.labels:
        match signature.inputs[0].datatype, signature.inputs[0].shape, probabilities.shape:
            case ["UINT8", [None, int(height), int(width)], [None, int(count)]] if count == len(signature.labels):
                return height, width
    return None
