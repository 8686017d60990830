"""Whether the hot path can be used with the grpcio that is installed."""

import grpc

TESTED = ((1, 76), (1, 86))
"""The range of grpcio's versions, its end excluded. The wire test suite passed on the hot path with 1.76.0, 1.80.0,
1.83.0 and 1.85.3."""


def problem(version: str = grpc.__version__) -> str | None:
    """Why the hot path cannot be used here; None when it can. Takes some hundredths of a second."""
    first, end = TESTED
    if not first <= tuple(int(part) for part in version.split(".")[:2]) < end:
        return f"grpcio {version} was not tried; what was: from {_text(first)} to below {_text(end)}"
    try:
        from hangtag.serving.server.transport.hot import self_test

        self_test.run()
    except Exception as error:
        return f"the self-test failed: {type(error).__name__}: {error}"
    return None


def _text(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
