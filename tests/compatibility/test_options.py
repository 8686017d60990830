"""Options and variables of release 0.1.0's commands still exist, or their absence is reported."""

import json

import click
import pytest
from click.testing import CliRunner

from hangtag.cli import main
from hangtag.variables import warn_about_unknown
from tests.compatibility.earlier_client import RELEASE

OPTIONS: dict[str, dict[str, list[str]]] = json.loads((RELEASE / "options.json").read_text())
GONE = {"--hot-path", "HANGTAG_SERVE_HOT_PATH"}


@pytest.mark.slow  # it imports every command
@pytest.mark.parametrize("path", OPTIONS)
def test_every_option_and_variable_is_still_there(path: str) -> None:
    command: click.Command | None = main
    for name in path.split():
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), name)
    assert command is not None
    options = [option for option in command.params if isinstance(option, click.Option)]
    flags = {flag for option in options for flag in (*option.opts, *option.secondary_opts)}
    variables = {name for option in options for name in option.envvar or []}
    assert {*OPTIONS[path]["options"], *OPTIONS[path]["variables"]} - flags - variables <= GONE


def test_an_option_that_is_gone_is_an_error() -> None:
    result = CliRunner().invoke(main, ["serve", "--hot-path", "on"])
    assert result.exit_code == 2
    assert "No such option '--hot-path'" in result.output


def test_a_variable_that_sets_nothing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANGTAG_SERVE_HOT_PATH", "on")
    monkeypatch.setenv("HANGTAG_SERVE_TOKEN_FILES", "tokens")
    monkeypatch.setenv("HANGTAG_SERVE_PORT", "9000")
    monkeypatch.setenv("HANGTAG_SERVER", "127.0.0.1:9000")  # for all commands
    result = CliRunner().invoke(main, ["serve", "--help"])
    assert result.exit_code == 0
    gone, misspelt = result.stderr.splitlines()
    assert "HANGTAG_SERVE_HOT_PATH" in gone
    assert "upgrading.md" in gone
    assert "HANGTAG_SERVE_TOKEN_FILES" in misspelt
    assert "did you mean HANGTAG_SERVE_TOKEN_FILE?" in misspelt


def test_variables_of_a_subcommand_are_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HANGTAG_MODELS_LIST_JSON", "1")
    monkeypatch.setenv("HANGTAG_MODELS_LISTS_JSON", "1")
    command = main.get_command(click.Context(main, resilient_parsing=True), "models")
    assert command is not None
    warn_about_unknown(command, "HANGTAG_MODELS")
    warned = capsys.readouterr().err
    assert len(warned.splitlines()) == 1
    assert "HANGTAG_MODELS_LISTS_JSON" in warned
