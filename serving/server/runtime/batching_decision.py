"""Decides whether a loaded model's requests are joined: as the operator says, as its file proves, or as a trial shows.

A file's axes alone cannot tell. Softmax, a sum or a reversal along the first axis leaves its name and its size as they
are, and mixes up the answers of callers whose requests share a batch.
"""

from typing import NamedTuple

from hangtag.serving.server.errors import InferenceError
from hangtag.serving.server.runtime.batching_proof import Extent, prove
from hangtag.serving.server.runtime.gate_proof import proves_batching
from hangtag.serving.server.runtime.session import Runtime

_SIZES = (2, 7)
"""And the largest batch that the server makes: a row may depend on one that no smaller batch has."""
_LENGTHS = 2
_SECONDS = 0.5
_MAX_VALUES = 2**22  # 16 MiB of FP32, the default of --max-message-mib


class Decision(NamedTuple):
    """What allows requests to be joined."""

    because: str
    """For the log; empty where they are not joined."""
    tried: bool = False
    """Whether the model has computed batches of each size, the largest included."""


def decide_batching(runtime: Runtime, max_batch_size: int) -> Decision:
    """Forbid a runtime to join requests where nothing proves that the rows of a batch do not depend on each other.

    The operator's setting holds without a trial. So does the proof in a file that has not changed since the gate of
    'hangtag export'. Any other model that would be batched, by its axes or by ``hangtag.batched``, is tried on
    synthetic inputs, which takes milliseconds for a small model; of a slow one, a dozen rows are computed. Where the
    rows differ, or no input gets an answer, ``why_unbatched`` of the runtime's signature then has the reason.

    Args:
        runtime: The loaded model.
        max_batch_size: The most samples that are computed together; with 1 nothing is joined, and nothing tried.

    """
    signature = runtime.signature
    if not signature.batched:
        return Decision("")
    if signature.batching_override:
        return Decision("the operator says so; not tried")
    if max_batch_size == 1:
        return Decision("at most one sample is computed at once")
    if "gate" in signature.metadata and proves_batching(runtime.path):
        return Decision("its file has the proof")
    sizes = tuple(sorted({*(min(size, max_batch_size) for size in _SIZES), max_batch_size}))
    extent = Extent(sizes, _LENGTHS, _MAX_VALUES, _SECONDS)
    try:
        verdict, _ = prove(runtime, None, runtime.operators, extent)
    except InferenceError as error:
        runtime.forbid_batching(f"it cannot be tried: {' '.join(str(error).split())[:300]}")
        return Decision("")
    if not verdict.batched:
        runtime.forbid_batching(f"rows were tried alone and together: {verdict.why}")
        return Decision("")
    return Decision(verdict.why, tried=True)
