"""Whether the native transport can be used with what is installed."""

import importlib
import re
from importlib import metadata

PACKAGE = "pygrpc-native"
TESTED = ((0, 5), (0, 6))
"""The range of pygrpc-native's versions, its end excluded. The whole wire test suite passed with 0.5.0."""


def problem(version: str | None = None) -> str:
    """Return why the native transport cannot be used here; empty where it can.

    Args:
        version: Of pygrpc-native; None for the installed one.
    """
    try:
        version = version or metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        return f"{PACKAGE} is not installed (pip install '.[native]')"
    first, end = TESTED
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or not first <= tuple(map(int, numbers.groups())) < end:
        return f"{PACKAGE} {version} is not tested with hangtag; versions from {_text(first)} to below {_text(end)} are"
    try:
        importlib.import_module("pygrpc_native")
    except ImportError as error:  # a library that it needs is missing, for example
        return f"{PACKAGE} {version} cannot be imported: {error}"
    return ""


def _text(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
