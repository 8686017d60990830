"""A program that imports hangtag keeps its environment, its limits and its log levels."""

import json
import subprocess
import sys

import pytest

from tests.kit import shipped
from tests.kit.command import environment

pytestmark = pytest.mark.slow

_COMPARE = """
import json, logging, os, sys
import PIL.Image

def settings():
    levels = {name: logging.getLogger(name).level for name in ("", "PIL", "grpc", "asyncio")}
    return {
        "environment": dict(os.environ), "pixels": PIL.Image.MAX_IMAGE_PIXELS, "levels": levels,
        "handlers": len(logging.root.handlers), "disabled": logging.root.manager.disable,
    }

changes = {}
before = settings()
for statement in sys.argv[1:]:
    exec(statement)
    after = settings()
    changes[statement] = {name: [before[name], after[name]] for name in before if before[name] != after[name]}
    before = after
print(json.dumps(changes))
"""
# One process imports them all, the smaller ones first: what changes a setting does it at its first import.
_STATEMENTS = (
    "from hangtag.serving.client import Client",
    "import hangtag.serving.loadtest.cli",
    "import hangtag.serving.server.process.server",
    "import hangtag.serving.server.process.main",
    "import hangtag.serving.server.process.workers.worker",
    "import hangtag.serving.server.cli, hangtag.cli",
    "import hangtag.export.verify",
    "from pathlib import Path; from hangtag.training.tasks.onnx_teacher import OnnxTeacher as Teacher\n"
    f"Teacher(Path({str(shipped.latest('cnn'))!r}))",
)
_GRPC_AND_ORT = ("GRPC_VERBOSITY", "ORT_DISABLE_TELEMETRY")


def test_an_import_changes_nothing_of_the_importing_program() -> None:
    result = subprocess.run(
        [sys.executable, "-c", _COMPARE, *_STATEMENTS], check=True, capture_output=True, text=True, env=environment()
    )
    assert json.loads(result.stdout) == {statement: {} for statement in _STATEMENTS}


def test_a_load_test_starts_without_matplotlib_which_only_its_page_needs() -> None:
    code = "import hangtag.serving.loadtest.cli, sys; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=environment())


def test_a_health_check_which_containers_run_every_few_seconds_loads_little() -> None:
    code = "import hangtag.serving.client.health, sys; print({'numpy', 'httpx2', 'hangtag.protos'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment())
    assert done.stdout == "set()\n"


def variables_after(code: str, **variables: str) -> dict[str, str | None]:
    """gRPC's and ONNX Runtime's variables once this code has run in a process of its own."""
    code = f"import os, sys\n{code}\nprint({{name: os.environ.get(name) for name in {_GRPC_AND_ORT!r}}})"
    result = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment(**variables)
    )
    return dict(eval(result.stdout.splitlines()[-1]))


def test_a_commands_process_silences_grpcs_core_before_it_imports_grpc() -> None:
    code = (
        "from hangtag.cli import main\nmain(['health', '--help'], standalone_mode=False)\nassert 'grpc' in sys.modules"
    )
    assert variables_after(code)["GRPC_VERBOSITY"] == "NONE"
    assert variables_after(code, GRPC_VERBOSITY="debug")["GRPC_VERBOSITY"] == "debug"


@pytest.mark.parametrize(
    "module", ["hangtag.serving.server.cli", "hangtag.serving.server.process.workers.entry"], ids=["serve", "worker"]
)
def test_a_servers_process_starts_without_grpc_and_onnx_runtime_so_that_it_can_prepare_them(module: str) -> None:
    code = (
        f"import {module}\n"
        "assert not {'grpc', 'onnxruntime'} & {*sys.modules}\n"
        "from hangtag.serving.server.process import environment\n"
        "environment.prepare()"
    )
    assert variables_after(code) == {"GRPC_VERBOSITY": "NONE", "ORT_DISABLE_TELEMETRY": "1"}


def test_what_the_operator_has_set_stays() -> None:
    code = "from hangtag.serving.server.process import environment\nenvironment.prepare()\nenvironment.prepare()"
    mine = {"GRPC_VERBOSITY": "ERROR", "ORT_DISABLE_TELEMETRY": "0"}
    assert variables_after(code, **mine) == mine
