"""Execution providers and their options; and on a machine with a GPU, the same answers as on a CPU."""

from pathlib import Path

import numpy as np
import pytest

from hangtag.serving.model_repository import ModelFile
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.loading import load_model
from hangtag.serving.server.errors import ModelLoadError
from hangtag.serving.server.runtime.providers import CPU, CUDA, TENSORRT, Gpu, not_obtained, provider_list
from hangtag.serving.server.runtime.session import Runtime

ALL = (TENSORRT, CUDA, CPU)


def test_the_cpu_alone_has_no_options() -> None:
    assert provider_list("cpu", ALL, Gpu(3, 100)) == [(CPU, {})]


def test_the_cpu_computes_what_cuda_cannot() -> None:
    (cuda, options), *rest = provider_list("cuda", ALL)
    assert (cuda, rest) == (CUDA, [(CPU, {})])
    assert options == {"device_id": "0", "arena_extend_strategy": "kSameAsRequested"}


def test_device_memory_limit_and_graphs_arrive_as_texts() -> None:
    options = provider_list("cuda", ALL, Gpu(2, 100), cuda_graphs=True)[0][1]
    assert options["device_id"] == "2"
    assert options["gpu_mem_limit"] == str(100 * 1024 * 1024)
    assert options["enable_cuda_graph"] == "1"


def test_tensorrt_comes_before_cuda_with_the_same_device_and_limit() -> None:
    (first, options), (second, cuda), last = provider_list("tensorrt", ALL, Gpu(1, 10))
    assert (first, second, last) == (TENSORRT, CUDA, (CPU, {}))
    assert options == {"device_id": "1", "trt_max_workspace_size": str(10 * 1024 * 1024)}
    assert (cuda["device_id"], cuda["gpu_mem_limit"]) == ("1", str(10 * 1024 * 1024))


@pytest.mark.parametrize(
    ("provider", "available", "name"), [("cuda", (CPU,), "CUDA"), ("tensorrt", (CUDA, CPU), "TensorRT")]
)
def test_a_provider_that_this_onnx_runtime_lacks_is_refused(
    provider: str, available: tuple[str, ...], name: str
) -> None:
    with pytest.raises(ModelLoadError) as refused:
        provider_list(provider, available)
    assert f"{name} was requested, but this ONNX Runtime has only {', '.join(available)}." in str(refused.value)
    assert "pip install '.[gpu]'" in str(refused.value)


@pytest.mark.parametrize(("provider", "hint"), [("cuda", "nvidia-smi"), ("tensorrt", "pip install tensorrt")])
def test_the_message_about_a_provider_not_obtained_says_what_to_do(provider: str, hint: str) -> None:
    message = not_obtained(provider, CPU)
    assert f"ONNX Runtime uses {CPU}" in message
    assert hint in message


MODELS = Path(__file__).parents[4] / "models"


def _why_no_gpu() -> str:
    try:
        Runtime(MODELS / "cnn/1/model.onnx", provider="cuda")
    except ModelLoadError as error:
        return str(error)
    return ""


NO_GPU = _why_no_gpu()
on_a_gpu = pytest.mark.skipif(bool(NO_GPU), reason=f"no GPU: {NO_GPU}")


@on_a_gpu
@pytest.mark.parametrize("graphs", ["off", "on"])
@pytest.mark.parametrize("name", ["cnn", "lstm"])
def test_a_gpu_answers_as_the_cpu_does(name: str, graphs: str) -> None:
    file = MODELS / name / "1/model.onnx"
    cpu, gpu = Runtime(file, provider="cpu"), Runtime(file, provider="cuda")
    gpu.use_io_binding(8, instances=2, cuda_graphs=graphs)
    assert gpu.provider == CUDA
    assert "no_io_binding" not in gpu.notes
    assert "not_page_locked" not in gpu.notes
    for samples in (1, 3, 8):
        images = np.random.default_rng(samples).integers(0, 256, (samples, 28, 28), dtype=np.uint8)
        got, right = (runtime.run({"image": images})["probabilities"] for runtime in (gpu, cpu))
        np.testing.assert_allclose(got, right, atol=0.01)


@on_a_gpu
def test_graphs_are_captured_where_there_is_no_recurrent_layer() -> None:
    cnn, lstm = (Runtime(MODELS / name / "1/model.onnx", provider="cuda") for name in ("cnn", "lstm"))
    for runtime in (cnn, lstm):
        runtime.use_io_binding(8, instances=1, cuda_graphs="on")
    assert cnn.cuda_graphs, cnn.notes
    assert not lstm.cuda_graphs
    assert "LSTM" in lstm.notes["no_cuda_graphs"]


@on_a_gpu
def test_a_memory_limit_that_is_too_small_is_an_error_that_names_the_file() -> None:
    def load() -> None:
        Runtime(MODELS / "cnn/1/model.onnx", provider="cuda", gpu=Gpu(mem_limit_mib=1)).warm_up([4096])

    with pytest.raises(ModelLoadError, match=r"cnn/1/model\.onnx"):
        load()


@on_a_gpu
def test_the_engine_says_what_it_obtained() -> None:
    config = ServerConfig(models=MODELS, provider="cuda", cuda_graphs="on", max_batch_size=8)
    model = load_model(ModelFile("cnn", 1, MODELS / "cnn/1/model.onnx"), config)
    assert (model.runtime.requested_provider, model.runtime.provider) == ("cuda", CUDA)
    assert model.runtime.cuda_graphs
