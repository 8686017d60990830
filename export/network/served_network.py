"""What is deployed of a network: preprocessing, the network, and what its answer is made into, as one module."""

import json
from abc import ABC, abstractmethod

from torch import Tensor, nn

from hangtag.serving.signature import TensorSpec
from hangtag.training.data.multi_label import CANVAS_SIZE, MAX_LABELS
from hangtag.training.networks.cnn_rnn import BEAM_WIDTH, CnnRnn, beam_search
from hangtag.training.networks.inference import normalise
from hangtag.training.networks.single_label import CLASSES


class Served(nn.Module, ABC):
    """Takes pixels as bytes, UINT8 [batch, image_size, image_size]; answers with its outputs, in their order."""

    task: str
    image_size: int
    outputs: tuple[TensorSpec, ...]
    activation = "softmax"
    """What makes ``probabilities`` of ``logits``, where there are both: softmax or sigmoid."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return (TensorSpec("image", "UINT8", (None, self.image_size, self.image_size)),)

    @property
    def metadata(self) -> dict[str, str]:
        """What a server must know to read the outputs, besides the labels (keys without their prefix)."""
        return {"task": self.task}

    @abstractmethod
    def forward(self, image: Tensor) -> tuple[Tensor, ...]: ...


class Classifier(Served):
    """One label an image: logits, and their softmax."""

    task = "single_label"
    image_size = 28
    outputs = (TensorSpec("logits", "FP32", (None, CLASSES)), TensorSpec("probabilities", "FP32", (None, CLASSES)))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.network(normalise(image))  # [batch, 28, 28] -> [batch, 10]
        return logits, logits.softmax(dim=1)


class LabelPath(Served):
    """A set of labels an image: the likeliest path of the beam search, all of which becomes part of the graph."""

    task = "multi_label"
    image_size = CANVAS_SIZE

    def __init__(self, network: CnnRnn) -> None:
        super().__init__(network)
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
        return beam_search(self.network, normalise(image))


class LabelThreshold(Served):
    """A set of labels an image: those that reach a threshold, which the server applies; else the most probable one."""

    task = "multi_label"
    image_size = CANVAS_SIZE

    def __init__(self, network: nn.Module, labels: int, threshold: float, *, rivals: bool) -> None:
        """rivals: the labels share one probability (softmax); else each has its own (sigmoid)."""
        super().__init__(network)
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
        logits = self.network(normalise(image))  # [batch, 64, 64] -> [batch, labels]
        return logits, logits.softmax(dim=1) if self.activation == "softmax" else logits.sigmoid()
