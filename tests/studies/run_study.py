"""Runs `python -m studies` in another process."""

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
    """A model repository with only a few shipped models, so that a server starts faster than with all of them."""
    folder.mkdir()
    for name in names:
        (folder / name).symlink_to(MODELS / name)
    return folder


def study(*words: str | Path, exit_codes: tuple[int, ...] = (0,)) -> str:
    """Run a command of a study, and return the command's output.

    Args:
        words: The study, the study's command and the options.
        exit_codes: The allowed exit codes.
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
        except BaseException:  # a timeout or Ctrl-C: let the study stop its servers
            process.send_signal(signal.SIGINT)
            raise
    assert process.returncode in exit_codes, output
    return output


def measured(out: Path, part: Callable[[Path], str], *words: str | Path) -> tuple[dict[str, results.Line], str]:
    """Run a study that records its results in a file.

    Args:
        out: The file for the results.
        part: Returns the study's section of a page, generated from this results file, and fails if a result is missing.
        words: The study, the study's command and the options, without --out.

    Returns:
        The recorded lines, and the section of the page.
    """
    output = study(*words, "--out", out)
    assert out.exists(), output
    return results.read(out), part(out)
