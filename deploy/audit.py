"""Looks every locked package up in a database of known vulnerabilities: `make -C deploy audit`.

    python -m deploy.audit                      ask OSV (api.osv.dev)
    python -m deploy.audit --database FOLDER    read a copy, such as a clone of github.com/pypa/advisory-database
    python -m deploy.audit --database URL       ask another service that speaks OSV's API
    python -m deploy.audit --if-reachable       exit with 0 where no connection to the service is possible, for CI

pip-audit asks and reads the answers. It is called in a way that a database which cannot be reached is not taken for one
that knows of nothing. Exit code: 0 nothing is known, 1 something is, 3 the packages were not audited.
"""

import json
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import click

from deploy.advisories import Advisories, AdvisoriesError, served

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
    """Connect to a service, whatever it then answers.

    Raises:
        UnreachableError: No connection is possible. That a certificate is refused is for pip-audit to report.
    """
    try:
        urllib.request.urlopen(url, timeout=20).close()  # noqa: S310
    except urllib.error.HTTPError:
        return  # it answers
    except OSError as error:
        reason = getattr(error, "reason", error)
        if not isinstance(reason, ssl.SSLError):
            raise UnreachableError(str(reason)) from None


def audit(locks: list[Path], url: str) -> Audit:
    """Look up the packages of all locks.

    Raises:
        UnreachableError: No connection to the service is possible.
        AuditError: pip-audit fails, with all that it says: a lock or the answers cannot be read. Some packages may have
            been looked up.
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
        raise AuditError(done.stderr.strip() or "pip-audit says nothing") from None
    return Audit(
        packages=len(packages),
        vulnerabilities=tuple(
            f"{package['name']} {package['version']}: {found['id']} {' '.join(found['aliases'])}, fixed in "
            f"{', '.join(found['fix_versions']) or 'no release'}. {found['description'][:200]}"
            for package in packages
            for found in package["vulns"]
        ),
    )


@click.command()
@click.option("--database", default=OSV, show_default=True, help="A folder of OSV records, or a URL.")
@click.option("--if-reachable", is_flag=True, help="Exit with 0 where no connection to the service is possible.")
def main(database: str, if_reachable: bool) -> None:
    """Look the packages of all locks up in a database of vulnerabilities, and write reports/audit."""
    locks = sorted(LOCKS.glob("*.txt"))
    url = name = database
    try:
        with ExitStack() as stack:
            if not database.startswith(("http://", "https://")):
                advisories = Advisories.read(Path(database))
                url = stack.enter_context(served(advisories))
                name = f"{database} ({advisories.count:,} advisories, the latest of {advisories.latest:.10})"
            result = audit(locks, url)
    except (AuditError, AdvisoriesError) as error:
        forgiven = if_reachable and isinstance(error, UnreachableError)
        problem = "cannot be reached" if isinstance(error, UnreachableError) else "the audit failed"
        click.echo(f"NOT AUDITED: {name}: {problem}: {error}", err=True)
        sys.exit(0 if forgiven else NOT_AUDITED)
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
