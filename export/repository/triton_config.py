"""What Triton must be told of a model whose requests may not be joined: by itself it would join them."""

import json

from hangtag.export.repository.publishing import CONFIG_MARK
from hangtag.serving.signature import Signature, TensorSpec


def config(signature: Signature) -> str | None:
    """The text of ``config.pbtxt``; None where Triton does not join requests anyhow.

    Triton gives a model a batch size when every first axis is free, and overrides a ``max_batch_size: 0`` that stands
    alone: its ONNX Runtime backend leaves a configuration as it is only when that names inputs and outputs.
    """
    specs = (*signature.inputs, *signature.outputs)
    if not signature.inputs or any(not spec.shape or spec.shape[0] is not None for spec in specs):
        return None
    lines = [
        f"{CONFIG_MARK}: a request must not be answered together with another one.",
        'backend: "onnxruntime"',
        "max_batch_size: 0",
        *(_tensor("input", spec) for spec in signature.inputs),
        *(_tensor("output", spec) for spec in signature.outputs),
    ]
    return "\n".join(lines) + "\n"


def _tensor(side: str, spec: TensorSpec) -> str:
    datatype = "STRING" if spec.datatype == "BYTES" else spec.datatype
    name = json.dumps(spec.name, ensure_ascii=False)
    return f"{side} {{ name: {name}, data_type: TYPE_{datatype}, dims: {list(spec.wire_shape)} }}"
