"""Run a network in PyTorch on images and collect every output."""

import torch

from hangtag.export.arrays import Answers, Pixels, batches
from hangtag.export.network.served_network import ServedNetwork


def answer(served: ServedNetwork, images: Pixels, batch_size: int = 500) -> Answers:
    """Run the network on images [n, ...], and return each output for all of them."""
    with torch.inference_mode():
        parts = [served(torch.tensor(batch)) for batch in batches(images, batch_size)]
    columns = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
    return {spec.name: column for spec, column in zip(served.outputs, columns, strict=True)}
