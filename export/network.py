"""Define a trained network in the form in which it is served: the preprocessing, the network with the weights of the
best epoch, and the conversion of its scores to outputs, in one torch module.

LabelScores answers with scores of labels, and LabelPath with a path of labels.
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
from hangtag.training.losses import SIGMOIDS, SOFTMAX_RANKING
from hangtag.training.networks.cnn_rnn import BEAM_WIDTH, CnnRnn, beam_search
from hangtag.training.networks.normalisation import normalise
from hangtag.training.runs import run_data
from hangtag.training.runs.run import Run


class ServedNetwork(nn.Module, ABC):
    """Maps raw pixels, UINT8 [batch, *image.shape], to the tensors of ``outputs``, in their order."""

    task: str
    outputs: tuple[TensorSpec, ...]
    activation = "softmax"
    """Softmax or sigmoid: turns the output ``logits`` into the output ``probabilities``, if both exist."""
    temperature = 1.0
    """The number that divides the logits before the activation. Only a fitted temperature changes this number."""
    threshold: float | None = None
    """The lowest probability that puts a label into the predicted set; None if the predictions need no threshold."""

    def __init__(self, network: nn.Module, image: ImageSpec) -> None:
        super().__init__()
        self.network, self.image = network, image

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return (TensorSpec("image", "UINT8", (None, *self.image.shape)),)

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata about input and outputs that a server needs, except the labels. The keys have no prefix."""
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


class LabelScores(ServedNetwork):
    """Predicts one label per image, or the set of labels that reach a threshold. The outputs are logits and
    probabilities. The server applies the threshold; if no label reaches it, the most probable label forms the set."""

    def __init__(
        self, network: nn.Module, image: ImageSpec, labels: int, threshold: float | None = None, *, rivals: bool = True
    ) -> None:
        """
        Args:
            network: a module that computes a logit for each label.
            image: the pictures that the network accepts.
            labels: the number of labels.
            threshold: the least probability with which a label is in the set; None for one label per image.
            rivals: True if the labels' probabilities sum to 1 (softmax), False if they are independent (sigmoid).
        """
        super().__init__(network, image)
        self.task = "single_label" if threshold is None else "multi_label"
        self.threshold, self.activation = threshold, "softmax" if rivals else "sigmoid"
        scores = (None, labels)
        self.outputs = TensorSpec("logits", "FP32", scores), TensorSpec("probabilities", "FP32", scores)

    @property
    def metadata(self) -> dict[str, str]:
        if self.threshold is None:
            return super().metadata
        return super().metadata | {"threshold": json.dumps(self.threshold), "min_labels": json.dumps(1)}

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.network(normalise(image, self.image))  # [batch, labels]
        scaled = logits if self.temperature == 1 else logits / self.temperature
        return logits, scaled.softmax(dim=1) if self.activation == "softmax" else scaled.sigmoid()


def load_run(run: Run) -> ServedNetwork:
    """Load the weights in a run's ``best.pt`` into the run's network, in evaluation mode.

    Raises:
        ExportError: the run's model is unknown, or the weights or thresholds belong to another network.
        RunMismatchError: ``best.pt`` cannot be read.
    """
    config, summary = run.config, run.metrics["summary"]
    labels, image = run_data.labels(summary), run_data.image(config)
    try:
        entry = catalog.entry(run.model)
        network = entry.build(len(labels), image)
    except SettingsError as error:
        raise ExportError(f"{run.folder} is a run of {run.model!r}, which cannot be built here: {error}") from error
    state = run.load("best.pt")
    try:
        network.load_state_dict(state["model"])
        scores_sets = entry.objective in (SIGMOIDS, SOFTMAX_RANKING)
        threshold = float(summary["thresholds"]["o_f1"]) if scores_sets else None
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ExportError(
            f"the weights or thresholds in {run.folder} do not fit {run.model} ({reason}). They belong to another "
            f"network, or to another version of it. Train it again with: hangtag train {run.model} --out FOLDER"
        ) from error
    if isinstance(network, CnnRnn):
        return LabelPath(network, image).eval()
    rivals = entry.objective in (None, SOFTMAX_RANKING)
    return LabelScores(network, image, len(labels), threshold, rivals=rivals).eval()
