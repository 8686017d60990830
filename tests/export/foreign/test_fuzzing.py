"""Damaged files, by the thousand: each is read or refused in one line, published whole or not at all, and nothing dies.

FUZZ_FILES says how many go through the whole intake; far more are only read.
"""

import os
import random
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from hangtag.export import child_process
from hangtag.export.errors import ExportError
from hangtag.export.foreign import document, intake
from hangtag.serving.server.runtime.session import Runtime
from tests import onnx_models
from tests.export.foreign import forked, mutations
from tests.export.foreign import models as foreign
from tests.export.runs import contents

CASES = int(os.environ.get("FUZZ_FILES", "80"))
MAKES: tuple[Callable[[], onnx.ModelProto], ...] = (
    onnx_models.classifier, onnx_models.recurrent, onnx_models.text, onnx_models.two_inputs, onnx_models.free_axis,
    onnx_models.gather, foreign.scaled_by_the_largest, foreign.fatal,
)  # fmt: skip


def damaged(seed: int) -> bytes:
    """Every other file is no more than damaged bytes."""
    made = MAKES[seed // 2 % len(MAKES)]()
    return mutations.of_fields(made, seed) if seed % 2 else mutations.of_bytes(made.SerializeToString(), seed)


def test_a_damaged_file_is_read_or_refused_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "theirs.onnx"
    refusals = []
    for seed in range(2000):
        file.write_bytes(damaged(seed))
        try:
            document.read(file)
        except ExportError as error:
            refusals.append(str(error))
    assert 200 < len(refusals) < 1800  # neither is a rarity
    assert not [said for said in refusals if "\n" in said]


@pytest.mark.parametrize("part", range(4))
def test_a_damaged_file_is_published_whole_or_not_at_all(
    part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the whole intake, in which ONNX Runtime runs the file in a process of its own."""
    monkeypatch.setattr(child_process, "run", forked.run)
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
    assert not {seed: said for seed, said in refusals.items() if "exit code" in said}  # foreseen, not a traceback


def test_the_damage_is_the_same_at_every_run() -> None:
    assert [damaged(seed) for seed in range(40)] == [damaged(seed) for seed in range(40)]
    assert len({damaged(seed) for seed in random.Random(0).sample(range(2000), 100)}) > 95
