"""Hosts on one machine: network namespaces, and cables between them that are cut on command.

It needs root, unshare and nsenter (util-linux), and ip (iproute2). A cable is a pair of the kernel's virtual Ethernet
interfaces. It is cut by a wrong hardware address of each end's neighbour: then every packet is lost, and neither end
learns of it, as with a cable that was cut beyond the next switch.
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
    """Say why this machine cannot have such hosts; "" where it can."""
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    if lacking := [program for program in ("ip", "nsenter", "unshare") if shutil.which(program) is None]:
        return f"{', '.join(lacking)} not installed (Debian: iproute2 and util-linux)"
    command = ["unshare", "--net", "ip", "link", "add", "near", "type", "veth", "peer", "name", "far"]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False).stderr.strip()


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
    """What carries the packets between two namespaces."""

    def __init__(self, near: Namespace, near_address: str, far: Namespace, far_address: str, name: str) -> None:
        """name: of the interface at both ends, at most 13 characters that no other interface of this machine has."""
        self._ends = ((near, f"{name}a", near_address, far_address), (far, f"{name}b", far_address, near_address))
        near.run("ip", "link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b", "netns", str(far.pid))
        for namespace, interface, address, peer in self._ends:
            namespace.run("ip", "addr", "add", address, "peer", peer, "dev", interface)
            namespace.run("ip", "link", "set", interface, "up")

    def cut(self) -> None:
        """Lose all packets, each way."""
        for namespace, interface, _, peer in self._ends:
            namespace.run("ip", "neigh", "replace", peer, "lladdr", _NOBODY, "nud", "permanent", "dev", interface)

    def heal(self) -> None:
        """Carry packets again."""
        for namespace, interface, _, peer in self._ends:
            namespace.run("ip", "neigh", "del", peer, "dev", interface)


@contextmanager
def network(addresses: Sequence[str], client: str = "10.0.0.1") -> Iterator[tuple[Namespace, list[Machine]]]:
    """A namespace for clients, and one for each host, with the cable that connects it to the clients'.

    Args:
        addresses: an IPv4 address for each host.
        client: the clients' IPv4 address.
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
