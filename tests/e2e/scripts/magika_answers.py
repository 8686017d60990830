"""Prints magika's answers as JSON: those of its own ONNX Runtime session, and those of a model on a server.

Run in .venv-others: ``python magika_answers.py ADDRESS FILE...``.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from magika import Magika
from remote_session import RemoteSession

MODEL = "magika"


def main(address: str, paths: list[str]) -> None:
    local, served = Magika(), Magika()
    served._onnx_session = RemoteSession(address, MODEL)
    with ThreadPoolExecutor(len(paths)) as callers:  # concurrent calls, so that the server batches them
        one_by_one = list(callers.map(served.identify_path, paths))
    results = {
        "local": local.identify_paths(paths),
        "served": served.identify_paths(paths),
        "served one by one": one_by_one,
    }
    json.dump({source: [_prediction(result) for result in files] for source, files in results.items()}, sys.stdout)


def _prediction(result: Any) -> tuple[str, float]:
    """The label and its score."""
    return str(result.prediction.dl.label), float(result.prediction.score)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
