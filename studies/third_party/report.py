"""Writes the part of docs/export.md about models that nobody here made, in other precisions."""

from collections.abc import Mapping
from pathlib import Path

from studies import results
from studies.page import Part, made_from, percent, table
from studies.third_party.models import MODELS
from studies.third_party.run import RESULTS

_HEAD = (
    "model", "precision", "required", "answered alike", "with 95 % confidence", "layers in FP32", "size",
    "1 sample", "64 samples",
)  # fmt: skip


def part(path: Path = RESULTS) -> str:
    """What was converted, and a table of what came out. Raises click.ClickException, as read."""
    lines = results.read(path)
    conditions = lines.pop("conditions")
    what = "; ".join(f"the model of `{model.package}` {model.what}" for model in MODELS)
    proofs = {line["agreement"]["samples"] for line in lines.values()}
    return "\n\n".join(
        [
            f"Two models out of packages' wheels were converted: {what}. Their samples are files of this repository, "
            "and pictures of three random words of its README, every second one upside down. The shares are of "
            f"{' or '.join(f'{count:,}' for count in sorted(proofs))} samples with which the file was not made. Sizes "
            "and times are the converted file's, one thread; in brackets the share of the original's size, and how "
            "many times faster the file is:",
            table(_HEAD, [_row(name, line) for name, line in lines.items()], right=7),
            f"{made_from(path, conditions)}.",
        ]
    )


def _row(name: str, line: results.Line) -> tuple[str, ...]:
    package, precision = name.rsplit(" ", 1)
    agreement = line["agreement"]
    return (
        f"`{package}`",
        precision,
        f"{agreement['least']:.1%}".replace("%", " %"),
        percent(agreement["share"]),
        f"at least {percent(agreement['at_least_with_95_percent_confidence'])}",
        f"{len(line['fp32_layers'])} of {line['layers']}",
        f"{line['megabytes']:.2f} MB ({line['megabytes'] / line['original_megabytes']:.0%})",
        *(_milliseconds(line["median_ms"].get(size)) for size in ("1", "64")),
    )


def _milliseconds(times: Mapping[str, float] | None) -> str:
    return f"{times['file']:.3g} ms ({times['original'] / times['file']:.2f}x)" if times else ""


PARTS = (Part("docs/export.md", part, "third party"),)
