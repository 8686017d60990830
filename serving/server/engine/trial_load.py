"""Loads a version in a child process before the server loads it (--trial-load-seconds). If a file takes too much memory
or time, only the child process ends. The child runs this module, and reads the pickled version and settings from
standard input. The last line of its standard output is a JSON object with ``problem``, which is empty if the load
succeeded."""

import contextlib
import json
import pickle
import resource
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hangtag.errors import UserError
from hangtag.serving.server.errors import ModelLoadError, ServerError, UnavailableError

if TYPE_CHECKING:  # the child sets its own limits before it imports anything large
    from hangtag.serving.model_repository import ModelFile
    from hangtag.serving.server.config.server_config import ServerConfig

_SPARE_SECONDS = 5.0
_CHECK_SECONDS = 0.1


def require_loadable(file: "ModelFile", config: "ServerConfig", stopping: threading.Event) -> None:
    """Load and warm up a version in a child process. Raises ModelLoadError if the load fails, takes more time or memory
    than the settings allow, or ends the process, and UnavailableError if ``stopping`` is set."""
    require_running(stopping)
    deadline = time.monotonic() + config.trial_load_seconds
    # -P keeps the working directory out of sys.path, so that a numpy.py in it is not run.
    command = [sys.executable, "-P", "-m", __name__]
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError as error:
        raise ModelLoadError(f"no child process can be started to try {file.path}: {error.strerror}") from error
    sent: bytes | None = pickle.dumps((file, config))
    problem = "loading takes longer"
    with process:
        try:
            while time.monotonic() < deadline and not stopping.is_set():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    output, _ = process.communicate(sent, _CHECK_SECONDS)
                    problem = _problem(output, process)
                    break
                sent = None  # the first call to ``communicate`` has already sent the input
        finally:
            process.kill()
    require_running(stopping)
    if problem:
        raise ModelLoadError(
            f"{file.path} could not be loaded in a child process (--trial-load-seconds "
            f"{config.trial_load_seconds:g}, --trial-load-mib {config.trial_load_mib}): {problem}"
        )


def require_running(stopping: threading.Event) -> None:
    if stopping.is_set():
        raise UnavailableError("the server is stopping, and loads no more models")


def _problem(output: bytes, process: subprocess.Popen[bytes]) -> str:
    """Return why the version cannot be loaded, or "" if it can be loaded."""
    with contextlib.suppress(IndexError, ValueError):
        return str(json.loads(output.splitlines()[-1])["problem"])
    code = process.wait()
    return f"loading ends the process ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"


def _limit_this_process(config: "ServerConfig") -> None:
    signal.setitimer(signal.ITIMER_REAL, config.trial_load_seconds + _SPARE_SECONDS)  # SIGALRM then ends this process
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # RLIMIT_AS would be too strict, because libraries (CUDA's above all) reserve far more address space than they use.
    resource.setrlimit(resource.RLIMIT_DATA, (config.trial_load_mib << 20, config.trial_load_mib << 20))
    with contextlib.suppress(OSError):  # only Linux has this file
        Path("/proc/self/oom_score_adj").write_text("1000")  # if memory runs out, the kernel kills this process first


def _load() -> str:
    """Load the version in the same way as the server. Return why the load failed, or ""."""
    file, config = pickle.load(sys.stdin.buffer)  # noqa: S301 - the server has written it
    _limit_this_process(config)
    # Imported here and not above, so that the limits also apply to the import.
    from hangtag.serving.server.engine.loading import ModelLoader

    try:
        ModelLoader(replace(config, trial_load_seconds=0.0)).load_once(file).close()
    except (ServerError, UserError) as error:
        return str(error)
    except MemoryError:
        return "loading needs more memory"
    return ""


if __name__ == "__main__":
    sys.stdout.write(json.dumps({"problem": _load()}) + "\n")
