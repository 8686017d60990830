"""What can go wrong before or beside the measuring, for a person to read.

    LoadTestError
    ├── TargetError      the server or a model cannot be measured: not there, not ready, not this protocol
    ├── SampleError      there is nothing fitting to send
    ├── GeneratorError   the generator's process failed
    └── SavedResultsError       a file of saved results cannot be used

They are ClickExceptions, so that the command shows them as one line and exits with 1. Calls that fail while a run is
measured are results, not exceptions: they are counted by status code.
"""

import click


class LoadTestError(click.ClickException):
    """Base of everything that this package raises on purpose."""


class TargetError(LoadTestError):
    """The server does not answer, is not ready, or does not have the model."""


class SampleError(LoadTestError):
    """The inputs to send cannot be read, do not fit the model, or cannot be made up for it."""


class GeneratorError(LoadTestError):
    """The process that generates the load ended before it was told to."""


class SavedResultsError(LoadTestError):
    """A file is not what `hangtag loadtest --json` wrote."""
