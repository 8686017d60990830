"""Runs `python -m studies` in a process of its own, as a person does."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from studies import results
from studies.page import ROOT
from tests.kit.shipped import MODELS


def repository(folder: Path, *names: str) -> Path:
    """A model repository with some of the shipped models, which starts faster than one with all."""
    folder.mkdir()
    for name in names:
        (folder / name).symlink_to(MODELS / name)
    return folder


def study(*words: str | Path, exit_codes: tuple[int, ...] = (0,)) -> str:
    """Run a command of a study, and return what it printed.

    Args:
        words: The study, its command and the options.
        exit_codes: Those with which it may end.
    """
    with subprocess.Popen(
        [sys.executable, "-m", "studies", *words],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            output, _ = process.communicate()
        except BaseException:  # the test takes too long, or Ctrl-C: the study stops its servers when it is interrupted
            process.send_signal(signal.SIGINT)
            raise
    assert process.returncode in exit_codes, output
    return output


def measured(out: Path, part: Callable[[Path], str], *words: str | Path) -> tuple[dict[str, results.Line], str]:
    """Run a study that records its results in a file.

    Args:
        out: The file.
        part: Makes the study's part of a page from such a file, and fails where a figure is missing.
        words: As for ``study``.

    Returns:
        The lines that it recorded, and the part of the page.
    """
    output = study(*words, "--out", out)
    assert out.exists(), output
    return results.read(out), part(out)
