"""Damaged files: each is read or refused in one line, and published completely or not at all.

The environment variable FUZZ_FILES sets how many go through the whole intake; far more are only read.
"""

import os
import random
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from hangtag.export.errors import ExportError
from hangtag.export.foreign import document, intake
from hangtag.serving.server.runtime.session import Runtime
from tests.export.foreign import models as foreign
from tests.export.foreign import mutations
from tests.export.runs import contents
from tests.kit import onnx_models

pytestmark = pytest.mark.slow

CASES = int(os.environ.get("FUZZ_FILES", "80"))
BUILDERS: tuple[Callable[[], onnx.ModelProto], ...] = (
    onnx_models.classifier, onnx_models.recurrent, onnx_models.text, onnx_models.two_inputs, onnx_models.free_axis,
    onnx_models.gather, foreign.scaled_by_the_largest, foreign.fatal,
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
    """Through the whole intake, in which ONNX Runtime runs the file in a process of its own."""
    published, refusals = [], {}
    for seed in range(part * CASES // 4, (part + 1) * CASES // 4):
        folder = tmp_path / str(seed)
        folder.mkdir()
        file = folder / "theirs.onnx"
        file.write_bytes(damaged(seed))
        before = contents(folder)
        try:
            accepted = intake.accept(file, "theirs", folder / "models", None)
        except ExportError as error:
            refusals[seed] = str(error)
            assert contents(folder) == before
        else:
            published.append(seed)
            Runtime(accepted.folder / "model.onnx", provider="cpu").warm_up([1])
    assert published
    assert refusals
    assert not [message for message in refusals.values() if "exit code" in message]  # no traceback of the child


def test_the_damage_is_the_same_at_every_run() -> None:
    assert [damaged(seed) for seed in range(40)] == [damaged(seed) for seed in range(40)]
    assert len({damaged(seed) for seed in random.Random(0).sample(range(2000), 100)}) > 95
