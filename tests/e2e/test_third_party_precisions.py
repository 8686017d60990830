"""Converts models of others to int8: magika's, which reads files, and RapidOCR's, which sees if a text is upside down.

The ONNX files are those in the packages' wheels, in .venv-others. Samples are real: files of this repository, and
rendered lines of its texts.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner
from PIL import Image, ImageDraw, ImageFont

from hangtag.cli import main
from hangtag.export import child_process
from hangtag.serving.server.runtime.session import Runtime
from tests.e2e.processes import ROOT
from tests.export.foreign import forked

Array = npt.NDArray[Any]
OTHERS = ROOT / ".venv-others/lib"
MAGIKA = "python3*/site-packages/magika/models/*/model.onnx"
TURNED = "python3*/site-packages/rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx"
SAMPLES = 120
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(list(OTHERS.glob(file)) for file in (MAGIKA, TURNED)),
        reason="magika or rapidocr-onnxruntime is missing (it has no wheel for Python 3.13): run 'make others'",
    ),
]


def files() -> Array:
    """Files of this repository as magika reads them: INT32 [n, 2048], first and last 1,024 bytes, 256 for none."""
    paths = sorted(path for suffix in ("py", "md", "toml", "png", "proto") for path in ROOT.glob(f"*/**/*.{suffix}"))
    chosen = np.random.default_rng(0).permutation(len(paths))[:SAMPLES]
    rows = []
    for content in (paths[place].read_bytes() for place in chosen):
        first, last = content[:4096].lstrip()[:1024], content[-4096:].rstrip()[-1024:]
        rows.append([*first, *[256] * (1024 - len(first)), *[256] * (1024 - len(last)), *last])
    return np.array(rows, np.int32)


def lines() -> Array:
    """Lines of text, every second one upside down: FP32 [n, 3, 48, 192], from -1 to 1."""
    random = np.random.default_rng(0)
    words = [word for word in (ROOT / "README.md").read_text().split() if word.isascii()]
    rows = []
    for place in range(SAMPLES):
        image = Image.new("RGB", (192, 48), "white")
        font = ImageFont.load_default(size=int(random.integers(24, 34)))
        ImageDraw.Draw(image).text((4, 6), " ".join(random.choice(words, 3)), fill="black", font=font)
        pixels = np.asarray(image.rotate(180 * (place % 2)), np.float32)
        rows.append((pixels / 255 - 0.5) / 0.5)
    return np.stack(rows).transpose(0, 3, 1, 2)


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


@pytest.mark.parametrize(("pattern", "read", "percent"), [(MAGIKA, files, "95"), (TURNED, lines, "95")])
def test_a_third_party_model_in_int8_answers_as_before(
    pattern: str, read: Any, percent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_process, "run", forked.run)
    (original,) = OTHERS.glob(pattern)
    name = Runtime(original, provider="cpu").signature.inputs[0].name
    samples = {name: read()}
    metadata = convert(original, tmp_path, percent, samples)
    converted = tmp_path / "models/theirs/1/model.onnx"
    gate = json.loads(metadata["gate"])
    assert gate["agreement"]["share"] >= float(percent) / 100
    kept = json.loads(metadata["fp32_layers"])
    assert len(kept) < gate["layers"]
    assert converted.stat().st_size < 0.9 * original.stat().st_size
    assert metadata["batched"] == "true"

    expected = labels(original, samples)
    assert len(set(expected.tolist())) >= 2  # a constant would agree as well
    assert (labels(converted, samples) == expected).mean() >= 0.93  # in batches, of all samples
