"""The limit on open files, changed in processes of their own."""

import os
import re
import resource
import sys

from hangtag.serving.server.host import open_files
from tests.kit.forkserver import Forked


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def run(soft: int, hard: int, connections: int) -> None:
    """Print the limit after it was raised."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    open_files.raise_limit(connections)
    say(str(resource.getrlimit(resource.RLIMIT_NOFILE)[0]))


def exhaust(soft: int) -> None:
    """Check before all files are open, while, and after."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, soft))
    files = open_files.OpenFiles()
    files.check()
    say("free")
    taken = []
    try:
        while True:
            taken.append(os.dup(0))
    except OSError:
        files.check()
        files.check()
    say("full")
    for descriptor in taken:
        os.close(descriptor)
    files.check()


def output(work: object, *arguments: int) -> str:
    with Forked(work, *arguments) as process:  # type: ignore[arg-type]
        stdout, stderr = process.communicate(30)
        assert process.returncode == 0, stderr
        return stdout


def test_the_limit_is_raised_to_what_the_system_allows() -> None:
    assert output(run, 256, 4096, 1024).splitlines() == ["4096"]


def test_a_limit_that_is_too_low_is_a_warning() -> None:
    warning, limit = output(run, 256, 512, 1024).splitlines()
    assert limit == "512"
    assert "--max-connections" in warning
    assert re.findall(r"limit=(\d+) needed=(\d+)", warning) == [("512", "1280")]


def test_a_process_that_can_open_no_more_files_says_so() -> None:
    free, warning, full, over = output(exhaust, 64).splitlines()
    assert (free, full) == ("free", "full")
    assert "no more files can be opened" in warning
    assert "limit=64" in warning
    assert "files can be opened again" in over
