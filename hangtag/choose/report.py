"""Says what was chosen and why: as a table, in sentences, and as a page with the picture."""

from collections.abc import Sequence

from hangtag.choose import routes
from hangtag.choose.choice import Choice, Row
from hangtag.choose.losses import least_samples, may_lose
from hangtag.choose.queueing import IN_FLIGHT
from hangtag.serving.loadtest import units

_MISSED = {
    "accuracy": "it is right less often",
    "rate": "it cannot answer that many calls",
    "p99": "it takes longer",
    "valid": "its load test does not count",
}


def headers(choice: Choice) -> list[str]:
    """The table's headers."""
    return ["", "right", "µs", "calls/s", "predicted", f"p99 {_load(choice)}", "predicted", "lacks"]


def cells(choice: Choice, row: Row) -> list[str]:
    """A row of the table. Figures that were only predicted stand in the next column."""
    one, tested = row.candidate, row.tested
    return [
        one.label,
        f"{one.accuracy:.2%}",
        f"{one.cost * 1e6:,.0f}",
        units.three_digits(tested.throughput) if tested else "",
        units.three_digits(row.predicted.peak.throughput),
        units.duration(tested.p99) if tested else "",
        _p99(row.predicted.at_rate.p99),
        ", ".join(row.lacks(choice.wanted)),
    ]


def sentences(choice: Choice) -> list[str]:
    """What to serve and why; or, if nothing meets the requirements, the nearest candidate and what it misses."""
    row, wanted = choice.nearest, choice.wanted
    one = row.candidate
    asked = [f"{wanted.accuracy:.2%} right"]
    asked += [f"p99 within {units.duration(wanted.p99)} {_load(choice)}"] if wanted.p99 is not None else []
    asked += [f"{wanted.rate:g} calls/s"] if wanted.rate is not None and wanted.p99 is None else []
    lines = []
    if choice.is_met:
        lines.append(f"Serve {one.label}: the fastest that has {' and '.join(asked)}.")
    elif row.lacks(wanted) == ["valid"]:
        lines.append(f"Nothing is chosen: the load test of {one.label} does not count. Repeat it on an idle machine.")
    else:
        lacking = " and ".join(_MISSED[each] for each in row.lacks(wanted))
        lines.append(f"Nothing has {' and '.join(asked)}. The nearest is {one.label}: {lacking}.")
        if more := sum(not other.lacks(wanted) for other in choice.rows):
            lines.append(f"By prediction, {more} others meet this too; a larger --try tests them.")
    how = "measured" if row.tested else "predicted, as if a call cost nothing but computing (see --try)"
    lines.append(
        f"Of {choice.measured.shown} {one.accuracy:.2%} are right (of other pictures of the same kind, with 95 % "
        f"confidence {choice.interval.low:.2%} to {choice.interval.high:.2%}); {how}: "
        f"{units.three_digits(row.throughput)} calls/s with {IN_FLIGHT} in flight, p99 {_p99(row.p99)} {_load(choice)}."
    )
    if choice.measured.chose_epochs:
        lines.append("These images chose the models' best epochs, so other images are right less often.")
    if one.is_cascade:
        names = [model.name for model in one.models]
        samples = len(choice.measured.classes)
        lines.append(f"Of such images {routes.sent_on(names, one.point)}; {routes.lost(one, samples)}.")
        if may_lose(samples, 0) > wanted.lose_at_most:
            lines.append(
                f"So few images cannot show that a cascade loses at most {wanted.lose_at_most:.2%}: that takes "
                f"{least_samples(wanted.lose_at_most):,}."
            )
    if rival := _rival(choice):
        lines.append(
            f"Without a cascade it would be {rival.candidate.name}: {rival.candidate.accuracy:.2%} right, "
            f"{units.three_digits(rival.throughput)} calls/s, p99 {_p99(rival.p99)}."
        )
    if row.tested:
        lines += [f"The load test does not count: {problem}." for problem in row.tested.problems]
        lines += [f"The figures are doubtful: {row.tested.doubt}."] if row.tested.doubt else []
    return lines


def _rival(choice: Choice) -> Row | None:
    """If a cascade was chosen, the fastest model alone that reaches the accuracy."""
    if not choice.nearest.candidate.is_cascade:
        return None
    alone = [row for row in _alone(choice.rows) if row.candidate.accuracy >= choice.wanted.accuracy - 1e-12]
    return max(alone, key=lambda row: row.throughput, default=None)


def _alone(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if not row.candidate.is_cascade]


def _load(choice: Choice) -> str:
    return f"with {IN_FLIGHT} in flight" if choice.wanted.rate is None else f"at {choice.wanted.rate:g} calls/s"


def _p99(seconds: float) -> str:
    return "no end" if seconds == float("inf") else units.duration(seconds)
