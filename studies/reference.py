"""Make the lists of options and of metrics in docs/reference from the declarations in the code.

This experiment has no command "run", because it measures nothing.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import yaml
from prometheus_client.core import Metric

from hangtag.cli import SUBCOMMANDS, main
from hangtag.serving.server.telemetry.model_statistics import BucketHistogram
from hangtag.serving.server.telemetry.prometheus import metrics_of
from hangtag.serving.server.telemetry.server_state import (
    READY,
    RouteCounts,
    ServerState,
    ShadowCounts,
    StageCounts,
    StoreState,
    VersionState,
)
from hangtag.variables import subcommands
from studies.page import ROOT, Part

_TYPES = {"unknown": "counter"}  # Counters with Triton's names have no type, because the names do not end in _total.
Row = tuple[str, str, str]
"""The flags, the default and the meaning of an option."""


def metrics() -> str:
    """Return a list of all metrics, in the order in which they are exported."""
    rules = yaml.safe_load((ROOT / "deploy/monitoring/rules.yml").read_text())["groups"][0]["rules"]
    recorded = {rule["record"]: rule["expr"] for rule in rules if "record" in rule}
    watched = {rule["alert"]: _expanded(rule["expr"], recorded) for rule in rules if "alert" in rule}
    lines = "\n".join(_line(metric, watched) for metric in _exported())
    return f"""Written by `make docs` from the metrics and deploy/monitoring/rules.yml. Each metric's type and labels
are in parentheses.

{lines}"""


def _expanded(expression: str, recorded: dict[str, str]) -> str:
    for name, meaning in recorded.items():
        expression = expression.replace(name, meaning)
    return expression


def _exported() -> list[Metric]:
    """Return the metrics of a simulated server with a model, a route and a failed call, so each metric has a sample."""
    one = VersionState("cnn", "1", READY, requested_provider="auto", provider="CPUExecutionProvider", instances=1)
    route = replace(one, name="both", route=RouteCounts({(1, "cnn"): StageCounts()}, ShadowCounts(), 0, 0.2))
    histogram = one.counters.request_seconds
    failures, loads = {("cnn", "1", "INTERNAL"): histogram}, {("cnn", "ok"): 1}
    state = ServerState((one, route), failures, loads, {("hot", ""): 1}, store=StoreState())
    assert isinstance(histogram, BucketHistogram)
    return list(metrics_of(state))


def _line(metric: Metric, watched: dict[str, str]) -> str:
    name = f"{metric.name}_total" if metric.type == "counter" else metric.name
    kind = "gauge" if name.endswith("pending_request_count") else _TYPES.get(metric.type, metric.type)
    labels = sorted({label for sample in metric.samples for label in sample.labels} - {"le"})
    alerts = [
        alert for alert, text in watched.items() if re.search(rf"\b{metric.name}(_total|_bucket|_count|_sum)?\b", text)
    ]
    watching = f". Alerts: {', '.join(alerts)}" if alerts else ""
    return f"- `{name}` ({'; '.join(filter(None, (kind, ', '.join(labels))))}): {metric.documentation}{watching}"


def options() -> str:
    """Return a list of shared options, and a list for each command. The function imports all commands, and torch."""
    context = click.Context(main, info_name="hangtag", auto_envvar_prefix="HANGTAG")
    commands: dict[str, tuple[str, list[Row]]] = {}
    for name, entry in SUBCOMMANDS.items():
        command = main.get_command(context, name)
        assert command is not None
        commands |= dict(_option_rows(f"hangtag {name}", entry.summary, command))
    having = defaultdict(list)
    for path, (_, rows) in commands.items():
        for row in rows:
            having[row].append(path)
    repeated = Counter({row: len(paths) for row, paths in having.items() if len(paths) > 1})
    commonest = {row[0]: row for row, _ in reversed(repeated.most_common())}
    shared = [row for row in repeated if row == commonest[row[0]]]
    parts = [
        "Written by `make docs` from the declarations of the options. The default is in parentheses.",
        "## Shared options",
        "Each command's section lists the shared options that the command accepts.",
        _list(shared),
    ]
    for path, (summary, rows) in commands.items():
        own = [row for row in rows if row not in shared]
        theirs = ", ".join(row[0] for row in rows if row in shared)
        parts += [f"## {path}", summary]
        parts += [f"[Shared](#shared-options): {theirs}."] if theirs else []
        parts += [_list(own)] if own else []
    return "\n\n".join(parts)


def _option_rows(path: str, summary: str, command: click.Command) -> Iterator[tuple[str, tuple[str, list[Row]]]]:
    """Yield a command and its subcommands, with summary and options. Groups without options are left out."""
    rows = [row for parameter in command.params if (row := _option_row(parameter))]
    if rows or not isinstance(command, click.Group):
        yield path, (summary, rows)
    for name, each in subcommands(command).items():
        yield from _option_rows(f"{path} {name}", each.get_short_help_str(150), each)


def _list(rows: list[Row]) -> str:
    """Return a line for each option, with the default in brackets. A < is escaped, because it would begin HTML."""
    return "\n".join(
        f"- {flags}{f' ({default})' if default else ''}: {meaning}".replace("<", "&lt;")
        for flags, default, meaning in rows
    )


def _option_row(parameter: click.Parameter) -> Row | None:
    if not isinstance(parameter, click.Option) or parameter.deprecated:  # hidden options are also listed
        return None
    flags = ", ".join(f"`{flag}`" for flag in (*parameter.opts, *parameter.secondary_opts))
    meaning, _, default = _help(parameter).partition(" [default: ")
    choices = list(map(str, parameter.type.choices)) if isinstance(parameter.type, click.Choice) else []
    if any(choice not in meaning for choice in choices):
        meaning += f" ({', '.join(choices)})"
    return flags, default.removesuffix("]") or _default(parameter), meaning


def _default(option: click.Option) -> str:
    if isinstance(option.show_default, str):
        return option.show_default
    default = option.to_info_dict()["default"]
    if default in (None, "", (), []) or not isinstance(default, str | int | float | tuple | list | Path):
        return ""
    if isinstance(default, bool):
        return "on" if default else ""
    if isinstance(default, tuple | list):
        return f"`{','.join(map(str, default))}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def _help(option: click.Option) -> str:
    return " ".join((option.help or "").split())


PARTS = (
    Part("docs/reference/metrics.md", metrics, "metrics"),
    Part("docs/reference/options.md", options, "options"),
)
