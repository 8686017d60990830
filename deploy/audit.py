"""Looks every locked package up in a database of known vulnerabilities: `make -C deploy audit`.

    python -m deploy.audit                      ask OSV, or read the pinned copy if OSV cannot be reached
    python -m deploy.audit --database FOLDER    read a copy, such as a clone of github.com/pypa/advisory-database
    python -m deploy.audit --database FILE      read a pinned copy, such as deploy/pinned-advisories.json
    python -m deploy.audit --database URL       ask another service that speaks OSV's API

pip-audit asks the database and reads the answers. This module checks that a database can be reached, so that an
unreachable database does not look like a database without vulnerabilities. The exit code is 0 if no vulnerability is
known, 1 if at least one is known, and 3 if the packages were not audited.
"""

import json
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import click

from deploy.advisories import Advisories, AdvisoriesError, served
from deploy.pinned_advisories import PINNED, PinnedAdvisories, locked_packages

LOCKS = Path(__file__).parent / "locks"
REPORT = Path("reports/audit/vulnerabilities.json")
OSV = "https://api.osv.dev/v1/query"
FOUND, NOT_AUDITED = 1, 3


class AuditError(Exception):
    """The packages could not be looked up."""


class UnreachableError(AuditError):
    """No connection to the service is possible."""


@dataclass(frozen=True)
class Audit:
    """How many packages were looked up, and a line for each vulnerability that is known."""

    packages: int
    vulnerabilities: tuple[str, ...]


def reach(url: str) -> None:
    """Check that a service answers, with any status.

    Raises:
        UnreachableError: No connection is possible. For a certificate that is not accepted, no error is raised here,
            because pip-audit reports the certificate.
    """
    try:
        urllib.request.urlopen(url, timeout=20).close()  # noqa: S310
    except urllib.error.HTTPError:
        return  # the service answers
    except OSError as error:
        reason = getattr(error, "reason", error)
        if not isinstance(reason, ssl.SSLError):
            raise UnreachableError(str(reason)) from None


def audit(locks: list[Path], url: str) -> Audit:
    """Look up the packages of all locks.

    Raises:
        UnreachableError: No connection to the service is possible.
        AuditError: pip-audit failed, for example because it cannot read a lock or an answer. The error has pip-audit's
            whole output. pip-audit may have looked up some of the packages.
    """
    reach(url)
    files = [argument for lock in locks for argument in ("--requirement", str(lock))]
    service = ("--vulnerability-service", "osv", "--osv-url", url)
    fixed = ("--strict", "--disable-pip", "--require-hashes", "--format", "json", "--progress-spinner", "off")
    done = subprocess.run(
        [sys.executable, "-m", "pip_audit", *fixed, *service, *files], capture_output=True, text=True, check=False
    )
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        raise AuditError(done.stderr.strip() or "pip-audit printed no reason") from None
    return Audit(
        packages=len(packages),
        vulnerabilities=tuple(
            f"{package['name']} {package['version']}: {found['id']} {' '.join(found['aliases'])}, fixed in "
            f"{', '.join(found['fix_versions']) or 'no release'}. {found['description'][:200]}"
            for package in packages
            for found in package["vulns"]
        ),
    )


def audit_by(database: str, locks: list[Path]) -> tuple[str, Audit]:
    """Look up the packages of all locks in a folder, a pinned copy or a service. Also returns the database's name.

    Raises:
        UnreachableError: No connection to the service is possible.
        AuditError: pip-audit fails.
        AdvisoriesError: A copy cannot be read, or does not cover all packages.
    """
    if database.startswith(("http://", "https://")):
        return database, audit(locks, database)
    if Path(database).is_file():
        pinned = PinnedAdvisories.read(Path(database))
        advisories = pinned.covering(locked_packages(locks))
        name = pinned.description(datetime.now(UTC))
    else:
        advisories = Advisories.read(Path(database))
        name = f"{database} ({advisories.count:,} advisories, the latest of {advisories.latest:.10})"
    with served(advisories) as url:
        return name, audit(locks, url)


@click.command()
@click.option("--database", help="The only database to use: a folder of OSV records, a pinned copy, or a URL.")
@click.option(
    "--locks",
    "folder",
    default=LOCKS,
    type=click.Path(exists=True, path_type=Path),
    help="The folder with the lock files.",
)
@click.option("--osv", default=OSV, show_default=True, help="The service to ask if --database is not given.")
def main(database: str | None, folder: Path, osv: str) -> None:
    """Look up the packages of all lock files in a database of vulnerabilities, and write reports/audit."""
    locks = sorted(folder.glob("*.txt"))
    try:
        try:
            name, result = audit_by(database or osv, locks)
        except UnreachableError as error:
            if database:
                raise
            click.echo(f"WARNING: {osv} cannot be reached: {error}", err=True)
            name, result = audit_by(str(PINNED), locks)
            click.echo(f"WARNING: the packages were looked up in {name}. Later advisories are missing.", err=True)
    except (AuditError, AdvisoriesError) as error:
        problem = "cannot be reached" if isinstance(error, UnreachableError) else "the audit failed"
        click.echo(f"NOT AUDITED: {database or osv}: {problem}: {error}", err=True)
        sys.exit(NOT_AUDITED)
    today = datetime.now(UTC).date().isoformat()
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    document = {"date": today, "database": name, "locks": [lock.name for lock in locks], **asdict(result)}
    REPORT.write_text(json.dumps(document, indent=1))
    for line in result.vulnerabilities:
        click.echo(line)
    found = len(result.vulnerabilities)
    click.echo(f"{today}: {found} known vulnerabilities in {result.packages} packages, by {name}")
    sys.exit(FOUND if found else 0)


if __name__ == "__main__":
    main()
