"""Execution providers and their options. On a machine with a GPU, the GPU gives the same answers as the CPU."""

from pathlib import Path

import numpy as np
import pytest

from hangtag.serving.server.errors import ModelLoadError
from hangtag.serving.server.runtime.inference_session import CPU, CUDA, TENSORRT, Gpu, provider_list
from hangtag.serving.server.runtime.session import Runtime
from tests.kit.server import server
from tests.kit.shipped import MODELS

ALL = (TENSORRT, CUDA, CPU)


def test_each_provider_is_followed_by_those_that_compute_what_it_cannot_with_options_as_texts() -> None:
    plain = {"device_id": "0", "arena_extend_strategy": "kSameAsRequested"}
    limited = {"device_id": "2", "arena_extend_strategy": "kSameAsRequested", "gpu_mem_limit": str(100 << 20)}
    tensorrt = {"device_id": "2", "trt_max_workspace_size": str(100 << 20)}
    gpu = Gpu(2, 100)
    assert provider_list("cpu", ALL, gpu) == [(CPU, {})]
    assert provider_list("cuda", ALL) == [(CUDA, plain), (CPU, {})]
    assert provider_list("cuda", ALL, gpu, cuda_graphs=True) == [
        (CUDA, limited | {"enable_cuda_graph": "1"}),
        (CPU, {}),
    ]
    assert provider_list("tensorrt", ALL, gpu) == [(TENSORRT, tensorrt), (CUDA, limited), (CPU, {})]


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
    assert CUDA in gpu.no_empty_because
    assert "no_io_binding" not in gpu.notes
    assert "not_page_locked" not in gpu.notes
    for samples in (1, 3, 8):
        images = np.random.default_rng(samples).integers(0, 256, (samples, 28, 28), dtype=np.uint8)
        got, right = (runtime.run({"image": images})["probabilities"] for runtime in (gpu, cpu))
        np.testing.assert_allclose(got, right, atol=0.01)


@on_a_gpu
def test_a_memory_limit_that_is_too_small_is_an_error_that_names_the_file() -> None:
    def load() -> None:
        Runtime(MODELS / "cnn/1/model.onnx", provider="cuda", gpu=Gpu(mem_limit_mib=1)).warm_up([4096])

    with pytest.raises(ModelLoadError, match=r"cnn/1/model\.onnx"):
        load()


@on_a_gpu
def test_the_server_says_what_it_obtained(tmp_path: Path) -> None:
    (tmp_path / "cnn").symlink_to(MODELS / "cnn")
    with server(tmp_path, provider="cuda", cuda_graphs="on", max_batch_size=8, http_port=-1) as running:
        (cnn,) = running.state().versions
    assert (cnn.requested_provider, cnn.provider, cnn.cuda_graphs) == ("cuda", CUDA, True)
