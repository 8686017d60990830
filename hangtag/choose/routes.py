"""Writes the route.toml of a cascade, and describes the cascade's expected results in words."""

import json
from datetime import UTC, datetime

from hangtag.choose.candidates import Candidate
from hangtag.choose.loss_bound import CONFIDENCE, may_lose
from hangtag.choose.measuring import OUTPUT, Measured


def sent_on(cascade: Candidate) -> str:
    """Say what share of the samples each model after the first receives.

    Example:
        '16.8% go on to lstm2 and 13.4% to cnn'
    """
    _, *shares = zip(cascade.point.reached, cascade.models, strict=True)
    return " and ".join(f"{share:.1%} to {model.name}" for share, model in shares).replace(" to", " go on to", 1)


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
    alone = [
        f"{model.file.name}@{model.file.version}{'' if place else ' alone has'} {model.accuracy:.2%}"
        for place, model in enumerate(cascade.models)
    ]
    return (
        f"Chosen by '{command}' on {datetime.now(UTC):%Y-%m-%d}: of {measured.shown}, {sent_on(cascade)}, "
        f"and {cascade.accuracy:.2%} are right; {', '.join(alone)}; {lost(cascade, len(measured.images))}."
    )
