"""Check that ONNX's own checker and strict shape inference accept the graph."""

import onnx

from hangtag.export.errors import GateError
from hangtag.export.file.onnx_model import metadata, operators
from hangtag.export.gate.check import STRUCTURE, PassedCheck


def check(model: onnx.ModelProto, megabytes: float, *, strict: bool = True) -> PassedCheck:
    """Run ONNX's checker and, if strict, shape inference that stops at the first contradiction.

    Args:
        megabytes: the size of the model's file, for the summary.

    Raises:
        GateError: either of them rejects the model.
    """
    try:
        onnx.checker.check_model(model, full_check=strict)
        if strict:
            onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GateError(STRUCTURE, f"ONNX's checker refuses the file: {' '.join(str(error).split())}.") from error
    counts = operators(model)
    before = metadata(model).get("nodes_before_folding")
    exported = f" (PyTorch exported {before} in FP32)" if before else ""
    return PassedCheck(
        STRUCTURE,
        f"valid ONNX, {counts.total()} nodes{exported}, {megabytes:.2f} MB",
        {
            "opsets": {opset.domain or "ai.onnx": opset.version for opset in model.opset_import},
            "nodes": counts.total(),
            "operators": dict(sorted(counts.items())),
            "megabytes": round(megabytes, 3),
        },
    )
