"""Run the command: ``python -m hangtag`` is ``hangtag``."""

from hangtag.cli import main

main()
