"""Errors of the load test. Failed calls are not errors but results, counted by status code.

    LoadTestError
    ├── TargetError         the server or a model cannot be measured: unreachable, not ready, another protocol
    ├── SampleError         no samples fit the model
    ├── GeneratorError      a generator process failed
    └── SavedResultsError   a file of saved results cannot be used

Each message is one sentence for the user; the root command shows it as one line and exits with 1.
"""

from hangtag.errors import UserError


class LoadTestError(UserError):
    """Base class of all errors that the load test raises on purpose."""


class TargetError(LoadTestError):
    """The server does not answer, is not ready, or does not have the model."""


class SampleError(LoadTestError):
    """The samples cannot be read, do not fit the model, or cannot be generated for it."""


class GeneratorError(LoadTestError):
    """A generator process ended before its block did."""


class SavedResultsError(LoadTestError):
    """A file was not written by `hangtag loadtest --json`."""
