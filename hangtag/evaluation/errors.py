"""Defines the error that stops an evaluation, and parts of its messages."""

from hangtag.errors import UserError

NAMING_AN_EXPORTED_MODEL = "An exported model is named by its file or its folder, such as models/cnn."
"""The end of a message about a name that is not a run's: the user may have meant an exported model."""


def sentence(error: Exception) -> str:
    """Return an error's message with exactly one full stop at its end."""
    return f"{str(error).rstrip('. ')}."


class EvaluationError(UserError):
    """The model cannot be loaded or called, or does not return the outputs of a classifier for the data set."""
