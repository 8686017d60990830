"""Asking a network in PyTorch: images in, every output out."""

import torch

from hangtag.export.gate.runtime_answers import Answers, Pixels, batches
from hangtag.export.network.served_network import Served


def answer(served: Served, images: Pixels, batch_size: int = 500) -> Answers:
    """What PyTorch answers, by output, to uint8 images [n, height, width]."""
    with torch.inference_mode():
        answered = [served(torch.tensor(part)) for part in batches(images, batch_size)]
    columns = (torch.cat(parts).numpy() for parts in zip(*answered, strict=True))
    return {spec.name: column for spec, column in zip(served.outputs, columns, strict=True)}
