"""The typed clients of the server, and the commands ``classify``, ``top``, ``health`` and ``models load``.

Import public names from ``hangtag``, which loads each name on first use.
"""

from typing import TYPE_CHECKING

import hangtag

if TYPE_CHECKING:
    from hangtag import *  # noqa: F403 - type checkers do not read __getattr__
else:
    __getattr__ = hangtag.__getattr__
