"""Looks every locked package up in OSV's database of known vulnerabilities: `make -C deploy audit`.

    python -m deploy.audit      ask OSV, or read deploy/pinned-advisories.json if OSV cannot be reached

The exit code is 0 if no vulnerability is known, 1 if at least one is known, and 3 if the packages were not audited. An
unreachable database must not look like a database without vulnerabilities.
"""

import json
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import click

from deploy.pinned_advisories import (
    LOCKS,
    PINNED,
    AdvisoriesError,
    Package,
    PinnedAdvisories,
    Record,
    events_about,
    locked_packages,
)

REPORT = Path("reports/audit/vulnerabilities.json")
OSV = "https://api.osv.dev/v1/query"
FOUND, NOT_AUDITED = 1, 3
_AT_ONCE = 8


class UnreachableError(Exception):
    """No connection to the database is possible."""


def ask(url: str, package: Package) -> list[Record]:
    """Return the records that OSV has about a version of a package. https://google.github.io/osv.dev/post-v1-query/

    Raises:
        UnreachableError: No connection to OSV is possible.
        OSError, ValueError: OSV's certificate is not accepted, or OSV answers with an error or without JSON.
    """
    name, version = package
    query = {"version": version, "package": {"name": name, "ecosystem": "PyPI"}}
    try:
        with urllib.request.urlopen(url, json.dumps(query).encode(), timeout=20) as answer:  # noqa: S310
            records: list[Record] = json.load(answer).get("vulns", [])
            return records
    except urllib.error.HTTPError as error:
        error.close()
        raise
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLError):
            raise
        raise UnreachableError(str(error.reason)) from None


def vulnerabilities(package: Package, records: list[Record]) -> Iterator[str]:
    """Yield a line for each record, with the releases that correct the vulnerability."""
    name, version = package
    for record in records:
        if "withdrawn" not in record:
            fixed = [event["fixed"] for events in events_about(record, name) for event in events if "fixed" in event]
            text = record.get("summary") or record.get("details", "")
            yield (
                f"{name} {version}: {' '.join([record['id'], *record.get('aliases', ())])}, fixed in "
                f"{', '.join(fixed) or 'no release'}. {text[:200]}"
            )


@click.command()
@click.option(
    "--locks",
    "folder",
    default=LOCKS,
    type=click.Path(exists=True, path_type=Path),
    help="The folder with the lock files.",
)
@click.option("--osv", default=OSV, show_default=True, help="The URL of OSV's query API.")
def main(folder: Path, osv: str) -> None:
    """Look up the packages of all lock files in a database of vulnerabilities, and write reports/audit."""
    locks, database = sorted(folder.glob("*.txt")), osv
    try:
        packages = sorted(locked_packages(locks))
        try:
            with ThreadPoolExecutor(_AT_ONCE) as threads:
                records = list(threads.map(partial(ask, osv), packages))
        except UnreachableError as error:
            click.echo(f"WARNING: {osv} cannot be reached: {error}", err=True)
            pinned = PinnedAdvisories.read(PINNED)
            records, database = pinned.about(packages), pinned.description(datetime.now(UTC))
            click.echo(f"WARNING: the packages were looked up in {database}. Later advisories are missing.", err=True)
    except (AdvisoriesError, OSError, ValueError) as error:
        click.echo(f"NOT AUDITED: {osv}: the audit failed: {error}", err=True)
        sys.exit(NOT_AUDITED)
    found = [line for each in zip(packages, records, strict=True) for line in vulnerabilities(*each)]
    today = datetime.now(UTC).date().isoformat()
    document = {"date": today, "database": database, "locks": [lock.name for lock in locks]}
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(document | {"packages": len(packages), "vulnerabilities": found}, indent=1))
    click.echo("".join(f"{line}\n" for line in found), nl=False)
    click.echo(f"{today}: {len(found)} known vulnerabilities in {len(packages)} packages, by {database}")
    sys.exit(FOUND if found else 0)


if __name__ == "__main__":
    main()
