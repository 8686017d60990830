"""Defines the error that stops an evaluation."""

from hangtag.errors import UserError


def sentence(error: Exception) -> str:
    """Return an error's message with exactly one full stop at its end."""
    return f"{str(error).rstrip('. ')}."


class EvaluationError(UserError):
    """The model cannot be loaded or called, or does not return the outputs of a classifier for the data set."""
