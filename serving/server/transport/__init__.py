"""The transports grpc, native and http. `choose_transport` chooses between grpc and native. No other code uses a
transport's network library, except that ``wire`` uses gRPC."""

import importlib
import re
from importlib import metadata

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.errors import StartError

NATIVE, GRPC = "native", "grpc"
_PACKAGE = "pygrpc-native"
_TESTED = re.compile(r"0\.5(\.|$)")  # all of hangtag's tests of the wire protocol passed with pygrpc-native 0.5.0


def choose_transport(config: ServerConfig) -> tuple[str, str]:
    """Return the transport to serve with, NATIVE or GRPC, and the reason for the choice. ``auto`` chooses native if
    pygrpc-native can be used. Raises StartError if ``--transport native`` is set, but pygrpc-native is missing, damaged
    or of an untested version."""
    problem = "" if config.transport == GRPC else _native_problem()
    if problem and config.transport == NATIVE:
        raise StartError(f"--transport native cannot be used: {problem}. Alternatively, use --transport grpc.")
    if config.transport in (NATIVE, GRPC):
        return config.transport, f"--transport {config.transport}"
    if problem:
        return GRPC, problem
    exposed = "Envoy listens in front of the server, and enforces the limits"
    return NATIVE, exposed if config.is_exposed else "TLS is off and the address is loopback"


def _native_problem() -> str:
    """Return why the native transport cannot be used here, or "" if it can be used."""
    try:
        version = metadata.version(_PACKAGE)
    except metadata.PackageNotFoundError:
        return f"{_PACKAGE} is not installed (pip install '.[native]')"
    if not _TESTED.match(version):
        return f"{_PACKAGE} {version} is not tested with hangtag; the tested versions are 0.5 to below 0.6"
    try:
        importlib.import_module("pygrpc_native")
    except ImportError as error:  # for example, a library that pygrpc-native needs is missing
        return f"{_PACKAGE} {version} cannot be imported: {error}"
    return ""
