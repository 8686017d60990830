"""The right answers: ONNX Runtime's own answers to the images, which are computed before the load starts."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import onnxruntime
from PIL import Image

from hangtag.serving.client import Classification
from hangtag.serving.model_repository import ROUTE_FILE, serving_versions

MODELS = ("cnn-small-int8", "cnn-int8")
FAST, ACCURATE = MODELS
ROUTE = "fast-and-accurate"
"""The cascade of MODELS, which returns FAST's answer if FAST's probability reaches a threshold."""
SHADOWED = "with-a-shadow"
"""A route in which FAST answers and ACCURATE is the shadow."""
_NEAR = 0.01
"""The minimum distance of an image's probability from the route's threshold, so that rounding does not matter."""
_RTOL, _ATOL = 1e-4, 1e-4
"""Tolerances. Different kernels compute a batch and a single image, so the last digits differ."""

Outputs = Mapping[str, npt.NDArray[np.float32]]


class WrongAnswerError(Exception):
    """The server's answer differs from ONNX Runtime's answer."""


@dataclass(frozen=True)
class Answers:
    """Images, and the right outputs of each model and route.

    Args:
        images: UINT8 [images, 28, 28].
        pngs: Each image as a PNG file.
        outputs: The right outputs, FP32 [images, 10], by the name of the model or route and by the output's name.
    """

    images: npt.NDArray[np.uint8]
    pngs: Sequence[bytes]
    outputs: Mapping[str, Outputs]

    @classmethod
    def computed(cls, models: Path, samples: Path) -> Self:
        """Compute the answers.

        Args:
            models: A model repository with MODELS and ROUTE. The models' serving versions compute the answers.
            samples: An .npz file with the images in the array "image".
        """
        images = np.load(samples)["image"]
        files = {file.name: file for file in serving_versions(models)}
        outputs: dict[str, Outputs] = {}
        for model in MODELS:
            session = onnxruntime.InferenceSession(files[model].path, providers=["CPUExecutionProvider"])
            names = [output.name for output in session.get_outputs()]
            outputs[model] = dict(zip(names, session.run(names, {"image": images}), strict=True))
        threshold = float(tomllib.loads((models / ROUTE / ROUTE_FILE).read_text())["accept"]["at_least"])
        sure = outputs[FAST]["probabilities"].max(axis=1)
        outputs[ROUTE] = {
            name: np.where((sure >= threshold)[:, None], fast, outputs[ACCURATE][name])
            for name, fast in outputs[FAST].items()
        }
        outputs[SHADOWED] = outputs[FAST]
        clear = np.abs(sure - threshold) > _NEAR
        return cls(
            images[clear],
            [_png(image) for image in images[clear]],
            {model: {name: array[clear] for name, array in arrays.items()} for model, arrays in outputs.items()},
        )

    def check(self, model: str, first: int, count: int, answer: Mapping[str, npt.NDArray[Any]]) -> None:
        """Check the outputs for `count` images, beginning with the image number `first`.

        Raises:
            WrongAnswerError: If the values differ by more than rounding, if an output is missing, or if the number of
                images is wrong.
        """
        for name, expected in self.outputs[model].items():
            if name not in answer:
                raise WrongAnswerError(f"{model}: no output {name}")
            array = answer[name]
            right = expected[first : first + count]
            if array.shape != right.shape or not np.allclose(array, right, rtol=_RTOL, atol=_ATOL):
                raise WrongAnswerError(f"{model}, image {first}, {name}: {array.tolist()} instead of {right.tolist()}")

    def check_classification(self, model: str, image: int, labels: int, answer: Classification) -> None:
        """Check the labels for one image. If ACCURATE was too late or its queue was full, FAST may answer for the
        cascade.

        Raises:
            WrongAnswerError: The number or the order of the labels is wrong, or a probability differs.
        """
        answered = FAST if answer.unsure and model == ROUTE else model
        probabilities = self.outputs[answered]["probabilities"][image]
        given = [(label.index, label.probability) for label in answer.labels]
        best = np.sort(probabilities)[::-1][:labels]
        right = len({index for index, _ in given}) == len(given) == labels and all(
            np.allclose([probability, probabilities[index]], expected, rtol=_RTOL, atol=_ATOL)
            for (index, probability), expected in zip(given, best, strict=True)
        )
        if not right:
            raise WrongAnswerError(f"{model}, image {image}: {given} instead of {probabilities.tolist()}")


def _png(image: npt.NDArray[np.uint8]) -> bytes:
    file = BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()
