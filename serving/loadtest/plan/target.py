"""Parses targets. A target is a model on a server, measured under a name (LoadGen's term is system under test, SUT)."""

import ipaddress
import re
from dataclasses import dataclass
from typing import Literal

from hangtag.serving import address as server_address

Method = Literal["infer", "classify"]
_UNIX = ("unix:", "unix-abstract:")


@dataclass(frozen=True)
class Target:
    """A model on a server. Raises ValueError."""

    name: str  # The name in reports.
    model: str  # The model's name on the server.
    address: str = server_address.DEFAULT  # HOST:PORT, an address for one of gRPC's name resolvers, or a URL for HTTP.
    method: Method = "infer"  # The Open Inference Protocol's ModelInfer, or hangtag's Classify.
    version: str = ""  # The model version that every request names; empty for the version that serves by default.

    def __post_init__(self) -> None:
        for attribute in ("name", "model", "address"):
            if not getattr(self, attribute):
                raise ValueError(f"a target needs a {attribute}, but {self} has none")
        server_address.require(self.address)

    @property
    def is_loopback(self) -> bool:
        """Whether the address always leads to this machine."""
        if self.address.startswith(_UNIX):
            return True
        host, _ = server_address.endpoint(self.address) or ("", 0)
        try:
            return host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"{self.name}={self.address}/{self.model}" + (f"@{self.version}" if self.version else "")


def of_model(text: str, address: str = server_address.DEFAULT, method: Method = "infer", name: str = "") -> Target:
    """Parse MODEL or MODEL@VERSION. Without a name, the text is also the target's name. Raises ValueError."""
    model, at, version = text.partition("@")
    if (at and not (model and version)) or "@" in version:
        raise ValueError(f"{text!r} is not a model's version: write MODEL@VERSION, for example cnn@2, or only MODEL")
    return Target(name or text, model, address, method, version)


def parse(text: str, method: Method = "infer") -> Target:
    """Parse NAME=ADDRESS/MODEL or NAME=ADDRESS/MODEL@VERSION. ADDRESS is HOST:PORT or a URL. Raises ValueError."""
    match = re.fullmatch(
        r"(?P<name>[^=/]+)=(?P<address>[^/=]+:\d+|https?://[^=?#]+)/(?P<model>[^/=]+)", text, re.IGNORECASE
    )
    if match is None:
        example = f"old={server_address.DEFAULT}/cnn or rest={server_address.DEFAULT_URL}/cnn"
        raise ValueError(f"{text!r} is not a target: write NAME=HOST:PORT/MODEL[@VERSION], for example {example}")
    return of_model(match["model"], match["address"], method, match["name"])
