"""``hangtag loadtest`` and ``hangtag loadtest compare``: parse, call, render."""

from hangtag.serving.loadtest.cli.command import loadtest

__all__ = ["loadtest"]
