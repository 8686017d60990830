import dataclasses
from pathlib import Path

import numpy as np
import pytest

from hangtag.serving.model_repository import SETTINGS_FILE, ModelFile
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.loading import load_model
from hangtag.serving.server.engine.model_settings import NAMES, largest_settings, settings_of
from hangtag.serving.server.errors import StartError
from tests.kit import onnx_models

CONFIG = ServerConfig(max_batch_size=8, max_queue_size=100)


def written(folder: Path, text: str) -> Path:
    (folder / SETTINGS_FILE).write_text(text)
    return folder


def test_without_a_file_the_servers_values_hold(tmp_path: Path) -> None:
    assert settings_of(tmp_path, CONFIG) is CONFIG


def test_a_models_settings_take_precedence_and_the_rest_is_the_servers(tmp_path: Path) -> None:
    text = "max_batch_size = 2\nmax_queue_delay_microseconds = 500\ninstances = 3 # of this model\n"
    config = settings_of(written(tmp_path, text), CONFIG)
    assert (config.max_batch_size, config.max_queue_delay_microseconds, config.instances) == (2, 500, 3)
    assert (config.max_queue_size, config.intra_op_threads) == (100, 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max_batch_size 2", "cannot be read as TOML: "),
        ("batch = 2", f"unknown setting 'batch'; a model may set {', '.join(NAMES)}"),
        ("port = 2", "unknown setting 'port'"),
        ("max_batch_size = 0", "max_batch_size: 0 is not a whole number from 1 to 4096"),
        ("max_batch_size = 1.5", "max_batch_size: 1.5 is not a whole number from 1 to 4096"),
        ("max_batch_size = '2'", "max_batch_size: '2' is not a whole number from 1 to 4096"),
        ("instances = true", "instances: True is not a whole number from 0 to 64"),
        ("provider = 1", "provider: 1 is not one of 'auto', 'cpu', 'cuda', 'tensorrt'"),
        ("provider = 'tpu'", "provider: 'tpu' is not one of 'auto', 'cpu', 'cuda', 'tensorrt'"),
        ("cuda_graphs = true", "cuda_graphs: True is not one of 'off', 'auto', 'on'"),
        ("gpu_mem_limit_mib = -1", "gpu_mem_limit_mib: -1 is not a whole number of at least 0"),
        ("max_batch_size = 101", "--max-queue-size (100) is below --max-batch-size (101)"),
    ],
)
def test_invalid_settings_name_the_file_and_what_was_expected(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(StartError) as caught:
        settings_of(written(tmp_path, text), CONFIG)
    assert str(caught.value).startswith(f"{tmp_path / SETTINGS_FILE}: ") or expected.startswith("cannot")
    assert expected in str(caught.value)


def test_a_file_of_other_bytes_is_named(tmp_path: Path) -> None:
    (tmp_path / SETTINGS_FILE).write_bytes(b"\xff\xfe")
    with pytest.raises(StartError, match=r"serving\.toml cannot be read as TOML"):
        settings_of(tmp_path, CONFIG)


def test_a_model_has_a_provider_and_a_share_of_a_gpu_of_its_own(tmp_path: Path) -> None:
    onnx_models.publish(tmp_path, "m", onnx_models.classifier())
    text = "provider = 'cpu'\ngpu_device_id = 1\ngpu_mem_limit_mib = 256\ncuda_graphs = 'auto'\n"
    config = settings_of(written(tmp_path / "m", text), CONFIG)
    assert (config.provider, config.gpu_device_id, config.gpu_mem_limit_mib) == ("cpu", 1, 256)
    assert config.cuda_graphs == "auto"
    model = load_model(ModelFile("m", 1, tmp_path / "m/1/model.onnx"), ServerConfig(models=tmp_path))
    assert model.runtime.requested_provider == "cpu"


def test_each_model_is_served_with_its_own(tmp_path: Path) -> None:
    for name in ("own", "plain"):
        onnx_models.publish(tmp_path, name, onnx_models.classifier())
    written(tmp_path / "own", "max_batch_size = 2\ninstances = 3\nmax_queue_size = 5\n")
    config = ServerConfig(models=tmp_path, max_batch_size=4, instances=1)
    own, plain = (
        load_model(ModelFile(name, 1, tmp_path / name / "1" / "model.onnx"), config) for name in ("own", "plain")
    )
    assert (own.max_batch_size, own.instances, own.batcher.max_queue_size) == (2, 3, 5)
    assert (plain.max_batch_size, plain.instances, plain.batcher.max_queue_size) == (4, 1, 256)
    images = np.zeros((2, 28, 28), np.uint8)
    assert own.check({"image": images}, {"image": "UINT8"})[0] == 2


def test_the_largest_value_of_any_model_counts_for_shared_resources(tmp_path: Path) -> None:
    texts = (
        "max_batch_size = 40\ninstances = 5",
        "max_queue_size = 300",
        "max_batch_size = 1\nmax_queue_size = 1",
        "x",
    )
    for number, text in enumerate(texts):
        folder = tmp_path / f"model-{number}"
        folder.mkdir()
        written(folder, text)
    config = largest_settings(dataclasses.replace(CONFIG, models=tmp_path, instances=2))
    assert (config.max_batch_size, config.max_queue_size, config.instances) == (40, 300, 5)
    assert largest_settings(dataclasses.replace(CONFIG, models=tmp_path / "none")).max_queue_size == 100
