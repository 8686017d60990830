"""TrainSettings validates itself, whether the command or a program constructs it."""

from pathlib import Path
from typing import Any

import pytest

from hangtag.training import settings
from hangtag.training.cli import train
from hangtag.training.errors import SettingsError
from hangtag.training.networks.bfloat16 import cpu_computes_lstms_in_bf16
from hangtag.training.runs.config import RunConfig
from hangtag.training.settings import OPTIONS, TrainSettings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "transformer"}, "there is no model 'transformer'; there are lstm, "),
        ({"limit": 0}, "--limit: 0 is out of range; it must be at least 1."),
        ({"processes": 65}, "--processes: 65 is out of range; it must be at least 1 and at most 64."),
        ({"seed": -1}, "--seed: -1 is out of range"),
        ({"device": "tpu"}, "--device: 'tpu' is not one of auto, cpu, cuda."),
        ({"loss": "soft-labels", "beta": 0.0}, "--beta: 0.0 is out of range; it must be above 0."),
        ({"loss": "soft-labels", "beta": float("nan")}, "--beta: nan is not a finite number."),
        ({"loss": "soft-labels", "loss_weight": 1.5}, "--loss-weight: 1.5 is out of range"),
        ({"beta": 1.0}, "--beta: the cross-entropy uses no distances; add --loss embedding-distance."),
        ({"model": "sigmoids", "loss": "cross-entropy"}, "--loss: sigmoids has a loss of its own"),
        ({"data": "outfits"}, "--data outfits: lstm cannot learn from outfits: it takes fashion-mnist."),
        ({"model": "cnn_rnn", "recipe": "study"}, "--recipe study: there is no such recipe for cnn_rnn"),
        (
            {"teachers": (Path("cnn.onnx"),)},
            "--teacher cnn.onnx: recipe study learns from the labels alone. Leave --teacher out",
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_settings_that_cannot_be_used_are_refused_on_construction(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        TrainSettings(**({"model": "lstm"} | settings))
    assert str(caught.value).startswith(message)


def test_the_command_constructs_the_settings_with_their_own_defaults() -> None:
    parameters = train.make_context("train", ["lstm"]).params
    assert TrainSettings(**parameters) == TrainSettings("lstm")
    assert parameters.keys() == {"model", *OPTIONS}


def test_the_configs_fields_are_those_of_the_settings_unless_resolved() -> None:
    settings = TrainSettings("cnn", seed=3, limit=96, precision="bf16", device="cpu", threads=2)
    resolved: dict[str, Any] = {
        "recipe": settings.chosen_recipe, "data_digest": "0a", "teachers": (), "loss": None, "data_dir": None,
    }  # fmt: skip
    config = RunConfig.of_settings(settings, **resolved)
    assert (config.model, config.seed, config.limit, config.precision) == ("cnn", 3, 96, "bf16")
    assert (config.device, config.threads, config.processes, config.dataset) == ("cpu", 2, 1, "fashion-mnist")


def test_bf16_is_refused_for_an_lstm_that_the_cpu_cannot_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch would end the first training step with an error about a primitive that it could not create."""
    monkeypatch.setattr(settings, "cpu_computes_lstms_in_bf16", lambda: False)
    with pytest.raises(SettingsError, match=r"--precision bf16: .*, and lstm2 has one\. Use --precision fp32\."):
        TrainSettings("lstm2", precision="bf16", device="cpu")
    assert TrainSettings("cnn", precision="bf16", device="cpu").precision == "bf16"
    assert TrainSettings("cnn_rnn", precision="bf16", device="cpu").precision == "bf16"  # nn.LSTMCell has no such limit


def test_bf16_is_taken_or_refused_as_this_cpu_can() -> None:
    if cpu_computes_lstms_in_bf16():
        assert TrainSettings("lstm", precision="bf16", device="cpu").precision == "bf16"
    else:
        with pytest.raises(SettingsError):
            TrainSettings("lstm", precision="bf16", device="cpu")
