"""`hangtag loadtest` and `hangtag loadtest compare`: parse the command line, call measuring and comparison, render."""

from hangtag.serving.loadtest.cli.command import loadtest

__all__ = ["loadtest"]
