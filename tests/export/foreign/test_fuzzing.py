"""Damaged files: each is read or refused in one line, and published completely or not at all.

The environment variable FUZZ_FILES sets how many go through the whole intake; far more are only read.
"""

import os
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from hangtag.export.errors import ExportError
from hangtag.export.foreign import document
from hangtag.serving.client import Client
from tests.export.foreign import mutations
from tests.kit import onnx_models, third_party_models
from tests.kit.invoke import contents, invoke
from tests.kit.server import server

pytestmark = pytest.mark.slow

CASES = int(os.environ.get("FUZZ_FILES", "80"))
BUILDERS: tuple[Callable[[], onnx.ModelProto], ...] = (
    onnx_models.classifier, onnx_models.recurrent, onnx_models.text, onnx_models.two_inputs, onnx_models.free_axis,
    onnx_models.gather, third_party_models.scaled_by_the_largest, third_party_models.fatal,
)  # fmt: skip


def damaged(seed: int) -> bytes:
    """A file with damaged fields for odd seeds, with damaged bytes for even ones."""
    model = BUILDERS[seed // 2 % len(BUILDERS)]()
    return mutations.mutate_fields(model, seed) if seed % 2 else mutations.mutate_bytes(model.SerializeToString(), seed)


def test_a_damaged_file_is_read_or_refused(tmp_path: Path) -> None:
    file = tmp_path / "theirs.onnx"
    refusals = []
    for seed in range(2000):
        file.write_bytes(damaged(seed))
        try:
            document.read(file)
        except ExportError as error:
            refusals.append(str(error))
    assert 200 < len(refusals) < 1800  # neither is a rarity
    assert not [message for message in refusals if "\n" in message]


@pytest.mark.parametrize("part", range(4))
def test_a_damaged_file_is_published_completely_or_not_at_all(part: int, tmp_path: Path) -> None:
    """By the command, which runs the file in a process of its own; a server loads what was published."""
    file, models = tmp_path / "theirs.onnx", tmp_path / "models"
    command = ["export", "--onnx", file, "--models", models, "--reports", tmp_path / "reports", "--name"]
    published, refusals = [], []
    for seed in range(part * CASES // 4, (part + 1) * CASES // 4):
        file.write_bytes(damaged(seed))
        before = contents(tmp_path)
        result = invoke(*command, f"seed-{seed}")
        if result.exit_code == 0:
            published.append(f"seed-{seed}")
        else:
            refusals.append(result.stderr)
            assert (result.exit_code, result.stdout, contents(tmp_path)) == (1, "", before)
    assert refusals
    assert not [message for message in refusals if "exit code" in message]  # no traceback of the child
    with server(models, provider="cpu", max_batch_size=1) as running, Client(running.address) as client:
        assert client.models() == sorted(published)
