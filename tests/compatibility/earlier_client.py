"""Runs the client of release 0.1.0 in a process of its own, which imports nothing of today's."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

RELEASE = Path(__file__).parent / "release_0_1_0"
CLIENT = RELEASE / "client.zip"

CALLS = """
import json, sys
from pathlib import Path
import numpy as np
import serving
from protos import inference_pb2
from serving.client.client import Client
from serving.connection import ClientError

assert "client.zip" in serving.__file__ and "client.zip" in inference_pb2.__file__
address, pictures = sys.argv[1], [Path(name).read_bytes() for name in sys.argv[2:]]

def seen(answer):
    labels = [[label.name, label.index, label.probability] for label in answer.labels]
    return [answer.model, answer.version, answer.task, labels]

def refused(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except ClientError as error:
        return error.code.name
    return "OK"

with Client(address) as client:
    client.wait_until_ready(30)
    pixels = np.arange(3 * 28 * 28, dtype=np.uint64).reshape(3, 28, 28) % 251
    pixels = pixels.astype(np.uint8)
    sums = {"a": np.array([[0.5, 1, 2]], np.float32), "b": np.array([[1, 2, 3]], np.int64)}
    print(json.dumps({
        "models": sorted(client.models()),
        "ready": [client.is_ready(), client.is_ready("sums"), client.is_ready("nobody")],
        "classified": [seen(client.classify(picture, "lstm-56")) for picture in pictures],
        "raw": seen(client.classify(pixels[0], "lstm-56", version="1", top_k=10)),
        "streamed": [seen(answer) for answer in client.classify_stream(pictures, "lstm-56")],
        "compared": [
            [name, answer.version, answer.task, len(answer.labels)]
            for name, answer in client.compare(pictures[0], ["lstm-56", "lstm-56-int8"]).items()
        ],
        "logits": client.infer("lstm-56", {"image": pixels})["logits"].tolist(),
        "sums": {name: array.tolist() for name, array in client.infer("sums", sums).items()},
        "infer_streamed": [answer["sum"].tolist() for answer in client.infer_stream("sums", [sums, sums])],
        "parameters": sorted(client.parameters("lstm-56")),
        "statistics": sorted(statistics.name for statistics in client.statistics()),
        "refused": [
            refused(client.classify, pictures[0], "nobody"),
            refused(client.classify, b"no picture", "lstm-56"),
            refused(client.infer, "lstm-56", {"image": pixels[:, :5]}),
            refused(client.infer, "lstm-56", {}),
        ],
    }))
"""


def call(address: str, pictures: list[Path]) -> dict[str, Any]:
    """Make every kind of call that the earlier client has, and return what it got."""
    done = _python("-c", CALLS, address, *map(str, pictures))
    assert done.returncode == 0, done.stderr
    answers: dict[str, Any] = json.loads(done.stdout)
    return answers


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the earlier command ``hangtag`` to its end."""
    return _python("-m", "hangtag", *arguments)


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("HANGTAG_")}
    return subprocess.run(
        [sys.executable, *arguments],
        env=variables | {"PYTHONPATH": str(CLIENT), "COLUMNS": "200"},
        cwd=RELEASE,  # python -c and -m import from the current folder first
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
