"""The rates, means and percentiles that ``hangtag top`` computes from two readings of a server's metrics."""

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest

from tests.kit.command import invoke, refusal
from tests.kit.other_servers import web_server

Series = tuple[str, Mapping[str, str], float]
"""The name, labels and value of a metric's sample."""
ONCE = ("top", "--once", "--interval", "0.1", "--server")


def top(address: str, *arguments: str, columns: int = 150) -> str:
    """Run ``hangtag top --once`` for a server, and return its output."""
    result = invoke(*ONCE, address, *arguments, columns=columns)
    assert result.stderr == ""
    return result.stdout


def counted(calls: int, samples: int, batches: int, failed: int = 0, *, name: str = "m") -> dict[str, Any]:
    """The statistics of a model. Each call waited 2 ms in the queue, and its computation took 1 + 5 + 1 ms."""
    parts = {"queue": 2, "compute_input": 1, "compute_infer": 5, "compute_output": 1}
    times = {part: {"count": calls, "ns": calls * ms * 1_000_000} for part, ms in parts.items()}
    outcomes = {"success": {"count": calls}, "fail": {"count": failed}}
    counts = {"inference_count": samples, "execution_count": batches}
    return {"name": name, "version": "1", **counts, "inference_stats": {**outcomes, **times}}


def metrics_text(*series: Series) -> bytes:
    """Metrics of model m in Prometheus' text format."""
    lines = []
    for name, labels, value in series:
        inside = ",".join(f'{key}="{text}"' for key, text in {"model": "m", "version": "1", **labels}.items())
        lines.append(f"{name}{{{inside}}} {value}\n")
    return "".join(lines).encode()


def latencies(buckets: Mapping[str, int]) -> list[Series]:
    return [("hangtag_request_seconds_bucket", {"code": "OK", "le": le}, count) for le, count in buckets.items()]


Rows = list[dict[str, Any]]


def between(
    before: Rows, after: Rows, *arguments: str, metrics: tuple[bytes, bytes] | None = None, columns: int = 150
) -> str:
    """Run ``hangtag top`` for a server that reports ``before`` at the first reading and ``after`` at the second."""
    statistics = iter([json.dumps({"model_stats": each}).encode() for each in (before, after)])
    texts = iter(metrics or ())
    with web_server(lambda path: (200, {}, next(statistics if "stats" in path else texts))) as address:
        options = ["--metrics", f"http://{address}/metrics"] if metrics else []
        return top(f"http://{address}", *arguments, *options, columns=columns)


def activity(before: Rows, after: Rows, **more: Any) -> dict[str, Any]:
    """The JSON that ``hangtag top`` prints about model m, with the rates converted to counts for the interval."""
    document = json.loads(between(before, after, "--json", **more))
    row: dict[str, Any]
    (row,) = document["models"]
    return row | {name: row[name] * document["seconds"] for name in ("calls", "samples", "failures")}


def test_rates_and_means_cover_the_interval() -> None:
    row = activity([counted(1000, 5000, 10)], [counted(1100, 5400, 60, failed=4)])
    assert [row[name] for name in ("calls", "samples", "failures")] == pytest.approx([100, 400, 4])
    assert (row["batch_size"], row["queue_ms"], row["compute_ms"]) == (8, 2, 7)
    assert not {"p50_ms", "p99_ms", "queued"} & row.keys()
    for new in ([], [counted(9999, 9999, 9999)]):  # the model is new, or it was loaded again
        assert activity(new, [counted(10, 10, 10)])["calls"] == pytest.approx(10)
    idle = activity([counted(10, 10, 10)], [counted(10, 10, 10)])
    assert idle["calls"] == 0
    assert not {"batch_size", "queue_ms", "compute_ms"} & idle.keys()


@pytest.mark.parametrize(
    ("before", "after", "p50", "p99"),
    [
        ({"0.001": 100, "0.002": 100, "+Inf": 100}, {"0.001": 100, "0.002": 199, "+Inf": 200}, 1 + 50 / 99, 2),
        ({}, {}, None, None),
        ({}, {"1": 0, "+Inf": 0}, None, None),
        ({}, {"1": 10, "2": 10, "+Inf": 10}, 500, 990),
        ({}, {"1": 0, "2": 10, "+Inf": 10}, 1500, 1990),
        ({}, {"1": 5, "2": 5, "+Inf": 10}, 1000, 2000),  # half of the latencies exceed the largest finite bound
    ],
)
def test_percentiles_are_linear_within_their_bucket(
    before: dict[str, int], after: dict[str, int], p50: float | None, p99: float | None
) -> None:
    queue: list[Series] = [("nv_inference_pending_request_count", {}, 3.0), ("hangtag_max_queue_size", {}, 8.0)]
    texts = metrics_text(*latencies(before)), metrics_text(*queue, *latencies(after))
    row = activity([counted(1, 1, 1)], [counted(2, 2, 2)], metrics=texts)
    assert (row.get("p50_ms"), row.get("p99_ms")) == (pytest.approx(p50), pytest.approx(p99))
    assert (row["queued"], row["max_queue_size"]) == (3, 8)


@pytest.mark.parametrize(
    ("requests", "copies", "callers"),
    [(100, 100, "both"), (1000, 1000, "nobody"), (None, None, "all")],
)
def test_what_a_route_sends_to_its_members_and_shadow_is_no_caller(
    requests: int | None, copies: int | None, callers: str
) -> None:
    rows = [counted(100, 400, 100, name=name) for name in ("both", "one", "shadow")]
    metrics = None
    if requests is not None and copies is not None:
        stage = {"model": "both", "stage": "1", "member": "one"}
        series = [
            ("hangtag_route_requests_total", stage, requests),
            ("hangtag_route_samples_total", stage, 4 * requests),
            ("hangtag_route_shadow_requests_total", {"outcome": "compared"}, copies),
            ("hangtag_route_shadow_requests_total", {"outcome": "skipped"}, 7),
            ("hangtag_route_shadow_samples_total", {}, 4 * copies),
        ]
        metrics = (b"", metrics_text(*series))
    shown = between([], rows, metrics=metrics)
    total, samples, *own = (
        float(re.findall(pattern, shown, re.MULTILINE)[0].replace(",", ""))
        for pattern in (
            r" ([\d,]+) calls/s",
            r" ([\d,]+) samples/s",
            *(rf"^{name} +1 +([\d,]+) " for name in ("both", "one", "shadow")),
        )
    )
    expected = {"both": own[0], "nobody": 0, "all": sum(own)}[callers]
    assert [total, samples] == pytest.approx([expected, 4 * expected], abs=8)
    assert ("both: one 100.0% of its samples" in shown) is (metrics is not None)


@pytest.mark.parametrize("metrics", [False, True])
@pytest.mark.parametrize("model", ["m", "a-model-with-a-rather-long-name-that-does-not-fit"])
@pytest.mark.parametrize("width", [60, 120])
def test_the_table_fits_the_width(width: int, metrics: bool, model: str) -> None:
    """No name or number is cut off. The least important columns are left out first."""
    queue = [
        ("nv_inference_pending_request_count", {"model": model}, 200),
        ("hangtag_max_queue_size", {"model": model}, 256),
    ]
    texts = (b"", metrics_text(*queue) + b'hangtag_workers 2\nhangtag_transport{transport="native"} 2\n')
    row = counted(12_345, 98_765, 1_000, failed=1, name=model)
    lines = between([], [row], metrics=texts if metrics else None, columns=width).splitlines()
    assert all(len(line) <= width for line in lines)
    (heads,) = [line for line in lines if line.startswith("model")]
    first, *more = lines[lines.index(heads) + 1 :]
    assert "".join([first.split()[0], *(line.strip() for line in more if line.strip() in model)]) == model
    assert "…" not in first
    assert {"calls/s", "failed/s"} <= set(heads.split())
    if width == 120:
        assert "samples/s" in heads
    if width == 60 and metrics:
        assert "p99 ms" in heads
        assert "queued" not in heads


def test_a_models_name_does_nothing_to_the_terminal() -> None:
    lines = between([], [counted(1, 1, 1, name="\x1b[2Jm\nready")]).splitlines()
    assert all(line.isprintable() for line in lines)
    assert [line for line in lines if line.startswith("\\x1b[2Jm\\nready ")]


@pytest.mark.parametrize(
    "metrics",
    [
        *(b"hangtag_request_seconds_bucket{%s} 3\n" % labels for labels in (b'le="1"', b'code="OK"')),
        b'hangtag_request_seconds_bucket{code="OK",le="much"} 3\n',
        *(b'hangtag_route_requests_total{stage="%s",member="a"} 1\n' % stage for stage in (b"first", b"9" * 5000)),
        b"hangtag_transport 1\n",
        b"hangtag_route_shadow_requests_total 1\n",
        b"\xff\xfe\n",
        b"m{" * 10_000,
        b"<html>",
        b'# TYPE a b c\na{b="} 1\n',
    ],
    ids=lambda metrics: repr(metrics[:50]),
)
def test_what_is_not_prometheus_format_is_one_line(metrics: bytes) -> None:
    statistics = json.dumps({"model_stats": [counted(1, 1, 1)]}).encode()
    with web_server(lambda path: (200, {}, statistics if "stats" in path else metrics)) as address:
        url = f"http://{address}/metrics"
        assert f"no metrics at {url}: " in refusal(*ONCE, f"http://{address}", "--metrics", url, alone=True)


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf", "1e308"])
def test_values_that_no_table_can_show_are_left_out(value: str) -> None:
    series = {
        **{name: {} for name in ("nv_inference_pending_request_count", "hangtag_max_queue_size", "hangtag_workers")},
        "hangtag_request_seconds_bucket": {"code": "OK", "le": value},
        "hangtag_transport": {"transport": "grpc"},
        "hangtag_route_samples_total": {"stage": "1", "member": "a"},
    }
    text = metrics_text(*((name, labels, float(value)) for name, labels in series.items()))
    for options in ([], ["--json"]):
        shown = between([], [counted(1, 1, 1)], *options, metrics=(text, text))
        assert not re.search("nan|inf", shown, re.IGNORECASE)
