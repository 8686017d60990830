"""Simulates hosts on one machine, as network namespaces that are connected by cables. Tests can break a connection.

The simulation needs root, unshare and nsenter (util-linux), and ip (iproute2). A cable is a pair of the kernel's
virtual Ethernet interfaces. ``Cable.cut`` sets a wrong MAC address for the neighbour of each interface. Every
packet is then lost, and neither end notices, as if the cable were cut beyond the next switch.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeAlias

Machine: TypeAlias = "tuple[Namespace, Cable]"
_NOBODY = "02:00:00:00:00:01"


def missing() -> str:
    """Return why this machine cannot simulate hosts, or "" if it can."""
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    if lacking := [program for program in ("ip", "nsenter", "unshare") if shutil.which(program) is None]:
        return f"{', '.join(lacking)} not installed (Debian: iproute2 and util-linux)"
    command = ["unshare", "--net", "ip", "link", "add", "near", "type", "veth", "peer", "name", "far"]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False).stderr.strip()


class Namespace:
    """A network namespace for the processes started in it. It ends when its process ``cat`` or this process ends."""

    def __init__(self) -> None:
        # ``cat`` keeps the namespace alive until the pipe is closed, which also happens if this process is killed.
        self._holder = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._holder.stdin
        assert self._holder.stdout
        self._holder.stdin.write(b"\n")
        self._holder.stdin.flush()
        self._holder.stdout.readline()  # the echo shows that ``cat`` runs, and so that its namespace exists
        self.run("ip", "link", "set", "lo", "up")

    @property
    def pid(self) -> int:
        """A process in the namespace."""
        return self._holder.pid

    def command(self, *command: str | Path) -> Sequence[str | Path]:
        """Return the command line that runs this command directly in the namespace, without an intermediate process."""
        return ("nsenter", f"--net=/proc/{self.pid}/ns/net", *command)

    def run(self, *command: str | Path) -> None:
        """Run a command in the namespace. Raises CalledProcessError if the command fails."""
        subprocess.run(self.command(*command), check=True)

    def close(self) -> None:
        """Remove the namespace after the last process in it has ended."""
        self._holder.communicate()


class Cable:
    """A link that carries the packets between two namespaces."""

    def __init__(self, near: Namespace, near_address: str, far: Namespace, far_address: str, name: str) -> None:
        """name: The name of the interface at both ends, at most 13 characters and unique on this machine."""
        self._ends = ((near, f"{name}a", near_address, far_address), (far, f"{name}b", far_address, near_address))
        near.run("ip", "link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b", "netns", str(far.pid))
        for namespace, interface, address, peer in self._ends:
            namespace.run("ip", "addr", "add", address, "peer", peer, "dev", interface)
            namespace.run("ip", "link", "set", interface, "up")

    def cut(self) -> None:
        """Drop all packets in both directions."""
        for namespace, interface, _, peer in self._ends:
            namespace.run("ip", "neigh", "replace", peer, "lladdr", _NOBODY, "nud", "permanent", "dev", interface)

    def heal(self) -> None:
        """Carry packets again in both directions."""
        for namespace, interface, _, peer in self._ends:
            namespace.run("ip", "neigh", "del", peer, "dev", interface)


@contextmanager
def network(addresses: Sequence[str], client: str = "10.0.0.1") -> Iterator[tuple[Namespace, list[Machine]]]:
    """A namespace for clients, and a namespace for each host, connected to the clients' namespace by a cable.

    Args:
        addresses: An IPv4 address for each host.
        client: The clients' IPv4 address.
    """
    with ExitStack() as stack:

        def namespace() -> Namespace:
            opened = Namespace()
            stack.callback(opened.close)
            return opened

        clients = namespace()
        hosts = [namespace() for _ in addresses]
        yield (
            clients,
            [
                (host, Cable(clients, client, host, address, f"ht{os.getpid()}n{number}"))
                for number, (host, address) in enumerate(zip(hosts, addresses, strict=True))
            ],
        )
