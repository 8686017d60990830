"""Decides from a model's operators whether ONNX Runtime survives an input with an axis of size 0.

Most operators answer or refuse an empty tensor. Those below end the process (SIGABRT, SIGFPE, SIGSEGV) or never return,
whichever axis of the input reaches them. They were found by running each operator of ONNX Runtime 1.32 with each axis
empty; the tests repeat that for the operators that hangtag admits.
"""

from collections.abc import Set

from hangtag.serving.server.runtime.providers import CPU
from hangtag.serving.signature import Signature

_FATAL = {
    *("ConvTranspose", "GRU", "InstanceNormalization", "LSTM", "RoiAlign", "STFT", "Unique"),
    "ai.onnx.ml.FeatureVectorizer",
}

_STANDARD = ("", "ai.onnx.ml")
# Of the operators outside ONNX' standard so many are fatal, the attention of transformers included, that only these,
# which quantization and optimised files bring, are admitted.
_TRIED = {
    f"com.microsoft.{name}"
    for name in (
        *("BiasGelu", "DequantizeLinear", "DynamicQuantizeMatMul", "FastGelu", "FusedConv", "FusedGemm", "FusedMatMul"),
        *("Gelu", "MatMulIntegerToFloat", "MatMulNBits", "NhwcMaxPool", "QGemm", "QLinearAdd", "QLinearConcat"),
        *("QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearMul", "QLinearSigmoid", "QLinearSoftmax"),
        *("QLinearWhere", "QuantizeLinear", "QuickGelu"),
    )
}
# These are fatal only if a kernel or a limit is empty, which in a model with one input is a constant.
_PARAMETRIC = {"Conv", "ConvInteger", "NonMaxSuppression", "QLinearConv", "com.microsoft.FusedConv"}


def refusal(operators: Set[str], signature: Signature, provider: str) -> str:
    """Say why the model must get no empty tensor, as the end of a sentence; an empty text where it may get one.

    Args:
        operators: Of the model, as `inference_session.operators` names them.
        signature: Of the model.
        provider: ONNX Runtime's name of the execution provider that computes.
    """
    if provider != CPU:
        return f"what {provider} does with an empty tensor is not known"
    if not operators:
        return "this version of ONNX Runtime does not report the model's operators"
    fatal = sorted(operator for operator in operators if _is_fatal(operator))
    if fatal:
        return f"ONNX Runtime can end the process on an empty tensor in a model with {', '.join(fatal)}"
    parametric = sorted(operators & _PARAMETRIC)
    if parametric and sum(bool(spec.shape) for spec in signature.inputs) > 1:
        return f"an input may be a parameter of {parametric[0]}, for which ONNX Runtime survives no empty one"
    return ""


def _is_fatal(operator: str) -> bool:
    return operator in _FATAL or (operator.rpartition(".")[0] not in _STANDARD and operator not in _TRIED)
