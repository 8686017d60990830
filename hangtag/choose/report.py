"""Reports a choice and its reasons as a table and in sentences."""

from hangtag.choose import routes
from hangtag.choose.choice import Choice, Row, best_single
from hangtag.choose.loss_bound import least_samples, may_lose
from hangtag.choose.queueing import IN_FLIGHT
from hangtag.serving.loadtest import units
from hangtag.serving.loadtest.statistics.intervals import wilson

HEADERS = ("", "right", "µs", "calls/s", "predicted", "p99", "predicted", "lacks")
"""The headers of the table."""
_MISSED = {
    "accuracy": "its accuracy is lower",
    "rate": "it cannot answer that many calls",
    "p99": "its p99 is longer",
    "valid": "its load test is invalid",
}


def cells(choice: Choice, row: Row) -> list[str]:
    """Return the cells of a row of the table. Each measured figure is followed by the predicted figure."""
    one, tested = row.candidate, row.tested
    return [
        one.label,
        f"{one.accuracy:.2%}",
        f"{one.cost * 1e6:,.0f}",
        units.three_digits(tested.throughput) if tested else "",
        units.three_digits(row.predicted.throughput),
        units.duration(tested.p99) if tested else "",
        _p99(row.predicted.p99),
        ", ".join(row.lacks(choice.wanted)),
    ]


def sentences(choice: Choice) -> list[str]:
    """Say which candidate to serve and why, or which candidate is nearest and which requirements it misses."""
    row, wanted = choice.nearest, choice.wanted
    one = row.candidate
    asked = [f"{wanted.accuracy:.2%} right"]
    asked += [f"p99 within {units.duration(wanted.p99)} {_load(choice)}"] if wanted.p99 is not None else []
    asked += [f"{wanted.rate:g} calls/s"] if wanted.rate is not None and wanted.p99 is None else []
    lines = []
    if choice.is_met:
        lines.append(f"Serve {one.label}, which is the fastest candidate with {' and '.join(asked)}.")
    elif row.lacks(wanted) == ["valid"]:
        lines.append(
            f"Nothing is chosen, because the load test of {one.label} is invalid. Repeat it on an idle machine."
        )
    else:
        lacking = " and ".join(_MISSED[each] for each in row.lacks(wanted))
        lines.append(f"No candidate has {' and '.join(asked)}. The nearest is {one.label}, but {lacking}.")
        if more := sum(not other.lacks(wanted) for other in choice.rows):
            lines.append(
                f"{more} other candidates are predicted to meet the requirements. Load-test them with a larger --try."
            )
    samples = len(choice.measured.images)
    interval = wilson(round(one.accuracy * samples), samples)
    how = "Measured" if row.tested else "Predicted without the overhead of a call (see --try)"
    lines += [
        f"Of {choice.measured.shown}, {one.accuracy:.2%} are classified correctly. On new pictures of the same kind, "
        f"the accuracy is {interval.low:.2%} to {interval.high:.2%} with 95 % confidence.",
        f"{how}: {units.three_digits(row.figures.throughput)} calls/s with {IN_FLIGHT} in flight, "
        f"p99 {_p99(row.figures.p99)} {_load(choice)}.",
    ]
    if choice.measured.chose_epochs:
        lines.append("The models' best epochs were chosen by these images, so the accuracy for other images is lower.")
    if one.is_cascade:
        lines.append(f"Of these images, {routes.sent_on(one)}; {routes.lost(one, samples)}.")
        if may_lose(samples, 0) > wanted.lose_at_most:
            lines.append(
                f"{samples:,} images are too few to show that a cascade loses at most {wanted.lose_at_most:.2%}. At "
                f"least {least_samples(wanted.lose_at_most):,} images are needed."
            )
    if one.is_cascade and (rival := best_single(choice.rows, wanted)):
        lines.append(
            f"The best single model would be {rival.candidate.name}, with {rival.candidate.accuracy:.2%} right, "
            f"{units.three_digits(rival.figures.throughput)} calls/s and p99 {_p99(rival.figures.p99)}."
        )
    if row.tested:
        lines += [f"The load test is invalid: {problem}." for problem in row.tested.problems]
        lines += [f"The figures are doubtful: {row.tested.doubt}."] if row.tested.doubt else []
    return lines


def _load(choice: Choice) -> str:
    return f"with {IN_FLIGHT} in flight" if choice.wanted.rate is None else f"at {choice.wanted.rate:g} calls/s"


def _p99(seconds: float) -> str:
    return "no end" if seconds == float("inf") else units.duration(seconds)
