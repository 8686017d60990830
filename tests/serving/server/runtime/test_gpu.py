"""Tests that need a GPU. ``make gpu-check`` measures the same, with every model, on a machine that has one."""

from pathlib import Path

import numpy as np
import pytest

from hangtag.serving.model_repository import ModelFile
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.loading import load_model
from hangtag.serving.server.errors import ModelLoadError
from hangtag.serving.server.runtime.providers import CUDA, Gpu
from hangtag.serving.server.runtime.session import Runtime

MODELS = Path(__file__).parents[4] / "models"


def _why_no_gpu() -> str:
    try:
        Runtime(MODELS / "cnn/1/model.onnx", provider="cuda")
    except ModelLoadError as error:
        return str(error)
    return ""


NO_GPU = _why_no_gpu()
pytestmark = pytest.mark.skipif(bool(NO_GPU), reason=f"no GPU: {NO_GPU}")


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


def test_graphs_are_captured_where_there_is_no_recurrent_layer() -> None:
    cnn, lstm = (Runtime(MODELS / name / "1/model.onnx", provider="cuda") for name in ("cnn", "lstm"))
    for runtime in (cnn, lstm):
        runtime.use_io_binding(8, instances=1, cuda_graphs="on")
    assert cnn.cuda_graphs, cnn.notes
    assert not lstm.cuda_graphs
    assert "LSTM" in lstm.notes["no_cuda_graphs"]


def test_a_memory_limit_that_is_too_small_is_an_error_that_names_the_file() -> None:
    def load() -> None:
        Runtime(MODELS / "cnn/1/model.onnx", provider="cuda", gpu=Gpu(mem_limit_mib=1)).warm_up([4096])

    with pytest.raises(ModelLoadError, match=r"cnn/1/model\.onnx"):
        load()


def test_the_engine_says_what_it_obtained() -> None:
    config = ServerConfig(models=MODELS, provider="cuda", cuda_graphs="on", max_batch_size=8)
    model = load_model(ModelFile("cnn", 1, MODELS / "cnn/1/model.onnx"), config)
    assert (model.runtime.requested_provider, model.runtime.provider) == ("cuda", CUDA)
    assert model.runtime.cuda_graphs
