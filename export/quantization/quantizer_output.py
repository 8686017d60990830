"""Silence ONNX Runtime's quantizer, which writes to the root logger and to standard output."""

import contextlib
import io
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Inside the block nothing below an error is logged, and nothing is printed."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
