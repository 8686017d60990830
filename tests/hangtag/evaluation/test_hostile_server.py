"""A served model whose configuration is nonsense."""

import json

import pytest

from hangtag.evaluation.errors import EvaluationError
from hangtag.evaluation.served_subject import ServedSubject
from tests.kit.web_server import Answer, web_server


@pytest.mark.parametrize("labels", ["[" * 100_000, "9" * 5000, "5", "null", "\ud800"], ids=lambda text: repr(text[:9]))
def test_labels_that_cannot_be_read_are_an_error(labels: str) -> None:
    config = {"parameters": {"hangtag.labels": {"string_value": labels}}}
    answer = {"model_name": "sets", "model_version": "1", "task": "TASK_MULTI_LABEL"}

    def respond(path: str) -> Answer:
        return 200, {}, json.dumps(answer if "classify" in path else config).encode()

    with web_server(respond) as address, pytest.raises(EvaluationError):
        ServedSubject("sets", f"http://{address}")
