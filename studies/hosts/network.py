"""Hosts on one machine: network namespaces, and cables between them that lose and delay packets on command.

It needs root, unshare and nsenter (util-linux), ip (iproute2), and the kernel's TUN device. The cable's delay and loss
are this program's own, because many kernels are built without the queueing discipline netem. Everything above the cable
is the kernel's: TCP sends lost packets again, and notices an end that vanished, as it does between real machines.
"""

import asyncio
import fcntl
import os
import random
import shutil
import struct
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_TUN = Path("/dev/net/tun")
_LARGEST_PACKET = 65536
# linux/if_tun.h: make an interface that carries IP packets, without a header before them.
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000


def missing() -> str:
    """Say why this machine cannot have such hosts; "" where it can."""
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    if lacking := [program for program in ("ip", "nsenter", "unshare") if shutil.which(program) is None]:
        return f"{', '.join(lacking)} not installed (Debian: iproute2 and util-linux)"
    if not os.access(_TUN, os.R_OK | os.W_OK):
        return f"{_TUN} cannot be opened: the kernel lacks its TUN device, or the container may not use it"
    refused = subprocess.run(["unshare", "--net", "true"], stderr=subprocess.PIPE, text=True, check=False)
    return refused.stderr.strip()


class Namespace:
    """A network of its own for the processes that are started in it. It ends with its holder, or with this process."""

    def __init__(self) -> None:
        # cat lives in the namespace and keeps it; it ends when the pipe is closed, even if this process is killed.
        self._holder = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._holder.stdin
        assert self._holder.stdout
        self._holder.stdin.write(b"\n")
        self._holder.stdin.flush()
        self._holder.stdout.readline()  # from now on it is inside
        self.run("ip", "link", "set", "lo", "up")

    @property
    def pid(self) -> int:
        """A process in the namespace."""
        return self._holder.pid

    def command(self, *command: str | Path) -> Sequence[str | Path]:
        """Return the command that runs this one in the namespace, as the same process."""
        return ("nsenter", f"--net=/proc/{self.pid}/ns/net", *command)

    def run(self, *command: str | Path) -> None:
        """Run a command in the namespace. Raises CalledProcessError where it fails."""
        subprocess.run(self.command(*command), check=True)

    def close(self) -> None:
        """Remove the namespace, once no process is left in it."""
        self._holder.communicate()


class Cable:
    """What carries the packets between two namespaces.

    Attributes:
        loss: the share of the packets that are lost, each way; 1 is a cable that is cut.
        delay: seconds that a packet takes, each way.
    """

    def __init__(self, near: Namespace, near_address: str, far: Namespace, far_address: str, name: str) -> None:
        """name: of the interface at both ends, at most 13 characters that no other interface of this machine has."""
        self.loss = 0.0
        self.delay = 0.0
        self.ends = (
            _interface(near, f"{name}a", near_address, far_address),
            _interface(far, f"{name}b", far_address, near_address),
        )

    def forward(self, loop: asyncio.AbstractEventLoop, source: int, sink: int) -> None:
        """Carry one packet from one end to the other."""
        packet = os.read(source, _LARGEST_PACKET)
        if random.random() >= self.loss:  # noqa: S311 - no secret
            loop.call_later(self.delay, os.write, sink, packet)

    def heal(self) -> None:
        """Lose and delay nothing any more."""
        self.loss = self.delay = 0.0


class Network:
    """A namespace for clients, and one for each host, which a cable of its own connects to it. A context manager.

    Args:
        addresses: an IPv4 address for each host.
        client: the clients' IPv4 address.

    Attributes:
        clients: the clients' namespace.
        hosts: each host's namespace.
        cables: each host's cable.
    """

    def __init__(self, addresses: Sequence[str], client: str = "10.0.0.1") -> None:
        self.clients = Namespace()
        self.hosts = [Namespace() for _ in addresses]
        self.cables = [
            Cable(self.clients, client, host, address, f"ht{os.getpid()}n{number}")
            for number, (host, address) in enumerate(zip(self.hosts, addresses, strict=True))
        ]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> Self:
        for cable in self.cables:
            for source, sink in (cable.ends, cable.ends[::-1]):
                self._loop.add_reader(source, cable.forward, self._loop, source, sink)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        for cable in self.cables:
            for end in cable.ends:
                os.close(end)
        for namespace in (self.clients, *self.hosts):
            namespace.close()


def _interface(namespace: Namespace, name: str, address: str, peer: str) -> int:
    """Make an interface in a namespace with an address and one for its peer; return the file of its packets."""
    end = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    subprocess.run(["ip", "link", "set", name, "netns", str(namespace.pid)], check=True)
    namespace.run("ip", "addr", "add", address, "peer", peer, "dev", name)
    namespace.run("ip", "link", "set", name, "up")
    return end
