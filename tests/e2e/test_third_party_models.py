"""Serves third-party models: the ONNX files inside the wheels of silero-vad and magika.

In .venv-others, each package runs its models twice: in its own ONNX Runtime session, and in a session that
calls the server (scripts/remote_session.py). The answers must agree.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from scipy.signal import lfilter

from tests.kit.command import ROOT, Serving, hangtag, serving

PYTHON = ROOT / ".venv-others/bin/python"
SCRIPTS = ROOT / "tests/e2e/scripts"
SILERO_MODELS = ("silero_vad", "silero_vad_16k_sequence")
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
    """A server whose model repository has the ONNX files of the installed packages, and a published model."""
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


@pytest.fixture(scope="module")
def silero_answers(third_party_server: Serving, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    audio = tmp_path_factory.mktemp("audio") / "audio.npy"
    np.save(audio, speech())
    answers: dict[str, Any] = run("silero_vad_answers.py", third_party_server.address, audio)
    return answers


def speech() -> np.ndarray[Any, np.dtype[np.float32]]:
    """Synthesizes 2.4 s of audio [samples]: two vowels that a voice detector recognizes as speech, between silences.

    In the source-filter model of speech, a pulse train of falling pitch is filtered by the formants of the vowel a.
    """
    seconds = np.arange(SAMPLE_RATE * 3 // 5) / SAMPLE_RATE
    pitch = 150 - 40 * seconds + 4 * np.sin(2 * np.pi * 5 * seconds)
    phase = np.cumsum(pitch) / SAMPLE_RATE
    sound = np.diff(np.floor(phase), prepend=0.0)
    for formant, bandwidth in ((700, 80), (1220, 90), (2600, 120), (3300, 200)):
        radius, angle = np.exp(-np.pi * bandwidth / SAMPLE_RATE), 2 * np.pi * formant / SAMPLE_RATE
        sound = lfilter([1], [1, -2 * radius * np.cos(angle), radius**2], sound)  # a filter with two poles
    sound *= np.hanning(len(sound)) * 0.5 / np.abs(sound).max()
    pause = np.zeros(SAMPLE_RATE * 2 // 5)
    return np.concatenate([pause, sound, pause, sound, pause]).astype(np.float32)


@pytest.mark.parametrize("name", ["16 kHz", "batch of three", "concurrent streams", "whole sequence", "published"])
def test_silero_vad_gets_the_probabilities_of_its_own_session(silero_answers: dict[str, Any], name: str) -> None:
    local, served = np.array(silero_answers[name]["local"]), np.array(silero_answers[name]["served"])
    np.testing.assert_allclose(served, local, atol=1e-5)
    # The audio must contain silence and speech, because constant answers would agree even if the server were wrong.
    assert local.min() < 0.2
    assert local.max() > 0.5


def test_silero_vad_finds_the_same_speech_segments(silero_answers: dict[str, Any]) -> None:
    assert silero_answers["timestamps"]["served"] == silero_answers["timestamps"]["local"]
    assert silero_answers["timestamps"]["local"]
