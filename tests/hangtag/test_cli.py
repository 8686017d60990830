import importlib
import multiprocessing
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from hangtag.cli import SUBCOMMANDS, main
from hangtag.errors import UserError
from hangtag.variables import subcommands

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def python(code: str) -> str:
    """What a fresh process prints."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT).stdout


def test_help_lists_every_subcommand_and_imports_none_of_them() -> None:
    printed = python(
        "import sys\n"
        "from hangtag.cli import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'grpc', 'numpy'}\n"
        "heavy |= {'hangtag.training', 'hangtag.export', 'hangtag.serving'}\n"
        "print('IMPORTED', sorted(heavy & set(sys.modules)))\n"
    )
    assert "IMPORTED []" in printed
    for name, subcommand in SUBCOMMANDS.items():
        assert f"  {name} " in printed
        assert subcommand.summary in printed


def test_the_health_check_loads_little() -> None:
    """Containers run it every few seconds, within the limits of its server."""
    printed = python(
        "import sys\n"
        "from hangtag.cli import main\n"
        "try: main(['health', '--server', '127.0.0.1:1'], standalone_mode=False)\n"
        "except Exception as error: print(error)\n"
        "print('IMPORTED', sorted({'numpy', 'onnxruntime', 'PIL', 'hangtag.protos', 'rich'} & set(sys.modules)))\n"
    )
    assert "no server answers" in printed
    assert "IMPORTED []" in printed


def test_the_version_is_the_distributions() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert result.output.strip().endswith(metadata.version("hangtag"))


def test_the_version_is_shown_by_its_flag_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build's variable of this name would otherwise make every command print the version and do nothing."""
    monkeypatch.setenv("HANGTAG_VERSION", "1.2.3")
    assert "List every version" in CliRunner().invoke(main, ["models", "--help"]).output


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["srve"], "No such command 'srve'. Did you mean 'serve'?"),
        (["lodtest", "lstm"], "No such command 'lodtest'. Did you mean 'loadtest'?"),
        (["xyzzy"], "No such command 'xyzzy'. The commands: train, "),
        (["serve", "--modles", "x"], "No such option '--modles'"),
        (["serve", "--modles", "x"], "'--models'"),
    ],
)
def test_a_typing_error_is_a_usage_error_with_a_suggestion(typed: list[str], message: str) -> None:
    result = CliRunner().invoke(main, typed)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_every_subcommand_is_there_and_explains_itself(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert f"Usage: main {name}" in result.output


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_a_missing_module_names_the_extra_that_has_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str) -> object:
        raise ModuleNotFoundError(f"No module named {module!r}", name="brain")

    monkeypatch.setattr(importlib, "import_module", missing)
    result = CliRunner().invoke(main, [name])
    assert result.exit_code == 1
    assert result.output == (
        f"Error: 'hangtag {name}' needs the Python module 'brain', which is not installed here. "
        f"In the project's folder, install it with: pip install '.[{SUBCOMMANDS[name].extra}]'\n"
    )


def test_a_user_error_is_shown_as_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_options: object) -> None:
        raise UserError("no hats left")

    monkeypatch.setattr(main.get_command(click.Context(main), "health"), "callback", fail)
    result = CliRunner().invoke(main, ["health"])
    assert (result.exit_code, result.output) == (1, "Error: no hats left\n")


def test_ctrl_c_while_a_subcommand_is_imported_ends_with_one_line(tmp_path: Path) -> None:
    """A real signal, which a module sends that the import of the subcommand meets."""
    (tmp_path / "torch.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from hangtag.cli import main; main(['train', 'lstm'])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stopped\n")


def test_the_extras_that_are_named_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {subcommand.extra for subcommand in SUBCOMMANDS.values()} <= set(project["optional-dependencies"])


def test_every_option_can_be_given_as_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANGTAG_SERVE_PORT", "9000")
    command = main.get_command(click.Context(main), "serve")
    assert command is not None
    seen: dict[str, object] = {}
    monkeypatch.setattr(command, "callback", seen.update)
    assert CliRunner().invoke(main, ["serve"]).exit_code == 0
    assert seen.pop("port") == 9000
    assert CliRunner().invoke(main, ["serve", "--port", "9001"]).exit_code == 0
    assert seen.pop("port") == 9001


def options(path: str, command: click.Command) -> Iterator[tuple[str, click.Option]]:
    """Each option with its variable by README's rule: the command, and the flag."""
    for name, below in subcommands(command).items():
        yield from options(f"{path}_{name}", below)
    for option in command.params:
        if isinstance(option, click.Option):
            yield f"{path}{max(option.opts, key=len).replace('--', '_')}".replace("-", "_").upper(), option


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_every_variable_is_called_as_its_flag(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the Python parameter is not: --json is as_json."""
    command = main.get_command(click.Context(main), name)
    assert command is not None
    for variable, option in options(f"hangtag_{name}", command):
        prefix = variable.rpartition(max(option.opts, key=len).lstrip("-").replace("-", "_").upper())[0].rstrip("_")
        context = click.Context(command, auto_envvar_prefix=prefix)
        with monkeypatch.context() as patch:
            patch.setenv(variable, "given")
            assert option.resolve_envvar_value(context) == "given", variable


COMMON = {
    "HANGTAG_SERVER": ("health", "top", "classify", "loadtest", "models load", "models unload"),
    "HANGTAG_MODELS": ("serve", "export", "models list", "models show", "models promote", "models verify", "runs list"),
    "HANGTAG_TOKEN_FILE": ("health", "top", "classify", "loadtest", "models load", "models unload", "evaluate"),
}


@pytest.mark.parametrize(("common", "path"), [(variable, path) for variable, paths in COMMON.items() for path in paths])
def test_a_variable_for_all_commands_gives_way_to_the_command_s_own(
    common: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, *below = path.split()
    command = main.get_command(click.Context(main), name)
    for word in below:
        assert isinstance(command, click.Group)
        command = command.commands[word]
    assert command is not None
    flag = f"--{common.removeprefix('HANGTAG_').lower().replace('_', '-')}"
    own = "_".join(("HANGTAG", *path.upper().split(), common.removeprefix("HANGTAG_")))
    (option,) = [each for each in command.params if flag in each.opts]
    context = click.Context(command)
    monkeypatch.setenv(common, "for all")
    assert option.resolve_envvar_value(context) == "for all"
    monkeypatch.setenv(own, "for one")
    assert option.resolve_envvar_value(context) == "for one"
    monkeypatch.setenv(own, "")
    assert option.resolve_envvar_value(context) == "for all"
    help_text = "".join(CliRunner().invoke(main, [*path.split(), "--help"]).output.split())
    assert f"{own},{common}" in help_text


def test_a_certificate_of_the_client_is_none_of_the_server_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANGTAG_TLS_CERT", "client.pem")
    command = main.get_command(click.Context(main), "serve")
    assert command is not None
    (option,) = [each for each in command.params if "--tls-cert" in each.opts]
    assert option.resolve_envvar_value(click.Context(command)) is None


@pytest.mark.parametrize("value", ["inf", "nan"])
@pytest.mark.parametrize(
    "command", [["health", "--wait"], ["top", "--interval"], ["models", "load", "cnn", "--timeout"]], ids=" ".join
)
def test_times_must_be_finite(command: list[str], value: str) -> None:
    result = CliRunner().invoke(main, [*command, value])
    assert result.exit_code == 2
    assert "is not a finite number" in result.output


def test_a_bad_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANGTAG_SERVE_PORT", "eight")
    result = CliRunner().invoke(main, ["serve"])
    assert result.exit_code == 2
    assert "'eight' is not a whole number" in result.output


def test_children_run_nothing_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers of serve, loadtest and train are started by multiprocessing, which imports socket."""
    marker = tmp_path / "was run"
    (tmp_path / "socket.py").write_text(f"open({str(marker)!r}, 'w')\nraise SystemExit(7)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    ended = []

    def work(**_options: object) -> None:
        child = multiprocessing.get_context("spawn").Process(target=os.getpid)
        child.start()
        child.join()
        ended.append(child.exitcode)

    command = main.get_command(click.Context(main), "health")
    monkeypatch.setattr(command, "callback", work)
    assert CliRunner().invoke(main, ["health"]).exit_code == 0
    assert (ended, marker.exists()) == ([0], False)
    assert "PYTHONSAFEPATH" not in os.environ


def test_what_serves_leaves_torch_out() -> None:
    printed = python(
        "import importlib, pkgutil, sys\n"
        "from hangtag import serving\n"
        "names = [module.name for module in pkgutil.walk_packages(serving.__path__, 'hangtag.serving.')]\n"
        "for name in names:\n"
        "    importlib.import_module(name)\n"
        "print(len(names), sorted({'torch', 'torchvision', 'onnx', 'onnxscript'} & set(sys.modules)))\n"
    )
    count, _, modules = printed.strip().partition(" ")
    assert int(count) > 20
    assert modules == "[]"
