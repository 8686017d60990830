"""What the server's options are made of: their kinds, and the checks that click does not have."""

import math
from pathlib import Path
from typing import Any

import click

FILE = click.Path(dir_okay=False, path_type=Path)
MOST_SAMPLES = 4096


class Seconds(click.FloatRange):
    """As many as gRPC's core can count: milliseconds, in 31 bits."""

    def __init__(self, least: float) -> None:
        super().__init__(least, 2_000_000)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds: float = super().convert(value, param, ctx)
        if math.isnan(seconds):  # which is neither below nor above
            self.fail(f"{value!r} is no number of seconds", param, ctx)
        return seconds


def option(type_: Any, help_: str, **more: Any) -> dict[str, Any]:
    """An option's arguments for click; ``more`` are those that few options have."""
    return {"type": type_, "help": help_, **more}


def model_limit(value: str) -> tuple[str, int]:
    """NAME=N: a model's name and the most samples computed together."""
    name, _, limit = value.rpartition("=")
    if not (name and limit.isascii() and limit.isdigit() and int(limit) <= MOST_SAMPLES):
        raise click.BadParameter(f"{value!r} is not a model's name, '=' and a number from 0 to {MOST_SAMPLES}")
    return name, int(limit)
