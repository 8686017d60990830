"""What a server's routes did between two snapshots: the calls to their members, and which member answered how much.

A server counts a request to a route for the route and again for each member, so a sum over all models counts it twice.
"""

from collections.abc import Mapping

from hangtag.serving.client.top.activity import Activity, Metrics, Snapshot


def callers(rows: list[Activity], before: Snapshot, after: Snapshot) -> tuple[float, float]:
    """Compute the calls and samples a second that callers sent; without metrics, those that routes sent, too."""
    calls, samples = sum(row.calls for row in rows), sum(row.samples for row in rows)
    if before.metrics is None or after.metrics is None:
        return calls, samples
    seconds = after.time - before.time
    requests, inside = (now - then for now, then in zip(_inside(after.metrics), _inside(before.metrics), strict=True))
    # A route counts a member's answer a moment before the member does, so a difference may be below zero.
    return max(0.0, calls - requests / seconds), max(0.0, samples - inside / seconds)


def shares(before: Snapshot, after: Snapshot) -> dict[str, dict[str, float]]:
    """Compute for each route that answered in the interval which share of its samples each member got, 0 to 1."""
    if before.metrics is None or after.metrics is None:
        return {}
    then, now = before.metrics.stage_samples, after.metrics.stage_samples
    got = {stage: count - then.get(stage, 0) for stage, count in sorted(now.items())}
    totals: dict[str, float] = {}
    for (route, stage, _), count in got.items():
        totals[route] = totals.get(route, 0) + (count if stage == 1 else 0)
    return {
        route: {member: count / total for (name, _, member), count in got.items() if name == route}
        for route, total in totals.items()
        if total > 0
    }


def _inside(metrics: Metrics) -> tuple[float, float]:
    """Requests and samples that routes sent to their members and shadows."""
    return _sum(metrics.stage_requests) + metrics.copies, _sum(metrics.stage_samples) + metrics.copied_samples


def _sum(counts: Mapping[tuple[str, int, str], float]) -> float:
    return sum(counts.values())
