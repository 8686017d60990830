import pytest

from hangtag.serving.server.errors import ModelLoadError
from hangtag.serving.server.runtime.providers import CPU, CUDA, TENSORRT, Gpu, not_obtained, provider_list

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
