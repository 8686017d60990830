"""The load test measures any Open Inference Protocol server, and compares the server's models. In pyproject.toml, an
import contract lists the load test's folders. Each folder imports only folders further down that list."""

from hangtag.errors import UserError


class LoadTestError(UserError):
    """The load test cannot continue. The message is one sentence for the user.

    Failed calls are not errors but results, which are counted by status code.
    """
