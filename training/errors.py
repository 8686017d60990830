"""The errors of training, all of which the user can fix."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hangtag.errors import DataCorruptError as DataCorruptError
from hangtag.errors import DataNotFoundError as DataNotFoundError
from hangtag.errors import UserError


class TrainingError(UserError):
    """The base class of all errors that training raises on purpose."""


class SettingsError(TrainingError):
    """A setting, a teacher or one of torchrun's variables cannot be used, or settings contradict each other."""


class RunMismatchError(TrainingError):
    """A run's folder cannot be used for the requested run."""


class DivergedError(TrainingError):
    """The training loss, or the network's outputs, became infinite or NaN."""


@contextmanager
def reporting_write_errors(path: Path) -> Iterator[None]:
    """Turn an OSError into a RunMismatchError that names the path."""
    try:
        yield
    except OSError as error:
        raise RunMismatchError(f"{path} cannot be written ({error.strerror}).") from error
