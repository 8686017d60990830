"""The errors of training, each of which the user can do something about.

TrainingError
├── SettingsError         a setting is out of range, or settings do not fit together
├── DataNotFoundError     the data set, or one of its files, is missing
├── DataCorruptError      a file's content is not what was published
├── RunMismatchError      a run's folder holds another run, or files that cannot be used
├── LabelDistanceError    label distances are malformed, of other labels, or unreadable
├── TeacherError          a model to learn from is missing or does not fit
├── ProcessesError        several processes cannot form one run
└── DivergedError         the loss is no longer finite
"""

from hangtag.errors import UserError


class TrainingError(UserError):
    """Base of everything that this package raises on purpose."""


class SettingsError(TrainingError):
    """A setting is out of its range, or settings do not fit together."""


class DataNotFoundError(TrainingError):
    """The data set, or one of its files, could not be found or downloaded."""


class DataCorruptError(TrainingError):
    """A file's decompressed content does not have the published SHA-256, or cannot be read."""


class RunMismatchError(TrainingError):
    """A run's folder cannot be used for the requested run."""


class LabelDistanceError(TrainingError):
    """Label distances are malformed, do not fit, or cannot be read."""


class TeacherError(TrainingError):
    """The model to learn from cannot be used."""


class ProcessesError(TrainingError):
    """The processes of a run are misconfigured."""


class DivergedError(TrainingError):
    """The training loss, or the network's outputs, became infinite or NaN."""
