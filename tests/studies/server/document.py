"""A measurement as `python -m studies server run` records it."""

from typing import Any


def closed(samples_per_s: float, p50_ms: float = 1.0) -> dict[str, float]:
    return {
        "calls_per_s": samples_per_s,
        "samples_per_s": samples_per_s,
        "p50_ms": p50_ms,
        "p99_ms": 2.0,
        "cpus": 1.0,
        "mean_batch": 3.0,
    }


def measurement(*many: float) -> dict[str, Any]:
    """A round for each rate of lstm's calls a second; bare ONNX Runtime does 1,000 or 2,000."""
    way = {"samples_per_s": 2000.0, "p50_ms": 0.5}
    bare = {"all_threads": {**way, "samples_per_s": 1000.0}, "callers": way, "single": {"all_threads": way}}
    rounds = []
    for rate in many:
        model = {"many": closed(rate), "one": closed(100, 0.2), "offline": closed(1900)}
        cnn = {
            **model,
            "poisson": {"share": 0.9},
            "overload": {"in_time_share": 0.9, "memory_growth_mb": 1.0, "recovery_s": 0.1},
        }
        both = {"lstm": model, "cnn": cnn}
        rounds.append({"bare": {"lstm": bare, "cnn": bare}, "hot": both, "ordinary": both})
    start = {"pss_mb": 140.0, "seconds_to_ready": 1.5}
    return {
        "conditions": {
            "date": "2026-01-01",
            "command": "python -m studies server run",
            "processor": "some",
            "cpus": 2,
            "versions": {"grpcio": "1"},
        },
        "starts": [{"hot": start, "ordinary": start}],
        "rounds": rounds,
    }


def lines(*many: float) -> list[dict[str, Any]]:
    """The same measurement as lines of a results file."""
    measured = measurement(*many)
    numbered = [(kind, number, line) for kind in ("start", "round") for number, line in enumerate(measured[f"{kind}s"])]
    return [
        {"run": "conditions"} | measured["conditions"],
        *({"run": f"{kind} {number + 1}"} | line for kind, number, line in numbered),
    ]
