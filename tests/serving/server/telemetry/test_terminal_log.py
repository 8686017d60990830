"""The log at a terminal: in words, and coloured unless NO_COLOR is set."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hangtag.serving.server.telemetry.terminal_log import TerminalRenderer
from tests.kit.onnx_models import free_axis

TIME = "2026-01-02T03:04:05.678901Z"


def line(coloured: bool = False, **values: object) -> str:
    return TerminalRenderer(coloured=coloured)(None, "", {"level": "info", "time": TIME} | values)


def test_a_line_has_the_time_the_event_and_its_values_in_words() -> None:
    assert re.fullmatch(
        r"\d\d:\d\d:05    model loaded +  model cnn  max batch size 64  names a, b",
        line(event="model loaded", model="cnn", max_batch_size=64, names=["a", "b"]),
    )


def test_ready_stands_out_and_problems_are_named_and_coloured() -> None:
    plain, ready = line(True, event="stopping"), line(True, event="ready")
    assert "\x1b[1;32m● ready" in ready
    assert "●" not in plain
    assert "\x1b[33m  warning: full" in line(True, event="full", level="warning")
    assert "\x1b[1;31m  error: broken" in line(True, event="broken", level="error")
    assert "\x1b" not in line(event="broken", level="error")


def test_a_traceback_follows_its_line() -> None:
    first, *rest = line(event="broken", level="error", exception="Traceback\n  here").splitlines()
    assert "error: broken" in first
    assert rest == ["Traceback", "  here"]


@pytest.mark.parametrize("no_color", [False, True])
def test_a_server_at_a_terminal(tmp_path: Path, no_color: bool) -> None:
    """A real server in a pseudo-terminal, until it is ready and has stopped."""
    file = tmp_path / "models/identity/1/model.onnx"
    file.parent.mkdir(parents=True)
    file.write_bytes(free_axis().SerializeToString())
    person, program = os.openpty()
    command = [sys.executable, "-m", "hangtag", "serve", "--models", str(tmp_path / "models"), "--port", "0"]
    variables = os.environ | {"TERM": "xterm"} | ({"NO_COLOR": "1"} if no_color else {})
    with subprocess.Popen(
        [*command, "--http-port", "-1", "--metrics-port", "-1"], stdout=program, stderr=program, env=variables
    ) as server:
        os.close(program)
        seen = b""
        while "● ready".encode() not in seen:
            seen += os.read(person, 4096)
        server.send_signal(signal.SIGTERM)
        with contextlib.suppress(OSError):  # The terminal closes with its last program.
            while more := os.read(person, 4096):
                seen += more
        assert server.wait(60) == 0
    os.close(person)
    text = seen.decode()
    assert "models identity" in re.sub("\x1b\\[[0-9;]*m", "", text)
    assert "=" not in text
    assert ("\x1b" in text) is not no_color
