"""``python -m hangtag`` is the command ``hangtag``."""

from hangtag.cli import main

main()
