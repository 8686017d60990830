"""The same network in other numbers: ``fp32`` as it was trained, ``fp16`` for GPUs, ``int8`` for CPUs.

Each precision is a model of its own in the repository: ``cnn``, ``cnn-fp16``, ``cnn-int8``.
"""

from hangtag.export.file.precision.conversion import PRECISIONS, convert, model_name

__all__ = ["PRECISIONS", "convert", "model_name"]
