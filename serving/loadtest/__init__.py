"""The load test measures any Open Inference Protocol server, and compares the server's models. The contract for the
load test in pyproject.toml lists its folders. Each folder imports only folders further down that list."""

from hangtag.errors import UserError


class LoadTestError(UserError):
    """The load test cannot continue. The message is one sentence for the user.

    Failed calls are not errors but results, which are counted by status code.
    """
