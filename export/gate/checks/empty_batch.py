"""A child process that asks a file about a batch of 0: python -m hangtag.export.gate.checks.empty_batch FILE.

Its last line on standard output is JSON, if it lives to write one.
"""

import json
import sys
from pathlib import Path

import numpy as np

from hangtag.serving.server.errors import InferenceError
from hangtag.serving.server.runtime.session import Runtime, dtype_of


def ask(path: Path) -> dict[str, str]:
    """outcome: answered, refused, or malformed; detail: what exactly was said."""
    runtime = Runtime(path, provider="cpu")
    inputs = {
        spec.name: np.zeros([0, *(1 if size is None else size for size in spec.shape[1:])], dtype_of(spec))
        for spec in runtime.signature.inputs
    }
    try:
        outputs = runtime.run(inputs)
    except InferenceError as error:
        return {"outcome": "refused", "detail": str(error)}
    shapes = ", ".join(f"{name} {list(output.shape)}" for name, output in outputs.items())
    fits = all(len(output) == 0 for output in outputs.values())
    return {"outcome": "answered" if fits else "malformed", "detail": shapes}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(ask(Path(sys.argv[1]))) + "\n")
