"""magika's own answers about files, and those that it gives with our server in the place of its session, as JSON:
magika_answers.py ADDRESS FILE..., in .venv-others.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from magika import Magika
from remote_session import RemoteSession

MODEL = "magika"


def main(address: str, paths: list[str]) -> None:
    own, served = Magika(), Magika()
    served._onnx_session = RemoteSession(address, MODEL)
    with ThreadPoolExecutor(len(paths)) as callers:  # all at once, so that they share batches
        one_by_one = list(callers.map(served.identify_path, paths))
    told = {"own": own.identify_paths(paths), "served": served.identify_paths(paths), "one by one": one_by_one}
    sys.stdout.write(json.dumps({who: [_label(result) for result in results] for who, results in told.items()}))


def _label(result: Any) -> tuple[str, float]:
    return str(result.prediction.dl.label), float(result.prediction.score)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
