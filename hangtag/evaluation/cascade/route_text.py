"""Writes the route.toml of a cascade whose threshold was chosen from data, and says in words what to expect of it."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime

from hangtag.evaluation.cascade.curve import Curve, Point
from hangtag.evaluation.cascade.members import OUTPUT, Members


def sent_on(names: Sequence[str], point: Point) -> str:
    """Which share of the samples goes on to which model.

    Example:
        >>> sent_on(["lstm", "lstm2", "cnn"], Point(0.9, (1, 0.168, 0.134), 0.95))
        '16.8% go on to lstm2 and 13.4% to cnn'
    """
    first, *more = [f"{share:.1%}{{}} to {name}" for name, share in zip(names[1:], point.reached[1:], strict=True)]
    return " and ".join([first.format(" go on"), *(each.format("") for each in more)])


def text(members: Members, tried: Curve, chosen: Point, lose_at_most: float) -> str:
    """The route.toml, whose description says where the threshold came from.

    Args:
        lose_at_most: Points of accuracy, as on the command line.
    """
    names = members.names
    alone = [
        f"{file.name}@{file.version}{' alone has' if place == 0 else ''} {accuracy:.2%}"
        for place, (file, accuracy) in enumerate(zip(members.files, tried.alone, strict=True))
    ]
    description = (
        f"Chosen by 'hangtag route tune {' '.join(names)} --lose-at-most {lose_at_most:g}' on "
        f"{datetime.now(UTC):%Y-%m-%d}: of {members.images} {sent_on(names, chosen)}, and "
        f"{chosen.accuracy:.2%} are right; {', '.join(alone)}."
    )
    return "\n".join(
        (
            f"cascade = {json.dumps(list(names))}",
            f'accept = {{output = "{OUTPUT}", at_least = {chosen.threshold:g}}}',
            'on_overload = "answer"',
            f"expected_sent_on = {chosen.reached[1]:.4g}",
            f'description = "{description}"',
        )
    )
