"""Check that the file's inputs and outputs are those of the network that it was exported from."""

from hangtag.export.errors import GateError
from hangtag.export.gate.check import CONTRACT, PassedCheck
from hangtag.export.network.served_network import ServedNetwork
from hangtag.serving.signature import Signature


def check(signature: Signature, served: ServedNetwork) -> PassedCheck:
    """Compare names, datatypes and shapes.

    Raises:
        GateError: they differ, or the first axis of an input or output is not free.
    """
    if (signature.inputs, signature.outputs) != (served.inputs, served.outputs):
        actual, expected = (
            "; ".join(map(str, specs))
            for specs in (signature.inputs + signature.outputs, served.inputs + served.outputs)
        )
        raise GateError(CONTRACT, f"the file has {actual}; expected {expected}.")
    if not signature.batched:
        raise GateError(CONTRACT, "the first axis is not free in every input and output, so nothing can be batched.")
    return PassedCheck(CONTRACT, "names, datatypes and free batch axis as they should be")
