import pytest

from hangtag.training.tasks.onnx_teacher import OnnxTeacher
from tests.kit import shipped


@pytest.fixture(scope="module")
def teacher() -> OnnxTeacher:
    """The shipped lstm, which answers ten times as fast as the cnn."""
    return OnnxTeacher(shipped.latest("lstm"))
