"""A target: one model on one server, measured under a name. LoadGen calls it the system under test (SUT)."""

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

    Attributes:
        name: The name in reports.
        model: The model's name on its server.
        address: HOST:PORT, or a unix: address.
        method: `infer` calls the Open Inference Protocol's ModelInfer, `classify` hangtag's Classify.
    """

    name: str
    model: str
    address: str = DEFAULT_SERVER
    method: Method = "infer"

    def __post_init__(self) -> None:
        for attribute in ("name", "model", "address"):
            if not getattr(self, attribute):
                raise ValueError(f"a target has a {attribute}, and {self} has none")
        # gRPC accepts any text as an address: it looks up "8001" as a host name, and turns port 99999 into 34463.
        match = _HOST_PORT.fullmatch(self.address)
        if not self.address.startswith(_UNIX) and (match is None or not 0 < int(match["port"]) < 1 << 16):
            raise ValueError(f"{self.address!r} is no address: write HOST:PORT, for example {DEFAULT_SERVER}")

    @property
    def is_loopback(self) -> bool:
        """Whether the address can only be on this machine."""
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
    """Parse NAME=HOST:PORT/MODEL. Raises ValueError."""
    match = re.fullmatch(r"(?P<name>[^=/]+)=(?P<address>[^/=]+:\d+)/(?P<model>[^/=]+)", text)
    if match is None:
        raise ValueError(f"{text!r} is not a target: write NAME=HOST:PORT/MODEL, for example old=127.0.0.1:8001/cnn")
    return Target(match["name"], match["model"], match["address"], method)
