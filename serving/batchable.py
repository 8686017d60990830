"""May a model's requests be joined along the first axis? What its inputs and outputs alone can say.

A file's own word (``hangtag.batched``, proven when it was published) and the operator's come before this; see
signature.py. A wrong yes mixes up callers' answers, a wrong no costs speed, so what is doubtful is a no.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serving.signature import TensorSpec

# What people call a batch axis. N is ONNX's own letter for it (NCHW); a small n may be a number of anything.
_BATCH = ("N", "B", "bs")
# Names that exporters make up for an axis nobody named: tf2onnx's, torch.onnx's (two kinds), Paddle2ONNX's.
_MADE_UP = re.compile(r"unk__\d+|.*_dim_\d+|[su]\d+|DynamicDimension\.\d+|\?|", re.DOTALL)


def why_never(inputs: Sequence["TensorSpec"], outputs: Sequence["TensorSpec"]) -> str | None:
    """Why no proof and no word could allow it: requests cannot be joined along an axis that is not there or not free.

    None where they could be, whether or not that would be right.
    """
    if not inputs:
        return "it has no inputs"
    for spec in (*inputs, *outputs):
        if not spec.shape:
            return f"{spec.name!r} is a scalar"
        if spec.shape[0] is not None:
            return f"the first axis of {spec} is fixed"
    return None


def why_not(inputs: Sequence["TensorSpec"], outputs: Sequence["TensorSpec"]) -> str | None:
    """Why the first axis is not, or may not be, the batch's; None where all speaks for it.

    Exporters give input and output batch axes different symbols, or none, so only a name that somebody chose counts:

    - a first axis that somebody named otherwise, such as a sequence's length, is no batch;
    - inputs whose first axes may differ in size have no common batch;
    - a symbol that is the batch's stands on no other axis (an LSTM's [length, batch, features], a square matrix).
    """
    never = why_never(inputs, outputs)
    if never:
        return never
    firsts = [spec.symbols[0] for spec in inputs]
    for spec in inputs:
        if not (_is_batch(spec.symbols[0]) or _is_made_up(spec.symbols[0])):
            return f"the first axis of {spec.name!r} is called {spec.symbols[0]!r}, not the batch"
    if len({symbol for symbol in firsts if not _is_batch(symbol)}) > 1:
        listed = ", ".join(f"{spec.name} {spec.symbols[0]}" for spec in inputs)
        return f"the first axes of its inputs may differ in size ({listed})"
    for spec in outputs:
        symbol = spec.symbols[0]
        if not (symbol in firsts or _is_batch(symbol) or _is_made_up(symbol)):
            return f"the first axis of {spec.name!r} is called {symbol!r}, not the batch"
    for spec in (*inputs, *outputs):
        for symbol in spec.symbols[1:]:
            if symbol and (symbol in firsts or "batch" in symbol.lower()):
                return f"{symbol!r} is not the first axis of {spec.name!r}"
    return None


def _is_batch(symbol: str | None) -> bool:
    return symbol is not None and (symbol in _BATCH or "batch" in symbol.lower())


def _is_made_up(symbol: str | None) -> bool:
    return symbol is None or bool(_MADE_UP.fullmatch(symbol))
