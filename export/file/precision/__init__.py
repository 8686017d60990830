"""Convert a network to another precision: ``fp16`` for GPUs, ``int8`` for CPUs (int8_lstms, int8_convolutions).

Each precision is a model of its own in the repository: ``cnn``, ``cnn-fp16``, ``cnn-int8``.
"""

from hangtag.export.file.precision.conversion import PRECISIONS, convert, keep_origin, model_name

__all__ = ["PRECISIONS", "convert", "keep_origin", "model_name"]
