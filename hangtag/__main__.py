"""Run the command: ``hangtag`` and ``python -m hangtag`` start here."""

import sys


def main() -> None:
    """Run the command. Ctrl-C prints one line and sets the exit code 130, even while the command is being imported."""
    try:
        from hangtag.cli import main as command
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        sys.exit(130)
    command()


if __name__ == "__main__":
    main()
