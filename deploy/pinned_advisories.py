"""Writes the advisories about the locked packages to a file, for an audit that cannot reach OSV.

    python -m deploy.pinned_advisories CHECKOUT     write deploy/pinned-advisories.json

CHECKOUT is a clone of github.com/pypa/advisory-database. The same commit and the same locks always give the same file.
https://ossf.github.io/osv-schema/ describes the records.
"""

import json
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import yaml
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

SOURCE = "https://github.com/pypa/advisory-database"
LICENCE = "CC-BY-4.0: https://creativecommons.org/licenses/by/4.0/"
CHANGES = "Only the advisories about the packages below, as JSON. File names and comments are left out."
PINNED = Path(__file__).parent / "pinned-advisories.json"
LOCKS = Path(__file__).parent / "locks"

Record = dict[str, Any]
Package = tuple[str, str]
"""A package's name, as PyPI normalises names, and its version."""


class AdvisoriesError(Exception):
    """The advisories or the lock files cannot be read, or a locked package is not in the pinned copy."""


@dataclass(frozen=True)
class PinnedAdvisories:
    """The advisories about some packages in a commit of the database."""

    source: str
    licence: str
    changes: str
    commit: str
    date: str
    """The date of the commit, in ISO 8601."""
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
    def of(cls, checkout: Path, names: Iterable[str]) -> "PinnedAdvisories":
        """Return the advisories about these packages in a checkout of the database.

        Raises:
            AdvisoriesError: The folder is not a checkout, has no advisories, or differs from its commit.
        """
        if _git(checkout, "status", "--porcelain"):
            raise AdvisoriesError(f"{checkout} has changes that are not committed")
        committed = datetime.fromisoformat(_git(checkout, "log", "-1", "--format=%cI"))
        # BaseLoader reads every value as text. Otherwise version 1.10 would become the number 1.1, and a date would
        # lose its format.
        loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
        documents = (yaml.load(file.read_text(), Loader=loader) for file in checkout.rglob("*.yaml"))  # noqa: S506
        records = [document for document in documents if isinstance(document, dict) and "affected" in document]
        if not records:
            raise AdvisoriesError(f"{checkout} has no OSV records. Clone {SOURCE} there.")
        names = sorted(names)
        return cls(
            source=SOURCE,
            licence=LICENCE,
            changes=CHANGES,
            commit=_git(checkout, "rev-parse", "HEAD"),
            date=committed.astimezone(UTC).date().isoformat(),
            packages=names,
            advisories=sorted(
                (
                    record
                    for record in records
                    if any(_is_about(part, name) for part in record["affected"] for name in names)
                ),
                key=lambda record: str(record["id"]),
            ),
        )

    def write(self, file: Path) -> None:
        """Write one advisory per line, so that a new copy of the database changes few lines."""
        fields = {name: _line(value) for name, value in asdict(self).items()}
        fields["advisories"] = "[\n" + ",\n".join(map(_line, self.advisories)) + "\n]"
        file.write_text("{\n" + ",\n".join(f'"{name}": {text}' for name, text in fields.items()) + "\n}\n")

    def about(self, packages: Sequence[Package]) -> list[list[Record]]:
        """Return, for each package, the records about its version.

        Raises:
            AdvisoriesError: The copy was made before some of the packages were locked.
        """
        if unknown := sorted({name for name, _ in packages} - {*self.packages}):
            raise AdvisoriesError(
                f"the pinned copy does not cover {', '.join(unknown)}: clone {SOURCE} and run "
                "'make -C deploy advisories DATABASE=FOLDER'"
            )
        return [[record for record in self.advisories if is_affected(record, package)] for package in packages]

    def description(self, now: datetime) -> str:
        """Describe the copy: its source, commit, date and age."""
        age = (now - datetime.fromisoformat(self.date).replace(tzinfo=UTC)).days
        return f"the pinned copy of {self.source} at {self.commit} ({self.date}, {age:,} days ago)"


def is_affected(record: Record, package: Package) -> bool:
    """Return whether a record says that this version of a package is affected."""
    name, text = package
    if any(text in part.get("versions", ()) for part in record["affected"] if _is_about(part, name)):
        return True
    version = Version(text)
    return any(_is_within(events, version) for events in events_about(record, name))


def events_about(record: Record, name: str) -> Iterator[list[dict[str, str]]]:
    """Yield the events of each version range that a record gives for a package."""
    for part in record["affected"]:
        if _is_about(part, name):
            yield from (each["events"] for each in part.get("ranges", ()) if each["type"] == "ECOSYSTEM")


def _is_about(affected: Record, name: str) -> bool:
    package = affected.get("package", {})
    return package.get("ecosystem") == "PyPI" and canonicalize_name(package["name"]) == name


def _is_within(events: Iterable[dict[str, str]], version: Version) -> bool:
    """Return whether a version lies in an OSV range, given the range's events in ascending order of versions."""
    inside = False
    for event in events:
        ((kind, at),) = event.items()
        reached = at == "0" or version >= Version(at)
        if kind == "introduced" and reached:
            inside = True
        elif (kind == "fixed" and reached) or (kind == "last_affected" and version > Version(at)):
            inside = False
    return inside


def locked_packages(locks: Iterable[Path]) -> set[Package]:
    """Return the packages in requirements files, which must pin each package to one version.

    Raises:
        AdvisoriesError: A line does not pin a package to one version.
    """
    packages: set[Package] = set()
    for lock in locks:
        for entry in lock.read_text().replace("\\\n", " ").splitlines():
            if entry[:1].isalnum():
                try:
                    requirement = Requirement(entry.partition("--hash")[0])
                    (pinned,) = requirement.specifier
                except (InvalidRequirement, ValueError) as error:
                    raise AdvisoriesError(f"{lock}: {entry.split()[0]}: {error}") from error
                packages.add((canonicalize_name(requirement.name), pinned.version))
    return packages


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
    """Copy the advisories about the locked packages from a clone of github.com/pypa/advisory-database."""
    try:
        pinned = PinnedAdvisories.of(checkout, {name for name, _ in locked_packages(locks.glob("*.txt"))})
    except AdvisoriesError as error:
        raise click.ClickException(str(error)) from error
    pinned.write(output)
    click.echo(f"{output}: {len(pinned.advisories)} advisories for {len(pinned.packages)} packages as of {pinned.date}")


if __name__ == "__main__":
    main()
