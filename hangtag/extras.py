"""Packages that only some installations have: a missing package is reported with the extra that installs it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from hangtag.errors import UserError


class MissingExtraError(UserError):
    """A package that an optional part of hangtag needs is not installed."""


@contextmanager
def needs(extra: str, feature: str) -> Iterator[None]:
    """Report a failed import in this context with the extra that installs the module.

    Args:
        extra: an extra of the distribution hangtag, such as ``train``.
        feature: the command, or the part of it, that cannot work without the import.

    Raises:
        MissingExtraError: a module is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package == "onnxruntime":  # only these two extras install it, and a machine wants one of them
            extra = "gpu" if shutil.which("nvidia-smi") else "cpu"
        raise MissingExtraError(
            f"{feature} needs the Python module {package!r}, which is not installed here. "
            f"In the project's folder, install it with: pip install '.[{extra}]'"
        ) from error
