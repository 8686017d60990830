"""Describes a route of a model repository as a table, and as an object for --json, for `hangtag models show`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from hangtag.errors import UserError
from hangtag.export.repository import inventory
from hangtag.export.repository.inventory import Entry
from hangtag.serving.model_repository import ROUTE_FILE, is_route
from hangtag.serving.server.engine.routes import route_file
from hangtag.serving.server.engine.routes.route_file import Member
from hangtag.tables import facts, table


def details(models: Path, name: str) -> dict[str, Any]:
    """Build a route's JSON object, which combines the settings in its file with the versions of its models.

    Raises:
        UserError: The route's file is not valid.
    """
    file = models / name / ROUTE_FILE
    settings = route_file.read(file)
    accept, shadow = settings.acceptance, settings.shadow
    rule: dict[str, Any] = {"shares": list(settings.weights), "sticky": settings.sticky or None}
    if accept is not None:
        rule = {
            "accept": {"output": accept.output, accept.rule: accept.bound},
            "on_overload": settings.on_overload,
            "expected_sent_on": settings.expected_escalation_rate,
        }
    return {
        "route": name,
        "kind": "split" if accept is None else "cascade",
        "file": str(file),
        "members": [_member(models, member) for member in settings.members],
        **rule,
        "shadow": {"share": shadow.share, **_member(models, shadow.member)} if shadow else None,
        "description": settings.description,
    }


def summary(models: Path, name: str) -> dict[str, Any]:
    """Build the JSON object of a route for a list. If the route's file is invalid, the object contains the error."""
    try:
        return details(models, name)
    except UserError as error:
        return {"route": name, "file": str(models / name / ROUTE_FILE), "trouble": str(error)}


def listing(models: Path, names: Sequence[str]) -> Table:
    """Make the table of routes for `hangtag models list`, with each route's models or the error in its file."""
    rows = []
    for name in names:
        shown = summary(models, name)
        if trouble := shown.get("trouble"):
            rows.append((name, "-", trouble))
            continue
        members = [_short(member) for member in shown["members"]]
        if shares := shown.get("shares"):
            members = [f"{member} {share:g}%" for member, share in zip(members, shares, strict=True)]
        rows.append((name, shown["kind"], (", then " if shown["kind"] == "cascade" else ", ").join(members)))
    return table(("route", "kind", "answered by"), rows)


def description(models: Path, name: str) -> Table:
    """Make the table of `hangtag models show` for a route. Raises UserError if the route's file is not valid."""
    shown = details(models, name)
    stages = [f"stage {number}" for number, _ in enumerate(shown["members"], start=1)]
    shares = [f"share {share:g}%" for share in shown.get("shares", ())]
    lines = [("route", f"{name}, a {shown['kind']}"), ("file", shown["file"])]
    lines += zip(shares or stages, map(_words, shown["members"]), strict=True)
    if not shares:
        lines.append(("accept", ", ".join(f"{key} {value}" for key, value in shown["accept"].items())))
        lines.append(("on_overload", shown["on_overload"]))
    if (share := shown.get("expected_sent_on")) is not None:
        lines.append(("expected", f"{share:.1%} of the samples go on to stage 2"))
    if shown.get("sticky"):
        lines.append(("sticky", shown["sticky"]))
    if shadow := shown["shadow"]:
        lines.append(("shadow", f"{_words(shadow)}, gets copies of {shadow['share']:.0%} of the requests"))
    lines += [("" if row else "description", text) for row, text in enumerate(shown["description"].splitlines())]
    return facts(lines)


def _member(models: Path, member: Member) -> dict[str, Any]:
    """Describe a member of a route: a model's version and accuracy, or the error for a member that cannot be used.

    A member that is a route has neither a version nor an accuracy.
    """
    if is_route(models, member.name):
        return {"model": member.name, "is_route": True}
    try:
        entry: Entry = inventory.find(models, member.name, int(member.version) if member.version else None)
    except UserError as error:
        return {"model": str(member), "trouble": str(error)}
    accuracy = {entry.accuracy[0]: entry.accuracy[1]} if entry.accuracy else {}
    return {"model": entry.name, "version": entry.version, **accuracy}


def _short(member: dict[str, Any]) -> str:
    if "trouble" in member:
        return f"{member['model']} (missing)"
    return f"{member['model']}@{member['version']}" if "version" in member else str(member["model"])


def _words(member: dict[str, Any]) -> str:
    if "trouble" in member:
        return f"{member['model']}: {member['trouble']}"
    if "is_route" in member:
        return f"{member['model']}, a route"
    figures = [f"{key.replace('_', ' ')} {member[key]:.2%}" for key in inventory.FIGURES if key in member]
    return ", ".join([f"{member['model']} version {member['version']}", *figures])
