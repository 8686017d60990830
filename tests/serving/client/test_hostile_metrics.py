"""``hangtag top`` and metrics that may hold anything: it shows what it can, or says in one line why it cannot."""

import contextlib

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from hangtag.cli import main
from hangtag.protos import inference_pb2 as pb
from hangtag.serving.client.top.activity import MetricsError, Snapshot, activities, fetch_metrics
from hangtag.serving.client.top.routes import shares
from tests.kit.web_server import web_server

STATISTICS = b'{"model_stats": [{"name": "m", "version": "1"}]}'


@pytest.mark.parametrize(
    "metrics",
    [
        b'hangtag_request_seconds_bucket{le="1"} 3\n',
        b'hangtag_request_seconds_bucket{code="OK"} 3\n',
        b'hangtag_request_seconds_bucket{code="OK",le="much"} 3\n',
        b"hangtag_transport 1\n",
        b'hangtag_route_requests_total{stage="first",member="a"} 1\n',
        b'hangtag_route_requests_total{stage="' + b"9" * 5000 + b'",member="a"} 1\n',
        b"hangtag_route_shadow_requests_total 1\n",
        b"\xff\xfe\n",
        b"m{" * 10_000,
        b"[" * 100_000,
        b"\x1f\x8b\x08\x00",
        b"<html>",
        b'# TYPE a b c\na{b="} 1\n',
    ],
    ids=lambda metrics: repr(metrics[:50]),
)
def test_what_is_not_prometheus_format_is_one_line(metrics: bytes) -> None:
    with web_server(lambda path: (200, {}, STATISTICS if "stats" in path else metrics)) as address:
        url = f"http://{address}/metrics"
        result = CliRunner().invoke(
            main, ["top", "--once", "--interval", "0.1", "--server", f"http://{address}", "--metrics", url]
        )
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1), result.output
    assert result.stderr.startswith(f"Error: no metrics at {url}: ")


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf", "1e308"])
def test_values_that_no_table_can_show_are_left_out(value: str) -> None:
    lines = [
        f'nv_inference_pending_request_count{{model="m",version="1"}} {value}',
        f'hangtag_max_queue_size{{model="m",version="1"}} {value}',
        f'hangtag_request_seconds_bucket{{model="m",version="1",code="OK",le="{value}"}} {value}',
        f"hangtag_workers {value}",
        f'hangtag_transport{{transport="grpc"}} {value}',
        f'hangtag_route_samples_total{{model="m",version="1",stage="1",member="a"}} {value}',
    ]
    metrics = "\n".join([*lines, ""]).encode()
    with web_server(lambda path: (200, {}, STATISTICS if "stats" in path else metrics)) as address:
        arguments = ["top", "--once", "--interval", "0.1", "--server", f"http://{address}"]
        for more in ([], ["--json"]):
            result = CliRunner().invoke(main, [*arguments, *more, "--metrics", f"http://{address}/metrics"])
            assert result.exit_code == 0, result.output
            assert "NaN" not in result.stdout
            assert "Infinity" not in result.stdout


names = st.sampled_from(
    [
        *("nv_inference_pending_request_count", "hangtag_max_queue_size", "hangtag_request_seconds_bucket"),
        *("hangtag_transport", "hangtag_route_requests_total", "hangtag_route_samples_total", "hangtag_workers"),
        *("hangtag_route_shadow_requests_total", "hangtag_route_shadow_samples_total", "other"),
    ]
)
labels = st.dictionaries(
    st.sampled_from(["model", "version", "code", "le", "stage", "member", "transport", "outcome"]),
    st.sampled_from(["m", "1", "OK", "0.5", "+Inf", "NaN", "compared", "", '"']),
)
values = st.sampled_from(["0", "1", "-5", "1e400", "NaN", "+Inf", "x", ""]) | st.floats().map(str)


def line(name: str, labelled: dict[str, str], value: str) -> str:
    inside = ",".join(f'{key}="{text}"' for key, text in labelled.items())
    return f"{name}{{{inside}}} {value}" if inside else f"{name} {value}"


texts = st.lists(st.builds(line, names, labels, values), max_size=6).map(lambda lines: "\n".join([*lines, ""]).encode())


def test_any_metrics_are_shown_or_refused() -> None:
    served = [b""]
    with web_server(lambda _: (200, {}, served[0])) as address:

        @settings(max_examples=150, deadline=None)
        @given(before=texts | st.binary(max_size=60), after=texts)
        def show(before: bytes, after: bytes) -> None:
            snapshots = []
            with contextlib.suppress(MetricsError):
                for time, served[0] in enumerate((before, after)):
                    fetched = fetch_metrics(f"http://{address}/metrics")
                    statistics = [pb.ModelStatistics(name="m", version="1")]
                    snapshots.append(Snapshot.from_statistics(time, statistics, fetched))
            if len(snapshots) == 2:
                activities(*snapshots)
                shares(*snapshots)

        show()
