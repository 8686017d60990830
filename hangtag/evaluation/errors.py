"""What can stop an evaluation, for a person to read: shown as one line, exit code 1."""

from hangtag.errors import UserError


def sentence(error: Exception) -> str:
    """What an error says, with one full stop at its end."""
    return f"{str(error).rstrip('. ')}."


class EvaluationError(UserError):
    """The model cannot be asked, or does not answer as a classifier of this data set does."""
