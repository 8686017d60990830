"""Serves and converts third-party models: the ONNX files inside the wheels of silero-vad, magika and RapidOCR.

silero-vad and magika run in .venv-others, once on their own ONNX Runtime session and once on a session that calls the
server (scripts/remote_session.py). The answers must agree.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from studies.third_party.models import MODELS
from tests.kit.command import ROOT, Serving, hangtag, serving
from tests.kit.onnx_file import answers, metadata

PYTHON = ROOT / ".venv-others/bin/python"
SCRIPTS = ROOT / "tests/e2e/scripts"
SILERO_MODELS = ("silero_vad", "silero_vad_16k_op15", "silero_vad_16k_sequence")
SAMPLE_RATE = 16_000
pytestmark = pytest.mark.skipif(
    not PYTHON.is_file(), reason="silero-vad and magika are missing: run 'make others', which sets up .venv-others"
)


def run(script: str, *arguments: object) -> Any:
    """Runs a script in .venv-others and returns the JSON that it prints."""
    command = [str(argument) for argument in (PYTHON, SCRIPTS / script, *arguments)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


@pytest.fixture(scope="module")
def third_party_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server whose model repository has the ONNX files of the installed packages, and a published one."""
    (packages,) = (ROOT / ".venv-others/lib").glob("python3*/site-packages")
    (magika,) = packages.glob("magika/models/*/model.onnx")
    models = tmp_path_factory.mktemp("third_party")
    silero = {name: packages / f"silero_vad/data/{name}.onnx" for name in SILERO_MODELS}
    for name, file in {"magika": magika, **silero}.items():
        (models / name / "1").mkdir(parents=True)
        shutil.copy(file, models / name / "1/model.onnx")
    options = ("--name", "published_vad", "--models", models)
    hangtag("import", silero["silero_vad"], *options, exit_codes=[0])
    with serving("--models", models, "--port", 0, script=True) as server:
        server.wait_for("ready")
        yield server


@pytest.fixture(scope="module")
def silero_answers(third_party_server: Serving, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    audio = tmp_path_factory.mktemp("audio") / "audio.npy"
    np.save(audio, speech())
    answers: dict[str, Any] = run("silero_vad_answers.py", third_party_server.address, audio)
    return answers


def speech() -> np.ndarray[Any, np.dtype[np.float32]]:
    """Synthesizes 2.4 s of audio [samples]: two vowels that a voice detector takes for speech, between silences.

    Source-filter model of speech: a glottal pulse train of falling pitch through the formants of the vowel a.
    """
    seconds = np.arange(SAMPLE_RATE * 3 // 5) / SAMPLE_RATE
    pitch = 150 - 40 * seconds + 4 * np.sin(2 * np.pi * 5 * seconds)
    phase = np.cumsum(pitch) / SAMPLE_RATE
    sound = np.diff(np.floor(phase), prepend=0.0)
    for formant, bandwidth in ((700, 80), (1220, 90), (2600, 120), (3300, 200)):
        sound = _resonator(sound, formant, bandwidth)
    sound *= np.hanning(len(sound)) * 0.5 / np.abs(sound).max()
    pause = np.zeros(SAMPLE_RATE * 2 // 5)
    return np.concatenate([pause, sound, pause, sound, pause]).astype(np.float32)


def _resonator(sound: np.ndarray[Any, Any], hertz: float, bandwidth: float) -> np.ndarray[Any, Any]:
    """A two-pole filter."""
    radius = np.exp(-np.pi * bandwidth / SAMPLE_RATE)
    first, second = 2 * radius * np.cos(2 * np.pi * hertz / SAMPLE_RATE), -radius * radius
    filtered = np.zeros(len(sound) + 2)
    for index, value in enumerate(sound):
        filtered[index + 2] = value + first * filtered[index + 1] + second * filtered[index]
    return filtered[2:]


@pytest.mark.parametrize(
    "name", ["16 kHz", "8 kHz", "batch of three", "concurrent streams", "opset 15", "whole sequence", "published"]
)
def test_silero_vad_gets_the_probabilities_of_its_own_session(silero_answers: dict[str, Any], name: str) -> None:
    local, served = np.array(silero_answers[name]["local"]), np.array(silero_answers[name]["served"])
    np.testing.assert_allclose(served, local, atol=1e-5)
    # The audio must have yielded silence and speech: two constants would agree as well.
    assert local.min() < 0.2
    assert local.max() > 0.5


def test_silero_vad_finds_the_same_speech_segments(silero_answers: dict[str, Any]) -> None:
    assert silero_answers["timestamps"]["served"] == silero_answers["timestamps"]["local"]
    assert silero_answers["timestamps"]["local"]


def test_a_model_with_carried_state_is_not_batched_and_the_log_says_why(third_party_server: Serving) -> None:
    lines = [line for line in third_party_server.log if 'event="model loaded"' in line]
    line_by_model = {line.split("model=")[1].split()[0]: line for line in lines}
    assert "max_batch_size=64" in line_by_model["magika"]
    for name in SILERO_MODELS:
        assert "max_batch_size=0" in line_by_model[name]
        assert "unbatched_because=\"the first axis of '" in line_by_model[name]


def test_magika_recognises_files_as_with_its_own_session(third_party_server: Serving) -> None:
    files = ["README.md", "pyproject.toml", "Makefile", "LICENSE", "serving/signature.py", "protos/inference.proto"]
    files += ["examples/garments/bag-1.png", "models/lstm/1/model.onnx", "examples/demo.sh", "docs/images/report.png"]
    predictions = run("magika_answers.py", third_party_server.address, *(ROOT / file for file in files))
    labels = [label for label, _ in predictions["local"]]
    scores = [score for _, score in predictions["local"]]
    assert len(set(labels)) >= 5
    for source in ("served", "served one by one"):
        assert [label for label, _ in predictions[source]] == labels
        np.testing.assert_allclose([score for _, score in predictions[source]], scores, rtol=0, atol=1e-4)


@pytest.mark.skipif(
    not any(model.file() for model in MODELS), reason="magika and RapidOCR are missing: run 'make others'"
)
def test_a_model_of_others_in_int8_answers_as_before(tmp_path: Path) -> None:
    """RapidOCR's, which sees if a text is upside down; magika's, which takes longer, where that is missing.

    Samples are pictures of words of README.md, or files of this repository.
    """
    model, original = next((model, file) for model in reversed(MODELS) if (file := model.file()))
    (name,) = [tensor.name for tensor in onnxruntime.InferenceSession(original).get_inputs()]
    samples = model.samples(60)
    np.savez(tmp_path / "samples.npz", **{name: samples})  # type: ignore[arg-type]  # numpy's stubs take no mapping
    options = ("--name", "theirs", "--precision", "int8", "--calibration", tmp_path / "samples.npz")
    quick = ("--agree-at-least", 95, "--search-minutes", 0.03)
    hangtag("import", original, *options, "--models", tmp_path / "models", *quick, exit_codes=[0])
    converted = tmp_path / "models/theirs/1/model.onnx"
    own = metadata(converted)
    gate = json.loads(own["gate"])
    assert gate["agreement"]["share"] >= 0.95
    assert len(json.loads(own["fp32_layers"])) < gate["layers"]
    assert converted.stat().st_size < original.stat().st_size
    assert own["batched"] == "true"
    before, after = (
        next(iter(answers(file, 6, **{name: samples}).values())).argmax(axis=1) for file in (original, converted)
    )
    assert len(set(before.tolist())) >= 2  # a constant would agree as well
    assert (after == before).mean() >= 0.93  # in batches, of all samples
