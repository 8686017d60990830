"""Makes the tables of `hangtag models list` and `show` for models and routes, and the objects for --json."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from hangtag.errors import UserError
from hangtag.export.repository import inventory
from hangtag.export.repository.inventory import Entry
from hangtag.serving.model_repository import ROUTE_FILE, is_route
from hangtag.serving.server.engine.routes import route_file
from hangtag.serving.server.engine.routes.route_file import Member
from hangtag.tables import facts, table
from hangtag.training.report.tables import text
from hangtag.training.runs.config import flat

Shown = dict[str, Any]
"""The JSON object of a model or of a route."""


def summary(entry: Entry) -> Shown:
    """Build the JSON object of a model for the list."""
    return {
        "model": entry.name,
        "version": entry.version,
        "serves": entry.serves,
        "file": str(entry.path),
        "megabytes": round(entry.megabytes, 3),
        "precision": entry.precision,
        "task": entry.metadata.get("task"),
        "batched": entry.batched,
        **({"unbatched_because": entry.unbatched_because} if entry.unbatched_because else {}),
        "from": inventory.origin(entry),
        **({entry.accuracy[0]: entry.accuracy[1]} if entry.accuracy else {}),
        **({"trial": entry.trial} if entry.trial else {}),
        **({"trouble": entry.trouble} if entry.trouble else {}),
    }


def listing(models: Sequence[Shown]) -> Table:
    """Make a table with a row for each version, from the versions' summaries."""
    rows = [
        (
            shown["model"],
            str(shown["version"]),
            "yes" if shown["serves"] else "-",
            shown["precision"] or "-",
            f"{shown['megabytes']:.1f} MB",
            Text("cannot be loaded", "red") if "trouble" in shown else shown["task"] or "-",
            ", ".join(_accuracy(shown)).removeprefix("test accuracy ").removeprefix("test ") or "-",
            {True: "yes", False: "no", None: "-"}[shown["batched"]],
            shown["from"] or "-",
        )
        for shown in models
    ]
    headers = ("model", "version", "serves", "precision", "size", "task", "test accuracy", "batched", "from")
    return table(headers, rows, right=("version", "size", "test accuracy"))


def details(entry: Entry, operators: Mapping[str, int] | None) -> Shown:
    """Build the fields that `hangtag models show --json` adds to the summary. The model's file must be loadable."""
    assert entry.signature is not None
    sides = {"inputs": entry.signature.inputs, "outputs": entry.signature.outputs}
    return {
        **{
            side: [{"name": spec.name, "datatype": spec.datatype, "shape": spec.wire_shape} for spec in specs]
            for side, specs in sides.items()
        },
        "image": None if entry.signature.image is None else entry.signature.image.as_json(),
        "labels": list(entry.signature.labels),
        "operators": operators,
        "provenance": dict(inventory.provenance(entry)),
        "gate": entry.gate,
        "fp32_layers": entry.json("fp32_layers"),
    }


def description(entry: Entry, operators: Mapping[str, int] | None) -> Table:
    """Make the table of `hangtag models show` for a model. The model's file must be loadable."""
    assert entry.signature is not None
    signature, gate = entry.signature, entry.gate if isinstance(entry.gate, dict) else {}
    image = "" if signature.image is None else str(signature.image)
    if not image and signature.picture_shape is not None:
        image = f"only this size; for other sizes, run: hangtag models fit {entry.name} --fit ..."
    counts = ", ".join(f"{count} {operator}" for operator, count in (operators or {}).items())
    lines = {
        "model": f"{entry.name} version {entry.version}, {'' if entry.serves else 'another version '}serves",
        "file": f"{entry.path}, {entry.megabytes:.2f} MB",
        "input": "; ".join(map(str, signature.inputs)),
        "output": "; ".join(map(str, signature.outputs)),
        "image": image,
        "batched": "yes" if entry.batched else f"no, requests are served one at a time: {entry.unbatched_because}",
        "labels": ", ".join(signature.labels),
        "operators": "unknown: the package onnx is not installed" if operators is None else counts,
        "TRIAL RUN": entry.trial or "",
        **dict(inventory.provenance(entry)),
        **({entry.accuracy[0]: f"{entry.accuracy[1]:.2%}"} if entry.accuracy else {}),
        **{f"gate: {check}": _check(figures) for check, figures in gate.items() if isinstance(figures, dict)},
    }
    return facts(line for line in lines.items() if line[1])


def _check(figures: Shown) -> str:
    """Write a check's results in one line. For a nested table, only the largest number is written."""
    words = []
    for name, value in figures.items():
        if value is not None and name not in ("operators", "opsets"):
            values = flat(value).values() if isinstance(value, dict) else ()
            largest = max((each for each in values if isinstance(each, int | float)), default=value)
            words.append(f"{name.replace('_', ' ')} {text(largest)}")
    return str(figures.get("summary") or ", ".join(words) or "passed")


def _accuracy(shown: Shown) -> list[str]:
    """Return the test accuracy in words, if it is known, such as "test accuracy 93.10%"."""
    return [f"{key.replace('_', ' ')} {shown[key]:.2%}" for key in inventory.FIGURES if key in shown]


def route_details(models: Path, name: str) -> Shown:
    """Build a route's JSON object, which combines the settings in its file with the versions of its models. Raises
    UserError if the file is not valid."""
    file = models / name / ROUTE_FILE
    settings = route_file.read(file)
    accept, shadow = settings.acceptance, settings.shadow
    rule: Shown = {"shares": list(settings.weights), "sticky": settings.sticky or None}
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


def route_summary(models: Path, name: str) -> Shown:
    """Build the JSON object of a route for a list. If the route's file is invalid, the object contains the error."""
    try:
        return route_details(models, name)
    except UserError as error:
        return {"route": name, "file": str(models / name / ROUTE_FILE), "trouble": str(error)}


def route_listing(routes: Sequence[Shown]) -> Table:
    """Make a table with a row for each route, with its models or the error in its file, from the routes' summaries."""
    rows = []
    for shown in routes:
        answered = shown.get("trouble", "")
        if not answered:
            shares = [f" {share:g}%" for share in shown.get("shares", ())] or [""] * len(shown["members"])
            members = [f"{_name(each)}{share}" for each, share in zip(shown["members"], shares, strict=True)]
            answered = (", then " if shown["kind"] == "cascade" else ", ").join(members)
        rows.append((shown["route"], shown.get("kind", "-"), answered))
    return table(("route", "kind", "answered by"), rows)


def route_description(shown: Shown) -> Table:
    """Make the table of `hangtag models show` for a route, from the route's details."""
    shares = [f"share {share:g}%" for share in shown.get("shares", ())]
    places = shares or [f"stage {number}" for number, _ in enumerate(shown["members"], start=1)]
    lines = [("route", f"{shown['route']}, a {shown['kind']}"), ("file", shown["file"])]
    lines += zip(places, map(_words, shown["members"]), strict=True)
    lines += [(key, text(shown[key])) for key in ("on_overload", "sticky") if shown.get(key)]
    if "accept" in shown:
        lines.append(("accept", ", ".join(f"{key} {value}" for key, value in shown["accept"].items())))
    if (share := shown.get("expected_sent_on")) is not None:
        lines.append(("expected", f"{share:.1%} of the samples go on to stage 2"))
    if shadow := shown["shadow"]:
        lines.append(("shadow", f"{_words(shadow)}, gets copies of {shadow['share']:.0%} of the requests"))
    lines += [("" if row else "description", line) for row, line in enumerate(shown["description"].splitlines())]
    return facts(lines)


def _member(models: Path, member: Member) -> Shown:
    """Describe a member: a model's version and accuracy, a route, or the error for a member that cannot be used."""
    if is_route(models, member.name):
        return {"model": member.name, "is_route": True}
    try:
        entry = inventory.find(models, member.name, int(member.version) if member.version else None)
    except UserError as error:
        return {"model": str(member), "trouble": str(error)}
    return {"model": entry.name, "version": entry.version, **(dict([entry.accuracy]) if entry.accuracy else {})}


def _name(member: Shown) -> str:
    version = f"@{member['version']}" if "version" in member else ""
    return f"{member['model']}{version}{' (missing)' if 'trouble' in member else ''}"


def _words(member: Shown) -> str:
    if "trouble" in member:
        return f"{member['model']}: {member['trouble']}"
    if "is_route" in member:
        return f"{member['model']}, a route"
    return ", ".join([f"{member['model']} version {member['version']}", *_accuracy(member)])


def followers(name: str) -> str:
    """Say when running servers apply a promotion or a new route."""
    return (
        "a server with --model-control poll applies this within its --poll-seconds, a server with --model-control "
        f"explicit at 'hangtag models load {name}', and any other server when it restarts"
    )
