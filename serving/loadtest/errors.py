"""Defines the error of the load test. Failed calls are not errors but results, which are counted by status code."""

from hangtag.errors import UserError


class LoadTestError(UserError):
    """The load test cannot continue, because a target cannot be measured, samples do not match a model, or saved
    results are unusable.

    The message is one sentence for the user. The root command shows the message in one line, and exits with 1.
    """
