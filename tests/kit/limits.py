"""Shorter limits for the command ``hangtag serve``, which takes none from its caller."""


def with_limits(**limits: float) -> str:
    """Python statements that change the defaults of `Limits` in a process, for the ``first`` of `Serving`."""
    return f"from hangtag.serving.server.config.limits import Limits; Limits.__init__.__kwdefaults__.update({limits!r})"
