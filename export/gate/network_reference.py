"""A network in PyTorch as what a file must answer like."""

import copy
from collections.abc import Iterator
from functools import partial

import torch

from hangtag.export.arrays import Answers, Pixels, batches
from hangtag.export.gate.reference import Answer, Reference
from hangtag.export.gate.runtime_answers import sigmoid, softmax
from hangtag.export.network.served_network import LabelPath, LabelThreshold, ServedNetwork

PERTURBATIONS = (1e-6, 1e-5) * 16
"""One entry per perturbed copy of the network: the standard deviation of each weight, relative to itself."""


def of_network(served: ServedNetwork) -> Reference:
    """The network, in evaluation mode."""
    return Reference(
        "PyTorch",
        "pytorch",
        served.inputs,
        served.outputs,
        partial(answer, served),
        activation={"softmax": softmax, "sigmoid": sigmoid}[served.activation],
        threshold=served.threshold if isinstance(served, LabelThreshold) else None,
        perturbed=partial(_perturbed, served) if isinstance(served, LabelPath) else None,
    )


def answer(served: ServedNetwork, images: Pixels, batch_size: int = 500) -> Answers:
    """Run the network on images [n, ...], and return each output for all of them."""
    with torch.inference_mode():
        parts = [served(torch.tensor(batch)) for batch in batches(images, batch_size)]
    columns = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
    return {spec.name: column for spec, column in zip(served.outputs, columns, strict=True)}


def _perturbed(served: LabelPath) -> Iterator[Answer]:
    """Copies with random small changes of the weights, the same at every call."""
    random = torch.Generator().manual_seed(0)
    for deviation in PERTURBATIONS:
        other = copy.deepcopy(served)
        with torch.no_grad():
            for weight in other.parameters():
                weight.mul_(1 + deviation * torch.randn(weight.shape, generator=random))
        yield partial(answer, other)
