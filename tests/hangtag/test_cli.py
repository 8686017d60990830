"""The command as a whole: its subcommands, options, variables and errors, and the modules that it imports."""

import json
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import click
import pytest

import hangtag
from hangtag.cli import SUBCOMMANDS, main
from hangtag.serving.client import Client, ClientError
from hangtag.serving.server.process.server import Server
from tests.kit.command import ROOT, invoke, python, refusal, without
from tests.kit.shipped import latest

# Imports.


def imported(code: str) -> tuple[str, set[str]]:
    """The output of Python statements in a new process, and the names of the modules that the process has imported."""
    done = python(f"{code}\nimport sys; print('IMPORTED', *sys.modules)")
    assert done.returncode == 0, done.stderr
    printed, _, modules = done.stdout.partition("IMPORTED ")
    return printed, {*modules.split()}


def test_help_lists_every_subcommand_and_imports_none_of_them() -> None:
    shown, modules = imported("from hangtag.cli import main; main(['--help'], standalone_mode=False)")
    assert not {"torch", "onnx", "onnxruntime", "grpc", "numpy"} & modules
    assert not {"hangtag.training", "hangtag.export", "hangtag.serving"} & modules
    for name, subcommand in SUBCOMMANDS.items():
        assert f"  {name} " in shown
        assert subcommand.summary in shown


def test_the_health_check_loads_little() -> None:
    shown, modules = imported(
        "from hangtag.cli import main\n"
        "try: main(['health', '--server', '127.0.0.1:1'], standalone_mode=False)\n"
        "except Exception as error: print(error)\n"
    )
    assert "no server answers" in shown
    assert not {"numpy", "onnxruntime", "PIL", "httpx2", "hangtag.protos.inference_pb2", "rich"} & modules


def test_importing_hangtag_loads_no_other_package() -> None:
    _, before = imported("")
    names, modules = imported("import hangtag; print(dir(hangtag))")
    assert "'Client'" in names
    more = {name for name in modules - before if name.partition(".")[0] not in sys.stdlib_module_names}
    assert more == {"hangtag", "hangtag.errors"}


def test_the_public_names_are_those_of_the_client() -> None:
    names = vars(hangtag)["__all__"]  # type checkers read the imports instead of this list
    assert [getattr(hangtag, name).__name__ for name in names] == names
    assert (hangtag.Client, hangtag.ClientError) == (Client, ClientError)
    assert issubclass(hangtag.ClientError, hangtag.UserError)
    with pytest.raises(AttributeError, match="Clint"):
        _ = hangtag.Clint  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("missing", "arguments", "extra"),
    [
        ("torch", ["train"], "train"),
        ("onnx", ["export"], "export"),
        ("grpc", ["loadtest"], "loadtest"),
        ("onnxruntime", ["models"], "cpu"),
        ("torch", ["evaluate", "a-run"], "train"),
        ("matplotlib", ["evaluate", latest("lstm"), "--pictures", "pictures"], "export"),
        ("onnxruntime", ["evaluate", latest("lstm")], "cpu"),
    ],
    ids=lambda value: " ".join(map(str, value[:1])) if isinstance(value, list) else value,
)
def test_a_missing_package_is_named_with_the_extra_that_has_it(
    tmp_path: Path, missing: str, arguments: list[object], extra: str
) -> None:
    (tmp_path / "config.json").write_text('{"model": "cnn", "recipe": {}}')
    (tmp_path / "metrics.json").write_text('{"epochs": [], "summary": {}}')
    ended = without([missing], *(tmp_path if word == "a-run" else word for word in arguments))
    assert (ended.returncode, ended.stdout) == (1, "")
    (line,) = ended.stderr.splitlines()
    assert f"needs the Python module '{missing}" in line
    assert f"pip install '.[{extra}]'" in line


def test_the_extras_that_are_named_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {subcommand.extra for subcommand in SUBCOMMANDS.values()} <= set(project["optional-dependencies"])


def test_children_run_nothing_of_the_current_folder(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands serve, loadtest and train start processes with multiprocessing, which imports socket."""
    (tmp_path / "socket.py").write_text("open('was run', 'w')\nraise SystemExit(7)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    load = ("--concurrency", 2, "--processes", 2, "--min-duration", 0.1, "--min-query-count", 10, "--blocks", 1)
    printed = invoke("loadtest", "--json", "lstm", "--server", server.address, *load, exit_code=None).stdout
    statuses = json.loads(printed)["runs"][0]["total"]["statuses"]
    assert list(statuses) == ["OK"]
    assert not Path("was run").exists()


# Command lines.


def test_the_version_is_the_distributions_and_shown_by_its_flag_alone() -> None:
    assert invoke("--version").stdout.strip().endswith(metadata.version("hangtag"))
    # --version reads no variable. Otherwise, every command in a build that sets HANGTAG_VERSION would only print the
    # version.
    assert "List every version" in invoke("models", "--help", variables={"HANGTAG_VERSION": "1.2.3"}).stdout


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_every_subcommand_is_there_and_explains_itself(name: str) -> None:
    shown = invoke(name, "--help", columns=80).stdout.splitlines()
    assert f"Usage: main {name}" in shown[0]
    assert len(shown) <= 115  # two screens


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("srve", "Did you mean 'serve'?"),
        ("lodtest lstm", "Did you mean one of: 'loadtest', "),
        ("xyzzy", "No such command 'xyzzy'."),
        ("serve --modles x", "'--models'"),
        ("health --wait inf", "is not a finite number"),
        ("top --interval 50ms", "0.05 is not in the range"),
    ],
)
def test_a_typing_error_is_a_usage_error_with_a_hint(typed: str, hint: str) -> None:
    assert hint in " ".join(invoke(*typed.split(), exit_code=2).stderr.split())


@pytest.mark.parametrize("text", ["\x1b[2J", "two\nlines", "\x9b2J", "\x07"])
def test_an_error_is_one_line_without_control_characters(text: str, tmp_path: Path) -> None:
    line = refusal("models", "list", "--models", tmp_path / f"no{text}folder")
    assert line.isprintable()
    assert text.encode("unicode_escape").decode() in line


@pytest.mark.parametrize("module", ["click", "torch"])
def test_ctrl_c_while_modules_are_imported_ends_with_one_line(module: str, tmp_path: Path) -> None:
    """The imported module sends SIGINT to its own process."""
    (tmp_path / f"{module}.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.argv[1:] = ['train', 'lstm']"
    done = python(f"{code}; from hangtag.__main__ import main; main()")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stopped\n")


# Environment variables.


def options(path: str, command: click.Command) -> Iterator[tuple[str, click.Option]]:
    """Yield each option, with the name that docs/reference/options.md prescribes for its environment variable."""
    for name, below in getattr(command, "commands", {}).items():
        yield from options(f"{path}_{name}", below)
    for option in command.params:
        if isinstance(option, click.Option):
            yield f"{path}{max(option.opts, key=len).replace('--', '_')}".replace("-", "_").upper(), option


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_every_variable_is_called_as_its_flag(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_a_variable_for_all_commands_is_shown_with_the_commands_own(common: str, path: str) -> None:
    own = "_".join(("HANGTAG", *path.upper().split(), common.removeprefix("HANGTAG_")))
    assert f"{own},{common}" in "".join(invoke(*path.split(), "--help").stdout.split())


def test_a_flag_replaces_the_commands_own_variable_and_that_the_one_for_all_commands() -> None:
    given = {"HANGTAG_SERVER": "127.0.0.1:1"}
    assert "127.0.0.1:1" in refusal("health", variables=given)
    given["HANGTAG_HEALTH_SERVER"] = ""
    assert "127.0.0.1:1" in refusal("health", variables=given)
    given["HANGTAG_HEALTH_SERVER"] = "127.0.0.1:2"
    assert "127.0.0.1:2" in refusal("health", variables=given)
    assert "127.0.0.1:3" in refusal("health", "--server", "127.0.0.1:3", variables=given)


def test_a_certificate_of_the_client_is_none_of_the_servers() -> None:
    certificate = {"HANGTAG_TLS_CERT": "client.pem", "HANGTAG_TLS_KEY": "client.pem"}
    assert "client certificate" in invoke("health", exit_code=2, variables=certificate).stderr
    assert "no-models" in refusal("serve", "--models", "no-models", "--port", 0, variables=certificate)


def test_variables_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    bad = invoke("serve", exit_code=2, variables={"HANGTAG_SERVE_PORT": "eight"})
    assert "(env var: 'HANGTAG_SERVE_PORT'): 'eight' is not" in bad.stderr
    useful = {"HANGTAG_SERVE_PORT": "9000", "HANGTAG_SERVER": "127.0.0.1:9000"}
    useless = {"HANGTAG_SERVE_HOT_PATH": "on", "HANGTAG_SERVE_TOKEN_FILES": "tokens"}
    gone, misspelt = invoke("serve", "--help", variables=useful | useless).stderr.splitlines()
    assert "HANGTAG_SERVE_HOT_PATH" in gone
    assert "docs/how-to/upgrade.md" in gone
    assert "HANGTAG_SERVE_TOKEN_FILES" in misspelt
    assert "did you mean HANGTAG_SERVE_TOKEN_FILE?" in misspelt
    json_lists = {"HANGTAG_MODELS_LIST_JSON": "1", "HANGTAG_MODELS_LISTS_JSON": "1"}
    listed = invoke("models", "--models", tmp_path, variables=json_lists)
    (warning,) = listed.stderr.splitlines()
    assert "HANGTAG_MODELS_LISTS_JSON" in warning
    assert json.loads(listed.stdout) == []
