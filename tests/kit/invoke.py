"""Runs the command ``hangtag`` in this process, and requires of a refusal that it leaves nothing behind."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hangtag.cli import main


def invoke(*arguments: object, answer: str | None = None) -> Result:
    """The command in this process; an exception that it does not handle fails the test.

    Args:
        arguments: The command's, each as text.
        answer: What is typed in.
    """
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], input=answer)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def succeed(*arguments: object) -> Result:
    """The command, which must succeed."""
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result


def refusal(folder: Path, *arguments: object) -> str:
    """The message of a command that must fail: it prints nothing else, and leaves this folder as it was."""
    before = contents(folder)
    result = invoke(*arguments)
    assert (result.exit_code, result.stdout) == (1, ""), result.output
    assert contents(folder) == before
    message = result.stderr.partition("Error: ")[2].strip()
    assert message
    assert "\n" not in message
    return message


def contents(folder: Path) -> dict[str, str]:
    """Every path under the folder: a file's digest, or "folder"."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
    }


@dataclass(frozen=True)
class Export:
    """What ``hangtag export`` did in a folder of its own: models/, reports/export/, and its output."""

    folder: Path
    stdout: str
    stderr: str

    @property
    def page(self) -> Path:
        """The report, which is the only one."""
        (page,) = (self.folder / "reports/export").iterdir()
        return page


def published_in(folder: Path, *arguments: object, **variables: str) -> Export:
    """Export, with the command's default folders in this one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, value in variables.items():
            patch.setenv(name, value)
        result = succeed("export", *arguments)
    return Export(folder, result.stdout, result.stderr)
