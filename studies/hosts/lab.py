"""Three hosts with a server each, a proxy in front of them, and programs that call them."""

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from studies.hosts.caller import MODEL, Call
from studies.hosts.network import Cable, Namespace, Network
from studies.page import ROOT
from studies.server.process import Served, hangtag_serve

ADDRESSES = ("10.0.0.11", "10.0.0.12", "10.0.0.13")
"""Those of deploy/haproxy.cfg, so that the proxy is tested as it is shipped."""
PORT = 8001
SERVERS = "ipv4:" + ",".join(f"{address}:{PORT}" for address in ADDRESSES)
PROXY = "127.0.0.1:8080"
HAPROXY_CONFIG = ROOT / "deploy" / "haproxy.cfg"
MAX_QUEUE_SIZE = 64
_WIDTH, _LAYERS = 512, 8
_TIMEOUT = 30.0


class Host:
    """A machine with a server.

    Attributes:
        number: its place in ADDRESSES, which is also what its model answers.
        cable: what connects it with the clients.
        namespace: its network.
    """

    def __init__(self, number: int, namespace: Namespace, cable: Cable, models: Path) -> None:
        """models: a folder for its model repository."""
        self.number = number
        self.cable = cable
        self.namespace = namespace
        folder = models / MODEL / "1"
        folder.mkdir(parents=True)
        onnx.save(_model(number), folder / "model.onnx")
        launch = hangtag_serve(
            models,
            *("--host", ADDRESSES[number], "--port", str(PORT), "--metrics-port", "8002", "--http-port", "-1"),
            *("--instances", "1", "--intra-op-threads", "1", "--max-queue-size", str(MAX_QUEUE_SIZE)),
        )
        self._launch = replace(launch, command=tuple(namespace.command(*launch.command)))
        self._server: Served | None = None

    def start(self) -> None:
        """Start the server, and return when it is ready. Raises click.ClickException when it does not start."""
        self._server = Served(self._launch)

    def stop(self) -> None:
        """Let the server finish its calls and end."""
        if self._server:
            self._server.close()
            self._server = None

    def kill(self) -> None:
        """End the server at once."""
        assert self._server
        self._server.kill()
        self._server = None


class Caller:
    """A running program of caller.py, whose calls are read while it runs.

    Attributes:
        calls: those that have ended, in this order.
    """

    def __init__(self, namespace: Namespace, address: str, *options: str) -> None:
        """options: those of caller.py, besides the address."""
        program = (sys.executable, "-m", "studies.hosts.caller", "--address", address, *options)
        self.calls: list[Call] = []
        self._changed = threading.Condition()
        self._process = subprocess.Popen(
            namespace.command(*program), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def wait_until(self, met: Callable[[Sequence[Call]], object], seconds: float = _TIMEOUT) -> None:
        """Return when the calls so far meet a condition. Raises TimeoutError after some seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: met(self.calls), seconds):
                raise TimeoutError(f"after {seconds:g} s the last of {len(self.calls)} calls are {self.calls[-5:]}")

    def close(self) -> None:
        """Start no more calls, and return when those in flight have ended."""
        assert self._process.stdin
        self._process.stdin.close()
        self._reader.join()
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout
        with self._process.stdout as lines:
            for line in lines:
                with self._changed:
                    self.calls.append(Call(*json.loads(line)))
                    self._changed.notify_all()


class Lab:
    """Hosts with running servers.

    Attributes:
        hosts: the hosts.
    """

    def __init__(self, network: Network, hosts: Sequence[Host]) -> None:
        self.hosts = hosts
        self._network = network

    def caller(self, address: str, *options: str) -> Caller:
        """Start a caller on the clients' host, with these options of caller.py."""
        return Caller(self._network.clients, address, *options)

    @contextmanager
    def callers(self, options: Mapping[str, Sequence[str]]) -> Iterator[dict[str, Caller]]:
        """Run callers, and enter the context when each has had answers of every host.

        Args:
            options: the address and the options of each caller, by its name.
        """
        with ExitStack() as stack:
            callers = {}
            for name, (address, *others) in options.items():
                callers[name] = self.caller(address, *others)
                stack.callback(callers[name].close)
            for caller in callers.values():
                caller.wait_until(lambda calls: {host.number for host in self.hosts} <= {call.host for call in calls})
            yield callers

    @contextmanager
    def proxy(self) -> Iterator[None]:
        """Run HAProxy with deploy/haproxy.cfg on the clients' host."""
        command = self._network.clients.command("haproxy", "-db", "-f", HAPROXY_CONFIG)
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
        network = stack.enter_context(Network(ADDRESSES))
        hosts = [
            Host(number, namespace, cable, folder / str(number))
            for number, (namespace, cable) in enumerate(zip(network.hosts, network.cables, strict=True))
        ]
        for host in hosts:
            stack.callback(host.stop)
            host.start()
        yield Lab(network, hosts)


def _model(number: int) -> onnx.ModelProto:
    """x FP32 [batch, 1] -> number FP32 [batch, 1], the same for each sample, after some work for each."""
    weights = np.random.default_rng(0).normal(0, _WIDTH**-0.5, (_WIDTH, _WIDTH)).astype(np.float32)
    constants = {
        "wide": np.ones((1, _WIDTH), np.float32),
        "weights": weights,
        "none": np.zeros((_WIDTH, 1), np.float32),
        "answer": np.array([number], np.float32),
    }
    nodes = [helper.make_node("MatMul", ["x", "wide"], ["layer0"])]
    for layer in range(_LAYERS):
        nodes.append(helper.make_node("MatMul", [f"layer{layer}", "weights"], [f"product{layer}"]))
        nodes.append(helper.make_node("Relu", [f"product{layer}"], [f"layer{layer + 1}"]))
    nodes.append(helper.make_node("MatMul", [f"layer{_LAYERS}", "none"], ["zero"]))
    nodes.append(helper.make_node("Add", ["zero", "answer"], ["number"]))
    graph = helper.make_graph(
        nodes,
        MODEL,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1])],
        [helper.make_tensor_value_info("number", TensorProto.FLOAT, ["batch", 1])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
