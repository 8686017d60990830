"""Checks that the documents are ready for a release. `make release-check` begins with this check.

    python -m deploy.release [ROOT]

The exit code is 0 if nothing is missing. If anything is missing, the command names it, and the exit code is 1.
"""

import re
import sys
import tomllib
from pathlib import Path

import click


def missing(version: str, changelog: str, upgrading: str) -> list[str]:
    """Return a sentence for each thing that is missing in the documents for this version.

    Args:
        version: The version of the release, from pyproject.toml.
        changelog: CHANGELOG.md.
        upgrading: docs/how-to/upgrade.md.
    """
    sections = re.findall(r"^## \[([^]\n]+)\]([^\n]*)\n(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)
    names = [name for name, _, _ in sections]
    faults = []
    if version not in names:
        faults.append(f"CHANGELOG.md has no section [{version}]: rename [Unreleased] to it and add the date")
    else:
        place = names.index(version)
        _, date, text = sections[place]
        if not re.fullmatch(r" - \d{4}-\d\d-\d\d *", date):
            faults.append(
                f"CHANGELOG.md: the heading of [{version}] has no date: write '## [{version}] - YEAR-MONTH-DAY'"
            )
        if not text.strip():
            faults.append(f"CHANGELOG.md: the section [{version}] is empty")
        later = [name for name in names[:place] if name != "Unreleased"]
        if later:
            faults.append(f"CHANGELOG.md has {', '.join(later)} above {version}: set the version in pyproject.toml")
    if any(name == "Unreleased" and text.strip() for name, _, text in sections):
        faults.append("CHANGELOG.md: the section [Unreleased] is not empty; its changes belong to the release")
    if not re.search(rf"^## From \S+ to {re.escape(version)}\s*$", upgrading, re.MULTILINE):
        faults.append(f"docs/how-to/upgrade.md has no section 'From … to {version}'")
    return faults


@click.command()
@click.argument("root", default=".", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(root: Path) -> None:
    """Check CHANGELOG.md and docs/how-to/upgrade.md for the version in pyproject.toml."""
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    faults = missing(version, (root / "CHANGELOG.md").read_text(), (root / "docs/how-to/upgrade.md").read_text())
    for fault in faults:
        click.echo(fault, err=True)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
