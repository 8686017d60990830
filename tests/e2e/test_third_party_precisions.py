"""Converts models of others to int8: magika's, which reads files, and RapidOCR's, which sees if a text is upside down.

The ONNX files are those in the packages' wheels, in .venv-others. Samples are files of this repository, and
pictures of words of its README.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from hangtag.cli import main
from hangtag.serving.server.runtime.session import Runtime
from studies.third_party.models import MODELS, Array, ThirdPartyModel
from tests.kit import forked_children

SAMPLES = 120
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(model.file() for model in MODELS),
        reason="magika or rapidocr-onnxruntime is missing (it has no wheel for Python 3.13): run 'make others'",
    ),
]


def convert(file: Path, folder: Path, percent: str, samples: Mapping[str, Array]) -> dict[str, str]:
    """Converts a file to int8 by the command, and returns the published file's metadata."""
    np.savez(folder / "samples.npz", **samples)  # type: ignore[arg-type]  # numpy's stubs take no mapping
    options = ["--name", "theirs", "--precision", "int8", "--calibration", str(folder / "samples.npz")]
    options += ["--agree-at-least", percent, "--search-minutes", "0.3"]
    options += ["--models", str(folder / "models"), "--reports", str(folder / "reports")]
    result = CliRunner().invoke(main, ["export", "--onnx", str(file), *options])
    assert result.exit_code == 0, result.output
    return dict(Runtime(folder / "models/theirs/1/model.onnx", provider="cpu").signature.metadata)


def labels(file: Path, samples: Mapping[str, Array]) -> Array:
    """The most probable label of each sample, in batches of 8."""
    runtime = Runtime(file, provider="cpu")
    (output,) = runtime.signature.outputs
    parts = [
        runtime.run({name: array[start : start + 8] for name, array in samples.items()})[output.name]
        for start in range(0, SAMPLES, 8)
    ]
    most_probable: Array = np.concatenate(parts).argmax(axis=1)
    return most_probable


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.package)
def test_a_third_party_model_in_int8_answers_as_before(
    model: ThirdPartyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forked_children.use(monkeypatch)
    original = model.file()
    assert original is not None
    name = Runtime(original, provider="cpu").signature.inputs[0].name
    samples = {name: model.samples(SAMPLES)}
    metadata = convert(original, tmp_path, "95", samples)
    converted = tmp_path / "models/theirs/1/model.onnx"
    gate = json.loads(metadata["gate"])
    assert gate["agreement"]["share"] >= 0.95
    kept = json.loads(metadata["fp32_layers"])
    assert len(kept) < gate["layers"]
    assert converted.stat().st_size < 0.9 * original.stat().st_size
    assert metadata["batched"] == "true"

    expected = labels(original, samples)
    assert len(set(expected.tolist())) >= 2  # a constant would agree as well
    assert (labels(converted, samples) == expected).mean() >= 0.93  # in batches, of all samples
