"""What the log says of joining requests when a model is loaded."""

from pathlib import Path
from typing import Any

import structlog.testing

from tests.kit import dependent_rows, onnx_models
from tests.serving.server.engine.control.controlled import Start

WHY = "rows were tried alone and together: 'y' of the same input differs between a batch of 1 and a batch of 2"


def loaded(start: Start, **options: object) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The line about each model that was loaded, by its name, and the warnings."""
    with structlog.testing.capture_logs() as lines:
        start("none", **options)
    by_model: dict[str, Any] = {line["model"]: line for line in lines if line["event"] == "model loaded"}
    return by_model, [dict(line) for line in lines if line["log_level"] == "warning"]


def test_one_warning_says_why_requests_are_not_joined_and_how_to_join_them(models: Path, start: Start) -> None:
    onnx_models.publish(models, "softmax", dependent_rows.softmax())
    by_model, warnings = loaded(start, max_batch_size=32)
    assert warnings == [
        {
            "event": "requests are not joined",
            "log_level": "warning",
            "model": "softmax",
            "version": 1,
            "reason": WHY,
            "to_join_them_all_the_same": "--model-max-batch-size softmax=32",
        }
    ]
    assert (by_model["softmax"]["unbatched_because"], by_model["softmax"]["max_batch_size"]) == (WHY, 0)
    assert by_model["gather"]["batched_because"] == "the same answers alone and in batches of 2, 7, 32"


def test_the_operators_word_is_followed_and_logged(models: Path, start: Start) -> None:
    onnx_models.publish(models, "softmax", dependent_rows.softmax())
    by_model, warnings = loaded(start, model_max_batch_size=(("softmax", 8),))
    assert warnings == []
    assert by_model["softmax"]["batched_because"] == "the operator says so; not tried"
    assert by_model["softmax"]["max_batch_size"] == 8
