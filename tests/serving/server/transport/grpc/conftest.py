import pytest

from tests.kit.over_http import OVER_GRPC


@pytest.hookimpl(tryfirst=True)  # runs before pytest reads the marks
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Skip HTTP in this folder, because HTTP has no health service, no reflection and no streams."""
    if "transport" in metafunc.fixturenames:
        metafunc.definition.add_marker(OVER_GRPC)
