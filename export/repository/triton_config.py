"""Write the config.pbtxt that keeps Triton from batching requests of a model that must not be batched."""

import json
from pathlib import Path

from hangtag.serving.signature import Signature, TensorSpec

FIRST_LINE = "# Written by hangtag export"
"""The first line of a config.pbtxt that an export wrote begins so. Any other config.pbtxt is left as it is."""


def render(signature: Signature) -> str | None:
    """The text of ``config.pbtxt``, or None where Triton does not batch the model anyway.

    Triton gives a model a batch size when every first axis is free. It overrides a ``max_batch_size: 0`` without inputs
    and outputs: its ONNX Runtime backend leaves only a configuration that names them as it is.
    """
    specs = (*signature.inputs, *signature.outputs)
    if not signature.inputs or any(not spec.shape or spec.shape[0] is not None for spec in specs):
        return None
    lines = [
        f"{FIRST_LINE}: a request must not be answered together with another one.",
        'backend: "onnxruntime"',
        "max_batch_size: 0",
        *(_tensor("input", spec) for spec in signature.inputs),
        *(_tensor("output", spec) for spec in signature.outputs),
    ]
    return "\n".join(lines) + "\n"


def is_ours(config: Path) -> bool:
    """Whether an export wrote this config.pbtxt."""
    return config.is_file() and config.read_text(encoding="utf-8", errors="replace").startswith(FIRST_LINE)


def _tensor(side: str, spec: TensorSpec) -> str:
    datatype = "STRING" if spec.datatype == "BYTES" else spec.datatype
    name = json.dumps(spec.name, ensure_ascii=False)
    return f"{side} {{ name: {name}, data_type: TYPE_{datatype}, dims: {list(spec.wire_shape)} }}"
