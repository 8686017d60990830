"""`hangtag top`: what a running server is doing, as a live table, as one table, or as lines of JSON."""

from hangtag.serving.client.top.command import top

__all__ = ["top"]
