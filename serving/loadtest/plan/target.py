"""What is measured: a model on a server, under the name that the reports use."""

import ipaddress
import re
from dataclasses import dataclass
from typing import Literal

Method = Literal["infer", "classify"]
DEFAULT_SERVER = "127.0.0.1:8001"
_UNIX = ("unix:", "unix-abstract:")
_HOST_PORT = re.compile(r"(\[[^\[\]\s/]+\]|[^\[\]\s/:]+):(?P<port>\d{1,5})")


@dataclass(frozen=True)
class Target:
    """One model on one server. Raises ValueError.

    method: `infer` is the Open Inference Protocol's ModelInfer, `classify` hangtag's own Classify.
    """

    name: str
    model: str
    address: str = DEFAULT_SERVER
    method: Method = "infer"

    def __post_init__(self) -> None:
        for what in ("name", "model", "address"):
            if not getattr(self, what):
                raise ValueError(f"a target has a {what}, and {self} has none")
        # gRPC takes any text for an address: 8001 for a name to look up, and port 99999 for 34463.
        written = _HOST_PORT.fullmatch(self.address)
        if not self.address.startswith(_UNIX) and (written is None or not 0 < int(written["port"]) < 1 << 16):
            raise ValueError(f"{self.address!r} is no address: write HOST:PORT, for example {DEFAULT_SERVER}")

    @property
    def is_loopback(self) -> bool:
        """Whether the server's address can only be this machine."""
        if self.address.startswith(_UNIX):
            return True
        host = self.address.rpartition(":")[0].strip("[]")
        if host == "localhost":
            return True
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"{self.name}={self.address}/{self.model}"


def parse(text: str, method: Method = "infer") -> Target:
    """NAME=HOST:PORT/MODEL. Raises ValueError."""
    found = re.fullmatch(r"(?P<name>[^=/]+)=(?P<address>[^/=]+:\d+)/(?P<model>[^/=]+)", text)
    if found is None:
        raise ValueError(f"{text!r} is not a target: write NAME=HOST:PORT/MODEL, for example old=127.0.0.1:8001/cnn")
    return Target(found["name"], found["model"], found["address"], method)
