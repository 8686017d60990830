import pytest

from serving.loadtest.scenario import ClosedLoop, Limits, OpenLoop, Scenario


def test_without_concurrency_and_rate_the_open_loop_is_derived_from_the_slowest_peak() -> None:
    scenario = Scenario(("lstm", "cnn"))
    assert scenario.closed_loops == (ClosedLoop(1), ClosedLoop(8), ClosedLoop(64))
    assert scenario.open_loops(2764.0) == (OpenLoop(1300.0),)
    assert scenario.open_loops(0.0) == ()


def test_what_is_asked_for_is_all_that_runs() -> None:
    closed = Scenario(("cnn",), concurrency=(2, 4))
    assert closed.closed_loops == (ClosedLoop(2), ClosedLoop(4))
    assert closed.open_loops(1000.0) == ()
    opened = Scenario(("cnn",), rate=(100.0,), arrivals="constant")
    assert opened.closed_loops == ()
    assert opened.open_loops(1000.0) == (OpenLoop(100.0, "constant"),)


@pytest.mark.parametrize(
    "wrong",
    [
        {"models": ()},
        {"models": ("cnn", "cnn")},
        {"concurrency": (0,)},
        {"concurrency": (8, 8)},
        {"rate": (-1.0,)},
        {"rate": (float("nan"),)},
        {"rate": (float("inf"),)},
        {"min_duration": 0.0},
        {"min_duration": 61.0},
        {"min_query_count": 0},
        {"max_query_count": 10},
        {"blocks": 0},
        {"batch_size": 0},
        {"channels": 0},
        {"deadline": 0.0},
        {"warm_up": -1.0},
        {"seed": -1},
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Scenario(**({"models": ("cnn",)} | wrong))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("server", "loopback"),
    [
        ("127.0.0.1:8001", True),
        ("127.9.9.9:1", True),
        ("localhost:8001", True),
        ("[::1]:8001", True),
        ("unix:/tmp/socket", True),
        ("10.0.0.1:8001", False),
        ("[2001:db8::1]:8001", False),
        ("localhost.example.org:8001", False),
        ("example.org:8001", False),
        ("", False),
    ],
)
def test_only_an_address_that_cannot_be_another_machine_is_loopback(server: str, loopback: bool) -> None:
    assert Scenario(("cnn",), server=server).is_loopback is loopback


def test_the_shares_of_blocks_fulfil_the_limits_together() -> None:
    share = Limits(min_duration=3.0, min_query_count=500, max_duration=60.0, max_query_count=1000).share(7)
    assert share.min_duration * 7 == pytest.approx(3.0)
    assert share.min_query_count * 7 >= 500
    assert share.max_query_count * 7 >= 1000


def test_a_run_ends_when_both_minima_are_reached_or_one_maximum() -> None:
    limits = Limits(min_duration=1.0, min_query_count=10, max_duration=5.0, max_query_count=100)
    assert not limits.reached(2.0, 9)
    assert not limits.reached(0.9, 50)
    assert limits.reached(1.0, 10)
    assert not limits.exceeded(4.9, 99)
    assert limits.exceeded(5.0, 0)
    assert limits.exceeded(0.0, 100)


def test_a_rate_that_no_generator_can_send_is_refused_before_it_is_planned() -> None:
    with pytest.raises(ValueError, match="a request rate is at most 1,000,000 calls/s, not 1e\\+09"):
        OpenLoop(1e9)
