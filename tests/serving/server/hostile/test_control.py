"""Callers who load and unload a model without end, where the server lets callers do so."""

import time

import pytest

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.server.telemetry.log import INFO_BURST, PERIOD
from tests.kit.live import TIMEOUT
from tests.serving.server.hostile.conftest import Attacked

pytestmark = pytest.mark.slow

PAIRS = 60


def test_loading_and_unloading_without_end_does_not_fill_the_log(target: Attacked) -> None:
    before, began = target.lines_on("filled"), time.monotonic()
    for _ in range(PAIRS):
        target.inference.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="filled"), timeout=TIMEOUT)
        target.inference.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="filled"), timeout=TIMEOUT)
    periods = 2 + (time.monotonic() - began) // PERIOD
    lines = target.lines_on("filled") - before
    assert INFO_BURST <= lines <= 3 * INFO_BURST * periods  # model loaded, unloaded, retired
