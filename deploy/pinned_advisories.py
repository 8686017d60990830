"""Writes the advisories about the locked packages to a file, for an audit that can reach no database.

    python -m deploy.pinned_advisories CHECKOUT     write deploy/pinned-advisories.json

CHECKOUT is a clone of github.com/pypa/advisory-database. The same commit and the same locks always give the same file.
"""

import json
import re
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import click
from packaging.utils import canonicalize_name

from deploy.advisories import Advisories, AdvisoriesError, Record

SOURCE = "https://github.com/pypa/advisory-database"
LICENCE = "CC-BY-4.0: https://creativecommons.org/licenses/by/4.0/"
CHANGES = "Only the advisories about the packages below, as JSON. File names and comments are left out."
PINNED = Path(__file__).parent / "pinned-advisories.json"
LOCKS = Path(__file__).parent / "locks"


@dataclass(frozen=True)
class PinnedAdvisories:
    """What a commit of a database says about some packages."""

    source: str
    licence: str
    changes: str
    commit: str
    date: str
    """When the commit was made, in ISO 8601."""
    packages: list[str]
    """All packages that were looked up, including packages without advisories."""
    advisories: list[Record]

    @classmethod
    def read(cls, file: Path) -> "PinnedAdvisories":
        """Read a file that `write` has written.

        Raises:
            AdvisoriesError: The file is not a pinned copy.
        """
        try:
            return cls(**json.loads(file.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise AdvisoriesError(f"{file} is not a pinned copy of advisories: {error}") from error

    @classmethod
    def of(cls, checkout: Path, packages: Iterable[str]) -> "PinnedAdvisories":
        """Return the advisories about these packages in a checkout of the database.

        Raises:
            AdvisoriesError: The folder is not a checkout, or its files differ from its commit.
        """
        if _git(checkout, "status", "--porcelain"):
            raise AdvisoriesError(f"{checkout} has changes that are not committed")
        committed = datetime.fromisoformat(_git(checkout, "log", "-1", "--format=%cI"))
        names = sorted(packages)
        database = Advisories.read(checkout)
        found = {record["id"]: record for name in names for record in database.by_package.get(name, [])}
        return cls(
            source=SOURCE,
            licence=LICENCE,
            changes=CHANGES,
            commit=_git(checkout, "rev-parse", "HEAD"),
            date=committed.astimezone(UTC).date().isoformat(),
            packages=names,
            advisories=[found[name] for name in sorted(found)],
        )

    def write(self, file: Path) -> None:
        """Write one advisory per line, so that a new copy of the database changes few lines."""
        fields = {name: _line(value) for name, value in asdict(self).items()}
        fields["advisories"] = "[\n" + ",\n".join(map(_line, self.advisories)) + "\n]"
        file.write_text("{\n" + ",\n".join(f'"{name}": {text}' for name, text in fields.items()) + "\n}\n")

    def covering(self, packages: Iterable[str]) -> Advisories:
        """Return the advisories for an audit of these packages.

        Raises:
            AdvisoriesError: The copy was made before some of the packages were locked.
        """
        unknown = sorted(set(packages) - {*self.packages})
        if unknown:
            raise AdvisoriesError(
                f"the pinned copy does not cover {', '.join(unknown)}: clone {SOURCE} and run "
                "'make -C deploy advisories DATABASE=FOLDER'"
            )
        return Advisories.of(self.advisories)

    def description(self, now: datetime) -> str:
        """Return a text that says which copy this is, and how old it is."""
        age = (now - datetime.fromisoformat(self.date).replace(tzinfo=UTC)).days
        return f"the pinned copy of {self.source} at {self.commit} ({self.date}, {age:,} days ago)"


def locked_packages(locks: Iterable[Path]) -> set[str]:
    """Return the names of the packages in requirements files."""
    pattern = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*) *(?:\[.*?\])? *==", re.MULTILINE)
    return {canonicalize_name(name) for lock in locks for name in pattern.findall(lock.read_text())}


def _line(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise AdvisoriesError(f"{folder}: {done.stderr.strip()}")
    return done.stdout.strip()


@click.command()
@click.argument("checkout", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--locks", default=LOCKS, type=click.Path(exists=True, path_type=Path), help="The folder with the lock files."
)
@click.option("--output", default=PINNED, type=click.Path(path_type=Path), help="The file to write.")
def main(checkout: Path, locks: Path, output: Path) -> None:
    """Write what a clone of github.com/pypa/advisory-database says about the locked packages."""
    try:
        pinned = PinnedAdvisories.of(checkout, locked_packages(locks.glob("*.txt")))
    except AdvisoriesError as error:
        raise click.ClickException(str(error)) from error
    pinned.write(output)
    click.echo(f"{output}: {len(pinned.advisories)} advisories about {len(pinned.packages)} packages, of {pinned.date}")


if __name__ == "__main__":
    main()
