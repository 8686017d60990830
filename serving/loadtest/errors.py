"""Defines the errors of the load test. Failed calls are not errors but results, which are counted by status code.

    LoadTestError
    ├── TargetError         the server or a model cannot be measured: unreachable, not ready, another protocol
    ├── SampleError         the samples cannot be read, or do not match the model
    ├── GeneratorError      a generator process failed
    └── SavedResultsError   a file of saved results cannot be used

Each message is one sentence for the user. The root command shows the message in one line, and exits with 1.
"""

from hangtag.errors import UserError


class LoadTestError(UserError):
    """The base class of all errors that the load test raises on purpose."""


class TargetError(LoadTestError):
    """The server does not answer, is not ready, or does not have the model."""


class SampleError(LoadTestError):
    """The samples cannot be read, do not match the model's inputs, or cannot be generated for the model."""


class GeneratorError(LoadTestError):
    """A generator process ended before the block had ended."""


class SavedResultsError(LoadTestError):
    """A file cannot be read, or `hangtag loadtest --json` did not write it."""
