"""Earlier releases: their files, and their clients, which run in processes that do not import today's hangtag."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CALLS = """
import json, sys
from pathlib import Path
import numpy as np

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
    assert sys.modules[Client.__module__].__file__.startswith(sys.path[1])
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


@dataclass(frozen=True)
class Release:
    """An earlier release, whose files and client must still work.

    Attributes:
        version: The release's number.
        imports: How a program imports the release's client.
        gone: Options, variables and commands that later releases removed.
        accuracy: The accuracy of the release's trained model on the test set.
        has_http: Whether the release's client also calls servers over HTTP.
    """

    version: str
    imports: str
    gone: frozenset[str]
    accuracy: str
    has_http: bool

    @property
    def folder(self) -> Path:
        return Path(__file__).parent / f"release_{self.version.replace('.', '_')}"

    def read(self, name: str) -> Any:
        """Read one of the release's JSON files."""
        return json.loads((self.folder / name).read_text())

    def install(self, folder: Path) -> "Client":
        """Unpack the release's client into a folder."""
        zipfile.ZipFile(self.folder / "client.zip").extractall(folder)
        return Client(self, folder)


@dataclass(frozen=True)
class Client:
    """The client of an earlier release, which runs in separate processes."""

    release: Release
    folder: Path

    def call(self, address: str, pictures: list[Path]) -> Any:
        """Make every kind of call with the client, and return the answers."""
        done = self._python("-c", self.release.imports + CALLS, address, *map(str, pictures))
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def hangtag(self, *arguments: str, exit_codes: Container[int] = (0,)) -> str:
        """Run the earlier release's command to its end, and return what it printed."""
        done = self._python("-m", "hangtag", *arguments)
        assert done.returncode in exit_codes, done.stderr
        return done.stdout

    def _python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        variables = {name: value for name, value in os.environ.items() if not name.startswith("HANGTAG_")}
        return subprocess.run(
            [sys.executable, *arguments],
            env=variables | {"PYTHONPATH": str(self.folder), "COLUMNS": "200"},
            cwd=self.folder,  # Python imports first from the current folder
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


_PINGS = frozenset({"--min-ping-seconds", "HANGTAG_SERVE_MIN_PING_SECONDS"})  # removed: servers answer all pings
# These options no longer exist. Most belonged to `hangtag export --onnx` (now `hangtag import`), to an export's page,
# to `models verify`, to TensorBoard, or to the distances between labels.
_GONE = frozenset(
    f"{prefix}{name if prefix == '--' else name.upper().replace('-', '_')}"
    for prefix in ("--", "HANGTAG_EXPORT_")
    for name in (
        "onnx", "labels", "max-megabytes", "calibration", "preprocessing", "agree-at-least", "agree-on",
        "search-minutes", "reports",
    )
) | {
    "--record", "HANGTAG_MODELS_VERIFY_RECORD", "--tensorboard", "HANGTAG_TRAIN_TENSORBOARD",
    "--calibrate", "HANGTAG_LOADTEST_CALIBRATE",
    "labels", "--loss", "HANGTAG_TRAIN_LOSS", "--beta", "HANGTAG_TRAIN_BETA",
    "--loss-weight", "HANGTAG_TRAIN_LOSS_WEIGHT",
    "--distances", "HANGTAG_TRAIN_DISTANCES", "HANGTAG_EVALUATE_DISTANCES",
    "--public-api", "HANGTAG_LOADTEST_PUBLIC_API",
    "--check-caching", "HANGTAG_LOADTEST_CHECK_CACHING", "--prometheus", "HANGTAG_LOADTEST_PROMETHEUS",
    *_PINGS,
}  # fmt: skip

RELEASES = (
    Release(
        "0.1.0",
        "from serving.client.client import Client\nfrom serving.connection import ClientError",
        frozenset({"--hot-path", "HANGTAG_SERVE_HOT_PATH"}) | _GONE,
        "23.85%",
        has_http=False,
    ),
    Release("0.2.1", "from hangtag import Client, ClientError", _GONE, "42.70%", has_http=True),
)
