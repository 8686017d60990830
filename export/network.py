"""Define a trained network in the form in which it is served: the preprocessing, the network with the weights of the
best epoch, and the conversion of its scores to outputs, in one torch module.

Each kind of answer has a class: one label (SingleLabel), a path of labels (LabelPath), a threshold (LabelThreshold).
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from hangtag.export.errors import ExportError
from hangtag.export.network_arrays import Answers, Pixels, batches
from hangtag.serving.image_spec import ImageSpec
from hangtag.serving.signature import TensorSpec
from hangtag.training import catalog
from hangtag.training.data.outfits import MAX_LABELS
from hangtag.training.errors import SettingsError
from hangtag.training.losses import SoftmaxRanking
from hangtag.training.networks.cnn_rnn import BEAM_WIDTH, CnnRnn, beam_search
from hangtag.training.networks.normalisation import normalise
from hangtag.training.runs import run_data
from hangtag.training.runs.run import Run


class ServedNetwork(nn.Module, ABC):
    """Maps raw pixels, UINT8 [batch, *image.shape], to the tensors of ``outputs``, in their order."""

    task: str
    outputs: tuple[TensorSpec, ...]
    activation = "softmax"
    """The function that turns ``logits`` into ``probabilities``, softmax or sigmoid, if there are both outputs."""
    temperature = 1.0
    """The number that divides the logits before the activation. Only a fitted temperature changes this number."""
    threshold: float | None = None
    """The least probability of a label in an image's set; None if no threshold determines the sets."""

    def __init__(self, network: nn.Module, image: ImageSpec) -> None:
        super().__init__()
        self.network, self.image = network, image

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The exported file's inputs."""
        return (TensorSpec("image", "UINT8", (None, *self.image.shape)),)

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata about input and outputs that a server needs, except the labels (keys without their prefix)."""
        return {"task": self.task, "image": json.dumps(self.image.as_json())}

    @abstractmethod
    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Compute the outputs, in the order of ``outputs``, for uint8 images [batch, *image.shape]."""

    def answer(self, images: Pixels, batch_size: int = 500, progress: Callable[[int], object] = str) -> Answers:
        """Return each output for all images [n, *image.shape]. Calls ``progress`` with the size of each batch."""
        parts = []
        with torch.inference_mode():
            for batch in batches(images, batch_size):
                parts.append(self(torch.tensor(batch)))
                progress(len(batch))
        columns = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
        return {spec.name: column for spec, column in zip(self.outputs, columns, strict=True)}


class SingleLabel(ServedNetwork):
    """Predicts one label per image. The outputs are logits, and the softmax of logits / temperature."""

    task = "single_label"

    def __init__(self, network: nn.Module, image: ImageSpec, labels: int) -> None:
        super().__init__(network, image)
        self.outputs = (
            TensorSpec("logits", "FP32", (None, labels)),
            TensorSpec("probabilities", "FP32", (None, labels)),
        )

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.network(normalise(image, self.image))  # [batch, labels]
        scaled = logits if self.temperature == 1 else logits / self.temperature
        return logits, scaled.softmax(dim=1)


class LabelPath(ServedNetwork):
    """Predicts a set of labels per image: the likeliest path of the beam search, which is part of the graph."""

    task = "multi_label"

    def __init__(self, network: CnnRnn, image: ImageSpec) -> None:
        super().__init__(network, image)
        self.outputs = (
            TensorSpec("path", "INT64", (None, MAX_LABELS)),
            TensorSpec("path_probability", "FP32", (None,)),
            TensorSpec("probabilities", "FP32", (None, network.labels)),
        )

    @property
    def metadata(self) -> dict[str, str]:
        return super().metadata | {"max_labels": json.dumps(MAX_LABELS), "beam_width": json.dumps(BEAM_WIDTH)}

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        assert isinstance(self.network, CnnRnn)
        return beam_search(self.network, normalise(image, self.image))


class LabelThreshold(ServedNetwork):
    """Predicts a set of labels per image: the labels that reach a threshold, or else the most probable label. The
    server applies the threshold."""

    task = "multi_label"

    def __init__(self, network: nn.Module, image: ImageSpec, labels: int, threshold: float, *, rivals: bool) -> None:
        """
        Args:
            network: a module that computes a logit for each label.
            image: the pictures that the network accepts.
            labels: the number of labels.
            threshold: the least probability of a label in the set.
            rivals: True if the labels' probabilities sum to 1 (softmax), False if they are independent (sigmoid).
        """
        super().__init__(network, image)
        self.threshold = threshold
        self.activation = "softmax" if rivals else "sigmoid"
        self.outputs = (
            TensorSpec("logits", "FP32", (None, labels)),
            TensorSpec("probabilities", "FP32", (None, labels)),
        )

    @property
    def metadata(self) -> dict[str, str]:
        return super().metadata | {"threshold": json.dumps(self.threshold), "min_labels": json.dumps(1)}

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.network(normalise(image, self.image))  # [batch, labels]
        return logits, logits.softmax(dim=1) if self.activation == "softmax" else logits.sigmoid()


def load_run(run: Run) -> ServedNetwork:
    """Load the weights in a run's ``best.pt`` into the run's network, in evaluation mode.

    Raises:
        ExportError: the run's model is unknown, or the weights belong to another network.
        RunMismatchError: ``best.pt`` cannot be read.
    """
    served = _build(run)
    state = run.load("best.pt")
    try:
        served.network.load_state_dict(state["model"])
    except (KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ExportError(
            f"the weights in {run.folder / 'best.pt'} do not fit {run.model} ({reason}). They belong to another "
            f"network, or to another version of it. Train it again with: hangtag train {run.model} --out FOLDER"
        ) from error
    return served.eval()


def _build(run: Run) -> ServedNetwork:
    config, summary = run.read_config(), run.read_metrics()["summary"]
    labels, image = run_data.labels(summary), run_data.image(config)
    try:
        entry = catalog.entry(run.model)
        network = entry.build(len(labels), image)
    except SettingsError as error:
        raise ExportError(f"{run.folder} is a run of {run.model!r}, which cannot be built here: {error}") from error
    if entry.objective is None:
        return SingleLabel(network, image, len(labels))
    if isinstance(network, CnnRnn):
        return LabelPath(network, image)
    try:
        threshold = float(summary["thresholds"]["o_f1"])
    except (KeyError, TypeError, ValueError) as error:
        raise ExportError(
            f"{run.folder / 'metrics.json'} lacks the thresholds of {run.model}; the run belongs to another version "
            f"of the network. Train it again with: hangtag train {run.model} --out FOLDER"
        ) from error
    return LabelThreshold(network, image, len(labels), threshold, rivals=entry.objective is SoftmaxRanking)
