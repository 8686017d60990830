"""``Runtime`` loads a model file and computes batches, or raises the right error."""

import ctypes
from pathlib import Path

import numpy as np
import onnx
import pytest

from hangtag import Client
from hangtag.serving.server.errors import InferenceError, InvalidValuesError, ModelLoadError
from hangtag.serving.server.runtime.session import Runtime
from tests.kit import memory, onnx_models, shipped
from tests.kit.command import python, serving
from tests.kit.onnx_models import from_text
from tests.kit.waiting import TIMEOUT, until
from tests.serving.server.runtime.seen_sessions import OnCpu

LSTM = shipped.MODELS / "lstm/1/model.onnx"
HAS_CUDA = "CUDAExecutionProvider" in __import__("onnxruntime").get_available_providers()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.mark.skipif(HAS_CUDA, reason="this ONNX Runtime has CUDA")
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_gpu_with_a_cpu_build_is_an_error_that_says_how_to_install_it(provider: str) -> None:
    message = rf"{provider} was requested, but this ONNX Runtime has only .*pip install '\.\[gpu\]'"
    with pytest.raises(ModelLoadError, match=message):
        Runtime(LSTM, provider=provider)
    assert Runtime(LSTM, provider="auto").provider == "CPUExecutionProvider"


@pytest.mark.skipif(HAS_CUDA, reason="this ONNX Runtime has CUDA")
@pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")
def test_a_provider_that_is_listed_and_not_obtained_is_an_error_or_for_auto_a_note(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A GPU build of ONNX Runtime lists providers that it cannot use if the driver is missing."""
    listed = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: listed)
    message = "cuda was requested, but ONNX Runtime uses CPUExecutionProvider. Check the driver with nvidia-smi"
    with pytest.raises(ModelLoadError, match=message):
        Runtime(LSTM, provider="cuda")
    with pytest.raises(ModelLoadError, match=r"ONNX Runtime uses CPUExecutionProvider.*pip install tensorrt"):
        Runtime(LSTM, provider="tensorrt")
    fallen_back = Runtime(LSTM, provider="auto")
    assert (fallen_back.requested_provider, fallen_back.provider) == ("auto", "CPUExecutionProvider")
    assert message in fallen_back.notes["no_cuda"]
    assert len(fallen_back.run({"image": np.zeros((2, 28, 28), np.uint8)})["logits"]) == 2


@pytest.mark.parametrize("text", [b"an_axis_", b"the_input", b"a_key_of_"])
def test_texts_that_are_not_utf8_are_an_error_that_names_the_file(models: Path, text: bytes) -> None:
    """Both ONNX Runtime and the checker of the onnx package accept such a file."""
    identity = "(float[an_axis_] the_input) => (float[an_axis_] output) { output = Identity(the_input) }"
    model = from_text(identity, {"a_key_of_": "metadata"})
    file = onnx_models.publish(models, "m", model)
    file.write_bytes(file.read_bytes().replace(text, b"\xae" + text[1:]))
    with pytest.raises(ModelLoadError, match=r"m/1/model\.onnx: a name or a text in the metadata is not UTF-8"):
        Runtime(file)


def refuses_below(least: int, number: str, x: str) -> onnx.ModelProto:
    """A model that returns x as integers. It fails if ``number``, an expression of x, is below ``least``."""
    return from_text(
        f"""({x} x) => (int64{x[x.index("[") :]} y) <int64 least = {{{least}}}, int64[1] table = {{0}}> {{
            number = {number}
            place = Sub(number, least)
            distance = Abs(place)
            below = Sub(distance, place)
            zero = Gather(table, below)
            x_as_number = Cast <to = 7> (x)
            y = Add(x_as_number, zero)
        }}"""
    )


def fails_below(least: int, shape: str) -> onnx.ModelProto:
    """A model that fails if the last axis of its input is shorter than ``least``."""
    return refuses_below(least, "Shape <start = -1> (x)", f"float{shape}")


def test_the_error_names_a_model_that_loads_but_cannot_compute(models: Path) -> None:
    runtime = Runtime(onnx_models.publish(models, "m", fails_below(5, "[batch, 4]")))
    with pytest.raises(ModelLoadError, match=r"model\.onnx loads, but fails on zeros \(x \[8, 4\]\): ONNX Runtime"):
        runtime.warm_up([8])


@pytest.mark.parametrize(("shape", "batched"), [("[n]", False), ("[4]", False), ("[batch, length]", True)])
def test_a_model_without_a_batch_axis_or_with_other_free_ones_may_fail_on_zeros(
    models: Path, shape: str, batched: bool
) -> None:
    runtime = Runtime(onnx_models.publish(models, "m", fails_below(5, shape)))
    assert runtime.signature.batched is batched
    runtime.warm_up([8])


@pytest.mark.parametrize("least", [0, 5])
def test_a_model_that_reads_numbers_from_strings_warms_up_and_refuses_other_words(models: Path, least: int) -> None:
    numbers_in_strings = refuses_below(least, "Cast <to = 7> (x)", "string[batch]")
    runtime = Runtime(onnx_models.publish(models, "m", numbers_in_strings))
    runtime.warm_up([1, 8])
    assert runtime.run({"x": np.array(["5", "12"], object)})["y"].tolist() == [5, 12]
    # The error blames the request only if the model runs successfully on zeros.
    with pytest.raises(InvalidValuesError if least == 0 else InferenceError):
        runtime.run({"x": np.array(["five"], object)})


def test_telemetry_is_off_before_onnx_runtime_is_imported() -> None:
    code = (
        "import builtins, os\n"
        "os.environ.pop('ORT_DISABLE_TELEMETRY', None)\n"
        "imported = builtins.__import__\n"
        "seen = []\n"
        "def noting(name, *rest, **more):\n"
        "    if name == 'onnxruntime' and not seen:\n"
        "        seen.append(os.environ.get('ORT_DISABLE_TELEMETRY'))\n"
        "    return imported(name, *rest, **more)\n"
        "builtins.__import__ = noting\n"
        "import hangtag.serving.server.runtime.session\n"
        "print(seen, os.environ.get('ORT_DISABLE_TELEMETRY'))\n"
    )
    assert python(code).stdout.strip() == "['1'] None"


def broken() -> None:
    raise RuntimeError("broken")


def test_what_fails_on_zeros_too_and_memory_that_is_missing_are_not_the_requests_fault(models: Path) -> None:
    cpu = OnCpu(onnx_models.publish(models, "m", onnx_models.filled()))
    for size, message in ((2**20, "Failed to allocate memory"), (1, "ONNX Runtime failed: broken")):
        with pytest.raises(InferenceError, match=message) as caught:
            cpu.runtime.run({"shape": np.array([size, size])})
        assert type(caught.value) is InferenceError
        cpu.session.before = broken


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc's malloc_trim")
def test_when_a_model_is_retired_the_memory_of_others_large_batches_is_given_back(tmp_path: Path) -> None:
    """All models of a process share ONNX Runtime's arena, so this test starts a process with only two models."""
    onnx_models.publish(tmp_path, "gather", onnx_models.gather())
    (tmp_path / "cnn").symlink_to(shipped.MODELS / "cnn")
    options = ("--model-control", "explicit", "--load-model", "*", "--max-batch-size", "256")
    with (
        serving("--models", str(tmp_path), "--port", "0", *options) as running,
        Client(running.address, timeout=TIMEOUT) as client,
    ):
        client.infer("cnn", {"image": np.zeros((256, 28, 28), np.uint8)})
        before = memory.held(running.process.pid)
        client.unload_model("gather")
        until(lambda: memory.held(running.process.pid) < before - (50 << 20))
