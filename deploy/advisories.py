"""Answers OSV's query API from a folder of OSV records, so that pip-audit can work with a copy of a database.

https://ossf.github.io/osv-schema/ describes a record, https://google.github.io/osv.dev/post-v1-query/ the API.
"""

import json
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml
from packaging.utils import canonicalize_name
from packaging.version import Version

Record = dict[str, Any]


class AdvisoriesError(Exception):
    """A folder is not a copy of a database of advisories."""


@dataclass(frozen=True)
class Advisories:
    """The records of a folder, grouped by the PyPI package that a record is about."""

    by_package: dict[str, list[Record]]
    count: int
    latest: str
    """The latest time at which a record was modified, in ISO 8601."""

    @classmethod
    def read(cls, folder: Path) -> "Advisories":
        """Read every .json and .yaml file below a folder. Files that are not records are left out.

        Raises:
            AdvisoriesError: The folder has no record.
        """
        records = []
        for file in sorted([*folder.rglob("*.json"), *folder.rglob("*.yaml")]):
            # BaseLoader reads every value as text. Otherwise version 1.10 would become the number 1.1, and a date would
            # lose its format.
            record = yaml.load(file.read_text(), Loader=getattr(yaml, "CBaseLoader", yaml.BaseLoader))  # noqa: S506
            if isinstance(record, dict) and "affected" in record:
                records.append(record)
        if not records:
            raise AdvisoriesError(f"{folder} has no OSV records. Clone github.com/pypa/advisory-database there.")
        return cls.of(records)

    @classmethod
    def of(cls, records: list[Record]) -> "Advisories":
        """Group records by package. A record may be about several packages."""
        by_package: dict[str, list[Record]] = defaultdict(list)
        for record in records:
            for name in {_name(affected) for affected in record["affected"]} - {None}:
                by_package[str(name)].append(record)
        return cls(dict(by_package), len(records), max((record["modified"] for record in records), default=""))

    def about(self, name: str, version: str) -> list[Record]:
        """Return the records that say that this version of a package is affected."""
        records = self.by_package.get(canonicalize_name(name), [])
        return [record for record in records if any(_affects(part, name, version) for part in record["affected"])]


def _name(affected: Record) -> str | None:
    package = affected.get("package", {})
    return canonicalize_name(package["name"]) if package.get("ecosystem") == "PyPI" else None


def _affects(affected: Record, name: str, version: str) -> bool:
    if _name(affected) != canonicalize_name(name):
        return False
    if version in affected.get("versions", []):
        return True
    ranges = [each["events"] for each in affected.get("ranges", []) if each["type"] == "ECOSYSTEM"]
    return any(_within(events, Version(version)) for events in ranges)


def _within(events: Iterable[dict[str, str]], version: Version) -> bool:
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


@contextmanager
def served(advisories: Advisories) -> Iterator[str]:
    """Run a server that answers queries on a free port of this machine, and yield its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found = advisories.about(query["package"]["name"], query["version"])
            body = json.dumps({"vulns": found} if found else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """Queries are not logged."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1/query"
        finally:
            server.shutdown()
            thread.join()
