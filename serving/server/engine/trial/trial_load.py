"""The server's side of a trial: starts the child process, waits for its verdict, and ends it where that is late."""

import contextlib
import json
import pickle
import signal
import subprocess
import sys
import threading

from hangtag.serving.model_repository import ModelFile
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.errors import ModelLoadError, UnavailableError

_CHILD = "hangtag.serving.server.engine.trial.child"


class TrialLoad:
    """Runs one trial at a time."""

    def __init__(self, config: ServerConfig) -> None:
        """config: The server's settings, which state how much time and memory a trial may take."""
        self._config = config
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def require_loadable(self, file: ModelFile) -> None:
        """Load and warm up a version in a child process.

        Args:
            file: The version in the model repository.

        Raises:
            ModelLoadError: The version cannot be loaded, took too long or too much memory, or ended the process.
            UnavailableError: ``stop`` was called.
        """
        config = self._config
        limits = (str(config.trial_load_seconds), str(config.trial_load_mib << 20))
        # -P keeps the working directory out of sys.path, so that a numpy.py that lies there is not run.
        command = [sys.executable, "-P", "-m", _CHILD, *limits]
        with self._lock:
            self._require_not_stopped()
            try:
                self._process = process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
                )
            except OSError as error:
                raise ModelLoadError(f"no child process for the trial of {file.path}: {error.strerror}") from error
        with process:
            try:
                output, _ = process.communicate(pickle.dumps((file, config)), config.trial_load_seconds)
                problem = _problem(output, process)
            except subprocess.TimeoutExpired:
                problem = "it takes longer"
            finally:
                process.kill()
        with self._lock:
            self._process = None
            self._require_not_stopped()
        if problem:
            raise ModelLoadError(
                f"{file.path} could not be loaded in a child process (--trial-load-seconds "
                f"{config.trial_load_seconds:g}, --trial-load-mib {config.trial_load_mib}): {problem}"
            )

    def stop(self) -> None:
        """End a trial that is running, and run none any more."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.kill()

    def _require_not_stopped(self) -> None:
        if self._stopped:
            raise UnavailableError("the server is stopping, and loads nothing any more")


def _problem(output: bytes, process: subprocess.Popen[bytes]) -> str:
    """Return why the version cannot be loaded; empty where it can."""
    with contextlib.suppress(IndexError, ValueError):
        return str(json.loads(output.splitlines()[-1])["problem"])
    code = process.wait()
    return f"it ends the process ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"
