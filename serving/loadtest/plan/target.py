"""A target: one model on one server, measured under a name. LoadGen calls it the system under test (SUT)."""

import ipaddress
import re
from dataclasses import dataclass
from typing import Literal

from hangtag.serving import address as server_address

Method = Literal["infer", "classify"]
_UNIX = ("unix:", "unix-abstract:")


@dataclass(frozen=True)
class Target:
    """One model on one server, in one version or in the one that serves by default. Raises ValueError.

    Attributes:
        name: The name in reports.
        model: The model's name on its server.
        address: HOST:PORT, or an address for one of gRPC's name resolvers.
        method: `infer` calls the Open Inference Protocol's ModelInfer, `classify` hangtag's Classify.
        version: The model version that every request names; empty for the one that serves by default.
    """

    name: str
    model: str
    address: str = server_address.DEFAULT
    method: Method = "infer"
    version: str = ""

    def __post_init__(self) -> None:
        for attribute in ("name", "model", "address"):
            if not getattr(self, attribute):
                raise ValueError(f"a target has a {attribute}, and {self} has none")
        server_address.require(self.address)

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
        return f"{self.name}={self.address}/{self.model}" + (f"@{self.version}" if self.version else "")


def of_model(text: str, address: str = server_address.DEFAULT, method: Method = "infer") -> Target:
    """Parse MODEL or MODEL@VERSION, which is the target's name too. Raises ValueError."""
    return _target(text, text, address, method)


def _target(name: str, text: str, address: str, method: Method) -> Target:
    model, at, version = text.partition("@")
    if (at and not (model and version)) or "@" in version:
        raise ValueError(f"{text!r} is no version of a model: write MODEL@VERSION, for example cnn@2, or MODEL alone")
    return Target(name, model, address, method, version)


def parse(text: str, method: Method = "infer") -> Target:
    """Parse NAME=HOST:PORT/MODEL or NAME=HOST:PORT/MODEL@VERSION. Raises ValueError."""
    match = re.fullmatch(r"(?P<name>[^=/]+)=(?P<address>[^/=]+:\d+)/(?P<model>[^/=]+)", text)
    if match is None:
        example = f"old={server_address.DEFAULT}/cnn"
        raise ValueError(f"{text!r} is not a target: write NAME=HOST:PORT/MODEL[@VERSION], for example {example}")
    return _target(match["name"], match["model"], match["address"], method)
