"""Is the file what ONNX says a model is?"""

from pathlib import Path

import onnx

from hangtag.export.errors import GateError
from hangtag.export.file.onnx_model import operators
from hangtag.export.gate.check import Check
from hangtag.serving.signature import PREFIX


def check(path: Path, *, strict: bool = True) -> Check:
    """ONNX's own checker and, if strict, shape inference that stops at the first contradiction. Raises GateError."""
    model = onnx.load(path)
    try:
        onnx.checker.check_model(model, full_check=strict)
        if strict:
            onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GateError("structure", f"ONNX's checker refuses the file: {' '.join(str(error).split())}.") from error
    counts = operators(model)
    megabytes = path.stat().st_size / 1e6
    before = next((entry.value for entry in model.metadata_props if entry.key == f"{PREFIX}nodes_before_folding"), None)
    made_of = f" (PyTorch exported {before} in FP32)" if before else ""
    return Check(
        "structure",
        f"valid ONNX, {counts.total()} nodes{made_of}, {megabytes:.2f} MB",
        {
            "opsets": {opset.domain or "ai.onnx": opset.version for opset in model.opset_import},
            "nodes": counts.total(),
            "operators": dict(sorted(counts.items())),
            "megabytes": round(megabytes, 3),
        },
    )
