"""Models that nobody here made: the ONNX files inside two packages, served, against the packages' own answers.

Each package runs in an environment of its own, once as it is and once with our server in the place of its session.
"""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.e2e.processes import ROOT, ServerProcess, serving

PYTHON = ROOT / ".venv-others/bin/python"
SCRIPTS = ROOT / "tests/e2e/scripts"
VOICE = ("silero_vad", "silero_vad_16k_op15", "silero_vad_16k_sequence")
RATE = 16_000
pytestmark = pytest.mark.skipif(
    not PYTHON.is_file(),
    reason="silero-vad and magika are missing: run 'make others', which sets up .venv-others",
)


def run(script: str, *arguments: object) -> Any:
    """What a script tells that runs in the others' environment."""
    command = [str(argument) for argument in (PYTHON, SCRIPTS / script, *arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server of the packages' ONNX files, just as they lie in their wheels."""
    (packages,) = (ROOT / ".venv-others/lib").glob("python3*/site-packages")
    (magika,) = packages.glob("magika/models/*/model.onnx")
    models = tmp_path_factory.mktemp("others")
    for name, file in {"magika": magika, **{n: packages / f"silero_vad/data/{n}.onnx" for n in VOICE}}.items():
        (models / name / "1").mkdir(parents=True)
        (models / name / "1/model.onnx").symlink_to(file)
    with serving(models) as server:
        yield server


@pytest.fixture(scope="module")
def voices(others: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    audio = tmp_path_factory.mktemp("audio") / "audio.npy"
    np.save(audio, speech())
    told: dict[str, Any] = run("silero_vad_answers.py", others.address, audio)
    return told


def speech() -> np.ndarray[Any, np.dtype[np.float32]]:
    """Two and a half seconds: twice what a voice detector takes for a voice, with silence before, between and after.

    A glottal pulse train of a falling pitch through the formants of an a: the source-filter model of speech.
    """
    seconds = np.arange(RATE * 3 // 5) / RATE
    pitch = 150 - 40 * seconds + 4 * np.sin(2 * np.pi * 5 * seconds)
    phase = np.cumsum(pitch) / RATE
    sound = np.diff(np.floor(phase), prepend=0.0)
    for formant, bandwidth in ((700, 80), (1220, 90), (2600, 120), (3300, 200)):
        sound = _resonator(sound, formant, bandwidth)
    sound *= np.hanning(len(sound)) * 0.5 / np.abs(sound).max()
    pause = np.zeros(RATE * 2 // 5)
    return np.concatenate([pause, sound, pause, sound, pause]).astype(np.float32)


def _resonator(sound: np.ndarray[Any, Any], hertz: float, bandwidth: float) -> np.ndarray[Any, Any]:
    """A two-pole filter."""
    radius = np.exp(-np.pi * bandwidth / RATE)
    first, second = 2 * radius * np.cos(2 * np.pi * hertz / RATE), -radius * radius
    out = np.zeros(len(sound) + 2)
    for place, value in enumerate(sound):
        out[place + 2] = value + first * out[place + 1] + second * out[place]
    return out[2:]


@pytest.mark.parametrize("name", ["16 kHz", "8 kHz", "three in one call", "at once", "opset 15", "whole sequence"])
def test_the_voice_detector_answers_as_in_its_own_package(voices: dict[str, Any], name: str) -> None:
    own, served = np.array(voices[name]["own"]), np.array(voices[name]["served"])
    np.testing.assert_allclose(served, own, atol=1e-5)
    assert own.min() < 0.2  # of silence and of a voice: a constant would agree as well
    assert own.max() > 0.5


def test_the_voice_detector_hears_the_same_words(voices: dict[str, Any]) -> None:
    assert voices["timestamps"]["served"] == voices["timestamps"]["own"]
    assert voices["timestamps"]["own"]


def test_carried_state_forbids_batching_and_the_log_says_so(others: ServerProcess) -> None:
    loaded = [line for line in others.log.splitlines() if 'event="model loaded"' in line]
    told = {line.split("model=")[1].split()[0]: line for line in loaded}
    assert "max_batch_size=64" in told["magika"]
    for name in VOICE:
        assert "max_batch_size=0" in told[name]
        assert "unbatched_because=\"the first axis of '" in told[name]


def test_files_are_recognised_as_in_the_package(others: ServerProcess) -> None:
    files = ["README.md", "pyproject.toml", "Makefile", "LICENSE", "serving/signature.py", "protos/inference.proto"]
    files += ["examples/garments/bag-1.png", "models/lstm/1/model.onnx", "examples/demo.sh", "docs/images/report.png"]
    told = run("magika_answers.py", others.address, *(ROOT / file for file in files))
    labels = [label for label, _ in told["own"]]
    assert len(set(labels)) >= 5
    for who in ("served", "one by one"):
        assert [label for label, _ in told[who]] == labels
        np.testing.assert_allclose(
            [score for _, score in told[who]], [score for _, score in told["own"]], rtol=0, atol=1e-4
        )
