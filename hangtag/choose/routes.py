"""Writes the route.toml of a cascade, and describes the cascade's expected results in words."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime

from hangtag.choose.candidates import Candidate, Point
from hangtag.choose.loss_bound import CONFIDENCE, may_lose
from hangtag.choose.measuring import OUTPUT, Measured


def sent_on(names: Sequence[str], point: Point) -> str:
    """Say what share of the samples each model after the first receives.

    Example:
        >>> sent_on(["lstm", "lstm2", "cnn"], Point(0.9, (1, 0.168, 0.134), 0.95))
        '16.8% go on to lstm2 and 13.4% to cnn'
    """
    first, *more = [f"{share:.1%}{{}} to {name}" for name, share in zip(names[1:], point.reached[1:], strict=True)]
    return " and ".join([first.format(" go on"), *(each.format("") for each in more)])


def lost(cascade: Candidate, samples: int) -> str:
    """Say how many samples the cascade loses, and give an upper bound on the share for new samples.

    Example:
        '1 of 5,000 is wrong although cnn-int8 is right; of new images, at most 0.10% with 95% confidence'
    """
    count = cascade.point.lost
    return (
        f"{count:,} of {samples:,} {'is' if count == 1 else 'are'} wrong although {cascade.models[-1].name} is right; "
        f"of new images, at most {may_lose(samples, count):.2%} with {CONFIDENCE:.0%} confidence"
    )


def text(cascade: Candidate, description: str = "") -> str:
    """Return the content of the route.toml."""
    lines = [
        f"cascade = {json.dumps([model.name for model in cascade.models])}",
        f'accept = {{output = "{OUTPUT}", at_least = {cascade.point.threshold:g}}}',
        'on_overload = "answer"',
        f"expected_sent_on = {cascade.point.reached[1]:.4g}",
    ]
    return "\n".join(lines + ([f"description = {json.dumps(description, ensure_ascii=False)}"] if description else []))


def description(cascade: Candidate, measured: Measured, command: str) -> str:
    """Describe how a route's threshold was chosen: by which command, by which images, and with which results."""
    files = dict(zip((model.name for model in measured.models), measured.files, strict=True))
    names = [model.name for model in cascade.models]
    alone = [
        f"{files[model.name].name}@{files[model.name].version}{'' if place else ' alone has'} "
        f"{model.right(measured.classes):.2%}"
        for place, model in enumerate(cascade.models)
    ]
    return (
        f"Chosen by '{command}' on {datetime.now(UTC):%Y-%m-%d}: of {measured.shown}, {sent_on(names, cascade.point)}, "
        f"and {cascade.accuracy:.2%} are right; {', '.join(alone)}; {lost(cascade, len(measured.classes))}."
    )
