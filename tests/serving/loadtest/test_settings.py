"""The settings and targets that `hangtag loadtest` accepts, and the settings of MLPerf LoadGen's scenarios."""

import re

import pytest

from tests.kit.command import invoke, refusal
from tests.kit.fake_server import FakeServer
from tests.serving.loadtest.command import QUICK, Loadtest, one_line, refused

COUNTS = ("min-query-count", "blocks", "batch-size", "channels", "processes")
SECONDS = ("min-duration", "deadline", "target-latency")


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        ("", "MODEL --target"),
        ("cnn cnn", "targets cnn"),
        ("cnn --concurrency 0", "--concurrency 1 0"),
        *((f"cnn --{option} 0", f"--{option} 0") for option in (*COUNTS, *SECONDS, "rate")),
        *((f"cnn --{option} -1", f"--{option} -1") for option in ("rate", "warm-up", "seed")),
        *((f"cnn {text}", text) for text in ("--rate nan", "--rate inf", "--percentile 100", "--min-duration soon")),
        ("cnn --concurrency 8,8", "--concurrency 8"),
        ("cnn --concurrency 1,x", "--concurrency 1,x"),
        ("cnn --rate 1e9", "--rate 1,000,000 1e+09"),
        ("cnn --min-duration 61", "--max-duration 60s --min-duration 61s"),
        ("cnn --max-query-count 10", "--max-query-count 10 --min-query-count 500"),
        ("cnn --target-latency 1s --percentile 99.9 --max-query-count 4602", "4603 p99.9 --max-query-count 4602"),
        ("cnn --find-peak", "--find-peak --target-latency"),
        ("cnn --find-peak --target-latency 10ms --concurrency 1", "--find-peak --concurrency"),
        ("cnn --find-peak --target-latency 10ms --rate 1,2", "--find-peak --rate"),
        # 4,603 queries at 50 calls/s take longer than the maximum of 60 s.
        (
            "cnn --find-peak --target-latency 10ms --percentile 99.9 --rate 50",
            "p99.9 50 4,603 --max-duration --rate 82",
        ),
        ("cnn --scenario server", "--scenario --rate --find-peak --target-latency"),
        ("cnn --samples /nonexistent", "/nonexistent"),
        ("cnn --samples idx:kmnist", "--samples kmnist"),
        *((text, f"{text} MODEL@VERSION") for text in ("@2", "cnn@", "@", "cnn@1@2")),
        *(
            (f"cnn --server {address}", f"{address} HOST:PORT 127.0.0.1:8001")
            for address in ("127.0.0.1", "localhost:", "8001", ":8001", "a:0", "a:65536", "::1:8001", "[::1]")
        ),
        ("cnn --server grpc://127.0.0.1:8002", "grpc://127.0.0.1:8002"),
        *(
            (f"--target {text}", f"{text} NAME=HOST:PORT/MODEL[@VERSION] old=")
            for text in ("cnn", "a=b", "a=host/cnn", "a=host:80", "=host:80/cnn", "a=host:80/", "a=b:1/c/d")
        ),
        ("--target a=http://a:0/cnn", "URL"),
        *((f"--target {text}", f"{text} NAME=") for text in ("a=http:///cnn", "a=http://a/b?c=1/cnn")),
        ("--target a=localhost:1/cnn@", "cnn@ MODEL@VERSION"),
    ],
)
def test_a_wrong_command_exits_with_2_and_names_the_option_and_the_value(arguments: str, facts: str) -> None:
    message = refused(facts, *arguments.split(), exit_code=2)
    assert "_" not in re.sub(r"'[^']*'", "", message)  # the message has the names of options, not of Python parameters


@pytest.mark.parametrize(
    ("address", "remote"),
    [
        *((f"{host}:8001", False) for host in ("127.0.0.1", "127.9.9.9", "localhost", "[::1]")),
        *(
            (text, False)
            for text in ("unix:/tmp/socket", "http://127.0.0.1:8000", "https://[::1]", "http://localhost/a")
        ),
        *((f"{host}:8001", True) for host in ("10.0.0.1", "[2001:db8::1]", "localhost.example.org", "example.org")),
        *((text, True) for text in ("http://10.0.0.1:8000", "https://example.org")),
    ],
)
def test_a_server_that_may_be_on_another_machine_is_loaded_only_with_yes_load_remote(
    address: str, remote: bool
) -> None:
    command = ("cnn", "--server", address, "--fail-if", "nonsense")  # the address is checked before the condition
    assert ("--yes-load-remote" in refusal("loadtest", *command, exit_code=2)) is remote
    assert "nonsense" in refusal("loadtest", *command, "--yes-load-remote", exit_code=2)
    assert "--yes-load-remote" in refusal("loadtest", "--target", "a=192.0.2.1:8001/cnn", exit_code=2)


def test_help_shows_defaults_with_their_units_examples_and_exit_codes() -> None:
    text = one_line(invoke("loadtest", "--help").stdout)
    assert re.search(r"--min-duration [^[]*\[default: 3s; x>=0\]", text)
    assert re.search(r"--blocks [^[]*\[default: 5; x>=1\]", text)
    for word in ("closed loop", "open loop", "Examples:", "Exit code:", "hangtag loadtest lstm cnn --html"):
        assert word in text


@pytest.mark.parametrize(
    ("scenario", "more", "expected"),
    [
        ("single-stream", (), {"concurrency": [1], "batch_size": 1, "percentile": 90.0, "rate": []}),
        ("multi-stream", (), {"concurrency": [1], "batch_size": 8, "percentile": 99.0, "rate": []}),
        ("multi-stream", ("--batch-size", 2, "--percentile", 95), {"batch_size": 2, "percentile": 95.0}),
        ("server", ("--rate", 800), {"arrivals": "poisson", "percentile": 99.0, "rate": [800.0], "concurrency": []}),
        ("offline", (), {"concurrency": [8], "batch_size": 32, "rate": []}),
    ],
)
def test_a_scenario_sets_what_the_command_does_not(
    server: FakeServer, loadtest: Loadtest, scenario: str, more: tuple[object, ...], expected: dict[str, object]
) -> None:
    measured = loadtest("fast", *QUICK, "--scenario", scenario, *more)
    settings = measured.document["scenario"]
    assert {name: settings[name] for name in expected} == expected
    assert list(server.requests[-1].inputs[0].shape) == [settings["batch_size"], 28, 28]
    (run,) = measured.runs
    assert run["samples_per_second"] == pytest.approx(run["total"]["throughput"] * settings["batch_size"])
    # A run that is judged by a percentile sends enough queries to determine it, even if --min-query-count is lower.
    needed = {90.0: 44, 95.0: 90, 99.0: 459}[settings["percentile"]]
    assert run["judged"] is (scenario != "offline")
    assert (run["total"]["queries"] >= needed) is run["judged"]
    assert ("(99 % confidence)" in measured.text) is (run["judged"] and run["valid"])
