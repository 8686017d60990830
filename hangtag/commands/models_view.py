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
    """Build the JSON object of a model for `list`."""
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


def description(shown: Shown, entry: Entry | None = None) -> Table:
    """Make the table of `hangtag models show` from a JSON object. ``entry`` is None for a route."""
    if entry is not None and (signature := entry.signature) is not None:
        shown = shown | {side: "; ".join(map(str, getattr(signature, side))) for side in ("inputs", "outputs")}
        shown["image"] = str(signature.image or "")
        if not shown["image"] and signature.picture_shape is not None:
            shown["image"] = f"only this size; for other sizes, run: hangtag models fit {shown['model']} --fit ..."
        shown["operators"] = shown["operators"] or "unknown: the package onnx is not installed"
        shown |= {figure: f"{shown[figure]:.2%}" for figure in inventory.FIGURES if figure in shown}
    lines = list[tuple[str, Any]]()
    for key, value in shown.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = dict(enumerate(value, 1))
        is_nested = isinstance(value, dict) and key != "operators"
        lines += [(f"{key} {name}", part) for name, part in value.items()] if is_nested else [(key, value)]
    return facts((key.replace("_", " "), _words(value)) for key, value in lines if value not in (None, [], ""))


def _words(value: Any) -> str:
    """Return a value of a JSON object as one line. For a nested object, show only its largest number. Numbers for
    artificial pictures are left out, because an int8 file may differ more on these than on test pictures."""
    if not isinstance(value, dict):
        return text(value)
    words = []
    for name, part in value.items():
        numbers = flat(part.get("test", part)).values() if isinstance(part, dict) else ()
        largest = max((number for number in numbers if isinstance(number, int | float)), default=part)
        if part is not None and name not in ("operators", "opsets"):
            words.append(f"{name.replace('_', ' ')} {text(largest)}")
    return ", ".join(words) or "passed"


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
    """Build the JSON object of a route for `list`. If the route's file is invalid, the object contains the error."""
    try:
        return route_details(models, name)
    except UserError as error:
        return {"route": name, "file": str(models / name / ROUTE_FILE), "trouble": str(error)}


def route_listing(routes: Sequence[Shown]) -> Table:
    """Make a table from route summaries. A route's row has its models, or the error if the route's file is invalid."""
    rows = []
    for shown in routes:
        answered = shown.get("trouble", "")
        if not answered:
            shares = [f" {share:g}%" for share in shown.get("shares", ())] or [""] * len(shown["members"])
            members = [f"{_name(each)}{share}" for each, share in zip(shown["members"], shares, strict=True)]
            answered = (", then " if shown["kind"] == "cascade" else ", ").join(members)
        rows.append((shown["route"], shown.get("kind", "-"), answered))
    return table(("route", "kind", "answered by"), rows)


def _member(models: Path, member: Member) -> Shown:
    """Describe a route's member: a model's version and accuracy, a route, or the error if it cannot be used."""
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


def followers(name: str) -> str:
    """Say when a promotion or a new route takes effect on running servers."""
    return (
        "a server with --model-control poll applies this within its --poll-seconds, a server with --model-control "
        f"explicit at 'hangtag models load {name}', and any other server when it restarts"
    )
