"""What can stop an evaluation, for a person to read: shown as one line, exit code 1."""

import click


class EvaluationError(click.ClickException):
    """The model cannot be asked, or does not answer as a classifier of this data set does."""
