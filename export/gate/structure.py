"""Is the file what ONNX says a model is, and what this project says a served network is?"""

from pathlib import Path

import onnx

from export.errors import GateError
from export.gate.check import Check
from export.onnx_file import operators
from export.served import Served
from serving.signature import Signature


def check(path: Path) -> Check:
    """ONNX's own checker, and shape inference that stops at the first contradiction. Raises GateError."""
    model = onnx.load(path)
    try:
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GateError("structure", f"ONNX's checker refuses the file: {' '.join(str(error).split())}.") from error
    counts = operators(model)
    return Check(
        "structure",
        f"valid ONNX, {counts.total()} nodes",
        {
            "opsets": {opset.domain or "ai.onnx": opset.version for opset in model.opset_import},
            "nodes": counts.total(),
            "operators": dict(sorted(counts.items())),
            "megabytes": round(path.stat().st_size / 1e6, 3),
        },
    )


def check_contract(signature: Signature, served: Served) -> Check:
    """Raises GateError when the file's inputs and outputs are not those of what is served."""
    if (signature.inputs, signature.outputs) != (served.inputs, served.outputs):
        found, wanted = (
            "; ".join(map(str, specs))
            for specs in (signature.inputs + signature.outputs, served.inputs + served.outputs)
        )
        raise GateError("contract", f"the file has {found}; expected {wanted}.")
    if not signature.batched:
        raise GateError("contract", "the first axis is not free in every input and output, so nothing can be batched.")
    return Check("contract", "names, datatypes and free batch axis as they should be")
