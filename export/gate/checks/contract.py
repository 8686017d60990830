"""Is the file what this project says a served network is?"""

from hangtag.export.errors import GateError
from hangtag.export.gate.check import Check
from hangtag.export.network.served_network import Served
from hangtag.serving.signature import Signature


def check(signature: Signature, served: Served) -> Check:
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
