"""Importing hangtag changes no environment variables, limits or log levels of a program."""

import json

import pytest

from tests.kit import shipped
from tests.kit.command import python

pytestmark = pytest.mark.slow

_COMPARE = """
import json, logging, os
import PIL.Image

def settings():
    levels = {name: logging.getLogger(name).level for name in ("", "PIL", "grpc", "asyncio")}
    return {
        "environment": dict(os.environ), "pixels": PIL.Image.MAX_IMAGE_PIXELS, "levels": levels,
        "handlers": len(logging.root.handlers), "disabled": logging.root.manager.disable,
    }

changes = {}
before = settings()
for statement in STATEMENTS:
    exec(statement)
    after = settings()
    changes[statement] = {name: [before[name], after[name]] for name in before if before[name] != after[name]}
    before = after
print(json.dumps(changes))
"""
# One process imports all modules, the small ones first: a large module imports them, and a later import runs no code.
_STATEMENTS = (
    "from hangtag.serving.client import Client",
    "import hangtag.serving.loadtest.cli",
    "import hangtag.serving.server.process.server",
    "import hangtag.serving.server.process.main",
    "import hangtag.serving.server.process.worker",
    "import hangtag.serving.server.cli, hangtag.cli",
    "import hangtag.export.verify",
    "from pathlib import Path; from hangtag.training.tasks.teacher import TeacherEnsemble\n"
    "from hangtag.training.data.fashion_mnist import IMAGE, LABELS\n"
    f"TeacherEnsemble([Path({str(shipped.latest('cnn'))!r})], LABELS, IMAGE)",
)
_PREPARE = "from hangtag.serving.server.process import environment; environment.prepare(); environment.prepare()"
_VERBOSITY = ("GRPC_VERBOSITY", "NONE", "debug")


def printed(code: str, **variables: str) -> str:
    """Run code in another process, which must exit with code 0, and return the output."""
    done = python(code, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_import_changes_nothing_of_the_importing_program() -> None:
    assert json.loads(printed(f"STATEMENTS = {_STATEMENTS!r}\n{_COMPARE}")) == {
        statement: {} for statement in _STATEMENTS
    }


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("loadtest.cli", ["matplotlib"]),  # Only the HTML report needs matplotlib.
        ("server.cli", ["grpc", "onnxruntime"]),  # The process sets its environment before it imports these.
        ("server.process.worker", ["grpc", "onnxruntime"]),
    ],
)
def test_a_command_loads_little_before_it_runs(module: str, heavy: list[str]) -> None:
    assert printed(f"import hangtag.serving.{module}, sys; print({{*{heavy}}} & {{*sys.modules}})") == "set()\n"


@pytest.mark.parametrize(
    ("code", "name", "value", "set_by_the_operator"),
    [
        ("from hangtag.cli import main; main(['health', '--help'], standalone_mode=False)", *_VERBOSITY),
        (_PREPARE, *_VERBOSITY),
        (_PREPARE, "ORT_DISABLE_TELEMETRY", "1", "0"),
    ],
    ids=["a caller's", "a server's", "ONNX Runtime's in a server"],
)
def test_a_commands_process_silences_its_libraries_unless_the_operator_says_otherwise(
    code: str, name: str, value: str, set_by_the_operator: str
) -> None:
    code = f"import os\n{code}\nprint(os.environ[{name!r}])"
    assert printed(code).splitlines()[-1] == value
    assert printed(code, **{name: set_by_the_operator}).splitlines()[-1] == set_by_the_operator


def test_without_its_extra_an_address_of_http_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['httpx2'] = None\n"
        "import hangtag\n"
        "for client in (hangtag.Client, hangtag.AsyncClient):\n"
        "    client('127.0.0.1:8001')\n"
        "    try: client('http://127.0.0.1:8000')\n"
        "    except hangtag.UserError as error: print(error)"
    )
    shown = printed(code)
    assert shown.count("'httpx2'") == shown.count("pip install '.[http]'") == 2
