"""A measurement as `python -m studies server run` records it."""

from typing import Any

RATES = {"native": 1.0, "grpc": 0.5, "hot": 0.6, "ordinary": 0.25, "triton": 0.7}
"""System -> its throughput, of native's."""


def closed(samples_per_s: float, p50_ms: float = 1.0) -> dict[str, float]:
    return {"samples_per_s": samples_per_s, "p50_ms": p50_ms, "p99_ms": 2.0, "cpus": 1.0, "mean_batch": 3.0}


def system(rate: float, share: float) -> dict[str, Any]:
    loads = {load: closed(rate * share) for load in ("4", "16", "64")}
    model = loads | {"1": closed(100.0, 0.2 / share), "batch": closed(1900.0)}
    overload = {"in_time_share": 0.9, "gained_mb": 60.0, "kept_mb": 1.0, "recovery_s": 0.1}
    return {
        "lstm": model,
        "cnn": model | {"poisson": {"share": 0.7}, "overload": overload},
        "start": {"pss_mb": 140.0, "seconds_to_ready": 1.5},
    }


def measurement(*rates: float, others: float = 0.01) -> dict[str, Any]:
    """A round for each rate of native's calls a second; bare ONNX Runtime does 2,000."""
    bare = {model: {"1": {"samples_per_s": 900.0, "p50_ms": 1.0}, "batch": closed(2000.0)} for model in ("lstm", "cnn")}
    return {
        "conditions": {
            "date": "2026-01-01",
            "command": "python -m studies server run",
            "processor": "some",
            "cpus": 2,
            "commit": "0123456789abcdef",
            "versions": {"grpcio": "1"},
        },
        "rounds": [
            {name: system(rate, share) for name, share in RATES.items()} | {"bare": bare, "others": others}
            for rate in rates
        ],
    }


def lines(*rates: float, others: float = 0.01) -> list[dict[str, Any]]:
    """The same measurement as lines of a results file."""
    measured = measurement(*rates, others=others)
    rounds = [{"run": f"round {number}"} | line for number, line in enumerate(measured["rounds"], start=1)]
    return [{"run": "conditions"} | measured["conditions"], *rounds]
