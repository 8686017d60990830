"""What can go wrong in training, for a person to read.

    TrainingError
    ├── SettingsError         a setting is out of its range, or settings do not fit together
    ├── DataNotFoundError     the data set is nowhere, or a file of it is missing
    ├── DataCorruptError      a file is there but is not what was published
    ├── RunMismatchError      a run folder holds another run, or none that can be read or written
    ├── LabelDistanceError    distances of labels that are none, or of other labels, or cannot be read
    ├── TeacherError          no model to learn from, or one that answers something else
    ├── ProcessesError        several processes that cannot make one run
    └── DivergedError         the loss is no longer a number

They are ClickExceptions, so that every command shows them as one line and exits with 1.
"""

import click


class TrainingError(click.ClickException):
    """Base of everything that this package raises on purpose."""


class SettingsError(TrainingError):
    """A setting is out of its range, or settings do not fit together."""


class DataNotFoundError(TrainingError):
    """The data set, or one file of it, could not be found or downloaded."""


class DataCorruptError(TrainingError):
    """A file's decompressed contents do not have the published SHA-256."""


class RunMismatchError(TrainingError):
    """A run folder cannot be used for what was asked."""


class LabelDistanceError(TrainingError):
    """Distances of labels are malformed, do not fit, or cannot be had."""


class TeacherError(TrainingError):
    """The model to learn from cannot be used."""


class ProcessesError(TrainingError):
    """Several processes were asked for in a way that makes no group of them."""


class DivergedError(TrainingError):
    """The training loss became infinite or not a number."""
