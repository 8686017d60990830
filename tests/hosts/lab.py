"""Three hosts with a server each, a proxy in front of the servers, and programs that call them."""

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE

from studies.bench.process import Served, hangtag_serve
from studies.page import ROOT
from tests.hosts.caller import MODEL, Call
from tests.hosts.network import Cable, Namespace, network
from tests.kit import onnx_models

ADDRESSES = ("10.0.0.11", "10.0.0.12", "10.0.0.13")
"""The settings of deploy/haproxy.cfg, so that the test uses the proxy as hangtag ships it."""
PORT = 8001
SERVERS = "ipv4:" + ",".join(f"{address}:{PORT}" for address in ADDRESSES)
PROXY = "127.0.0.1:8080"
HAPROXY_CONFIG = ROOT / "deploy" / "haproxy.cfg"
_TIMEOUT = 30.0


class Host:
    """A machine with a server.

    Attributes:
        number: The host's index in ADDRESSES, which is also the answer of the host's model.
    """

    def __init__(self, number: int, namespace: Namespace, cable: Cable, models: Path) -> None:
        """models: A folder for the host's model repository."""
        self.number = number
        self._cable = cable
        onnx_models.publish(models, MODEL, onnx_models.shifted(number))
        launch = hangtag_serve(models, "--host", ADDRESSES[number], "--port", str(PORT), "--metrics-port", "8002")
        self._launch = replace(launch, command=tuple(namespace.command(*launch.command)))
        self._server: Served | None = None

    def start(self) -> None:
        """Start the server, and return when it is ready. Raises click.ClickException if the server does not start."""
        self._server = Served(self._launch)

    def stop(self) -> None:
        """Let the server finish its calls, and wait for its end."""
        if self._server:
            self._server.close()

    @contextmanager
    def killed(self) -> Iterator[None]:
        """Kill the server, and start a server again at the end of the context."""
        assert self._server
        self._server.kill()
        yield
        self.start()

    @contextmanager
    def cut_off(self) -> Iterator[None]:
        """Cut the host's cable while the context is open. Neither end of the cable is notified."""
        self._cable.cut()
        yield
        self._cable.heal()


class Caller:
    """A process that runs caller.py. Its calls can be read while the process runs.

    Attributes:
        calls: The calls that have ended, in the order in which they ended.
    """

    def __init__(self, namespace: Namespace, address: str, *options: str) -> None:
        """options: The options of caller.py, without the address."""
        self.calls: list[Call] = []
        self._changed = threading.Condition()
        program = (sys.executable, "-m", "tests.hosts.caller", "--address", address, *options)
        self._process = subprocess.Popen(namespace.command(*program), stdin=PIPE, stdout=PIPE, text=True, cwd=ROOT)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def close(self) -> None:
        """End the program, and wait for the calls in flight. A second call does nothing."""
        with self._process:
            assert self._process.stdin
            self._process.stdin.close()
            self._reader.join()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            with self._changed:
                self.calls.append(Call(*json.loads(line)))
                self._changed.notify_all()

    def wait_until(self, met: Callable[[Sequence[Call]], object], seconds: float = _TIMEOUT) -> None:
        """Wait until the calls so far meet a condition. Raises TimeoutError if they do not meet it in time."""
        with self._changed:
            if not self._changed.wait_for(lambda: met(self.calls), seconds):
                raise TimeoutError(f"after {seconds:g} s the last of {len(self.calls)} calls are {self.calls[-5:]}")


class Lab:
    """A set of hosts with running servers.

    Attributes:
        hosts: The hosts in the order of their numbers.
    """

    def __init__(self, clients: Namespace, hosts: Sequence[Host]) -> None:
        self.hosts = hosts
        self._clients = clients

    @contextmanager
    def callers(self, options: Mapping[str, Sequence[str]]) -> Iterator[dict[str, Caller]]:
        """Run callers, and enter the context when every host has answered each caller.

        Args:
            options: The address and the options of each caller, by the caller's name.
        """
        with ExitStack() as stack:
            callers = {}
            for name, (address, *others) in options.items():
                callers[name] = Caller(self._clients, address, *others)
                stack.callback(callers[name].close)
            for caller in callers.values():
                caller.wait_until(lambda calls: {host.number for host in self.hosts} <= {call.host for call in calls})
            yield callers

    @contextmanager
    def proxy(self) -> Iterator[None]:
        """Run HAProxy with deploy/haproxy.cfg on the clients' host."""
        command = self._clients.command("haproxy", "-db", "-f", HAPROXY_CONFIG)
        process = subprocess.Popen(command)
        try:
            yield
        finally:
            process.terminate()
            process.wait()


@contextmanager
def lab() -> Iterator[Lab]:
    """Three hosts with a running server each."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        clients, machines = stack.enter_context(network(ADDRESSES))
        hosts = [Host(number, *machine, folder / str(number)) for number, machine in enumerate(machines)]
        for host in hosts:
            stack.callback(host.stop)
            host.start()
        yield Lab(clients, hosts)
