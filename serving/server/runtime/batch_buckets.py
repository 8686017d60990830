"""A few batch sizes (buckets) instead of any size: buffers at fixed addresses and captured CUDA graphs need them."""

from collections.abc import Sequence

from hangtag.serving.signature import Signature


def bucket_sizes(largest: int) -> tuple[int, ...]:
    """1, 2, 4 and so on, and the largest itself, so that less than half of any computed batch is padding."""
    return (*(1 << power for power in range((largest - 1).bit_length())), largest)


def bucket_for(sizes: Sequence[int], samples: int) -> int | None:
    """The smallest of the ascending sizes that holds the samples; None where none does."""
    return next((size for size in sizes if size >= samples), None)


def no_fixed_shapes_because(signature: Signature) -> str | None:
    """Why the batch size alone does not determine the size of every buffer; None where it does."""
    if not signature.batched:
        return "its requests are not joined into batches"
    for kind, specs in (("input", signature.inputs), ("output", signature.outputs)):
        for spec in specs:
            if spec.datatype == "BYTES":
                return f"{kind} {spec.name!r} has strings, which stay in the host's memory"
            if None in spec.shape[1:]:
                return f"{kind} {spec.name!r} has free axes besides the batch: {spec}"
    return None
