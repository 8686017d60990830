"""Reports a missing package together with the extra of hangtag that installs it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from hangtag.errors import UserError


class MissingExtraError(UserError):
    """An optional part of hangtag needs a package that is not installed."""


@contextmanager
def needs(extra: str, feature: str) -> Iterator[None]:
    """Raise MissingExtraError if an import in this context fails. The error's message says that ``feature`` needs the
    module, and that ``extra``, an extra of hangtag such as ``train``, installs it."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package == "onnxruntime":  # only the extras cpu and gpu install it, and a machine needs one of the two
            extra = "gpu" if shutil.which("nvidia-smi") else "cpu"
        raise MissingExtraError(
            f"{feature} needs the Python module {package!r}, which is not installed here. "
            f"In the project's folder, install it with: pip install '.[{extra}]'"
        ) from error
