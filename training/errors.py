"""The errors of training, all of which the user can fix."""

from hangtag.errors import DataCorruptError as DataCorruptError
from hangtag.errors import DataNotFoundError as DataNotFoundError
from hangtag.errors import UserError


class SettingsError(UserError):
    """A setting, a teacher or one of torchrun's variables cannot be used, or settings contradict each other."""


class RunMismatchError(UserError):
    """A run's folder cannot be used for the requested run."""


class DivergedError(UserError):
    """The training loss, or the network's outputs, became infinite or NaN."""
