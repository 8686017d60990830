"""Prepares a classifier's input, and interprets its outputs: the image's labels and their probabilities."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hangtag.serving.image_spec import Pixels
from hangtag.serving.server.classification.image_decoding import EncodedImage
from hangtag.serving.server.errors import InferenceError, InvalidRequestError
from hangtag.serving.signature import Signature

MULTI_LABEL = "multi_label"
DEFAULT_TOP_K = 3
"""Number of labels in the answer of a single-label model if the client does not set top_k."""


@dataclass(frozen=True)
class LabelScore:
    """One label of an answer.

    Attributes:
        index: The label's index in the model's ``probabilities`` and ``hangtag.labels``.
        probability: From 0 to 1.
        distance: The label's distance from the answer's first label; None if the model has no label distances.
    """

    index: int
    probability: float
    distance: float | None = None


@dataclass(frozen=True)
class PredictedLabels:
    """The labels of one image. path_probability: The probability of the whole set, if the model predicts a path."""

    labels: tuple[LabelScore, ...]
    path_probability: float | None = None


@dataclass(frozen=True)
class Classifier:
    """Knows which pictures a model accepts, and how to read the model's outputs.

    The metadata ``hangtag.task`` decides how outputs are read. In task ``single_label``, the default, exactly one label
    is right, so the answer is a ranking. In task ``multi_label`` the answer is a set of labels:

    - With an output ``path``, INT64 [batch, any], the set is the path: indices of labels in the predicted order, then
      -1. The output ``path_probability`` [batch] is the probability of that path.
    - Without an output ``path``, the set is all labels whose probability reaches the threshold, but at least the
      min_labels most probable labels.
    """

    name: str
    signature: Signature
    shape: tuple[int, ...]
    """The shape of one picture: (height, width), or (height, width, 3)."""

    @classmethod
    def from_signature(cls, name: str, signature: Signature) -> "Classifier":
        """Build the classifier of a model. name: The model's name, for the error message.

        Raises:
            InvalidRequestError: The model does not classify images.
        """
        shape = signature.picture_shape
        if shape is None:
            raise InvalidRequestError(
                f"{name!r} does not classify images (a classifier has one UINT8 input, [batch, height, width] or "
                "[batch, height, width, 3], an output `probabilities`, and hangtag.labels in its metadata); call it "
                "for inference instead"
            )
        return cls(name, signature, shape)

    @property
    def is_multi_label(self) -> bool:
        """Whether the model answers with a set of labels."""
        return self.signature.task == MULTI_LABEL

    @property
    def channels(self) -> int:
        """The number of colour channels: 1 for grey pictures, 3 for colour."""
        return self.shape[2] if len(self.shape) == 3 else 1

    def prepare(self, image: EncodedImage) -> Pixels:
        """Decode a picture, and convert it to the model's input as the model's file says.

        Returns:
            UINT8 pixels in ``shape``.

        Raises:
            InvalidRequestError: The image is empty, has another format, is damaged, or exceeds the limits for images.
                Or the model accepts another size, and the model's file does not say how to resize pictures.
            QueueFullError: Too many large images are being decoded.
        """
        height, width = self.shape[:2]
        with image.decoded(self.channels) as picture:
            if self.signature.image is not None:
                return self.signature.image.prepare(picture, whole=self.is_multi_label)
            if picture.size == (width, height):
                return np.asarray(picture)
            raise InvalidRequestError(
                f"the image has {picture.width} x {picture.height} pixels, but {self.name!r} accepts {width} x "
                f"{height}, and the model's file does not say how to resize an image. Resize the image yourself, or "
                f"record in the file how to resize images: hangtag models fit {self.name} --fit stretch|crop|pad"
            )

    def read(self, outputs: Mapping[str, npt.NDArray[Any]], top_k: int) -> PredictedLabels:
        """Read the labels of the first sample.

        Args:
            outputs: The model's outputs by name, each [batch, ...].
            top_k: The largest number of labels in the answer. 0 means DEFAULT_TOP_K labels of a ranking, or all labels
                of a set.

        Raises:
            InferenceError: The path has an index that is not a label of the model.
        """
        probabilities = outputs["probabilities"][0]
        ranking = np.argsort(-probabilities, kind="stable")
        if not self.is_multi_label:
            return PredictedLabels(self._scores(ranking[: top_k or DEFAULT_TOP_K], probabilities, with_distances=True))
        if not self._has_path:
            count = max(int((probabilities >= self.signature.threshold).sum()), self.signature.min_labels)
            return PredictedLabels(self._scores(ranking[: min(count, top_k or count)], probabilities))
        path = outputs["path"][0]
        path = path[path >= 0]
        if (path >= len(probabilities)).any():
            raise InferenceError(
                f"the model predicted label {path.max()}, but its last label is {len(probabilities) - 1}"
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
        self, chosen: npt.NDArray[Any], probabilities: npt.NDArray[Any], *, with_distances: bool = False
    ) -> tuple[LabelScore, ...]:
        distances = self.signature.label_distances if with_distances else None
        return tuple(
            LabelScore(
                int(index), float(probabilities[index]), None if distances is None else distances[chosen[0]][index]
            )
            for index in chosen
        )


def examples(signature: Signature) -> list[dict[str, str]]:
    """Read the example pictures for trying a classifier.

    ``hangtag.examples`` is a JSON list of objects, each with a label's index and a PNG file in base64.

    Returns:
        Each example's ``label`` and ``png``. If any example is malformed, the result is empty: no answer needs the
        examples.
    """
    try:
        kept = json.loads(signature.metadata.get("examples", "[]"))
        return [{"label": signature.labels[label], "png": png} for label, png in map(_read_example, kept)]
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return []


def _read_example(example: object) -> tuple[int, str]:
    match example:
        case {"label": int(label), "png": str(png)} if label >= 0:
            return label, png
    raise ValueError
