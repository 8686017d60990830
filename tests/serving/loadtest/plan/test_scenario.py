import pytest

from hangtag.serving.loadtest.plan.limits import Limits
from hangtag.serving.loadtest.plan.load import ClosedLoop, OpenLoop
from hangtag.serving.loadtest.plan.scenario import PRESETS, Scenario, ScenarioName
from hangtag.serving.loadtest.plan.schedule import planned_send_times, random_generator
from tests.serving.loadtest.builders import targets


def test_without_concurrency_and_rate_the_open_loop_is_derived_from_the_slowest_peak() -> None:
    scenario = Scenario(targets("lstm", "cnn"))
    assert scenario.closed_loops == (ClosedLoop(1), ClosedLoop(8), ClosedLoop(64))
    assert scenario.open_loops(2764.0) == (OpenLoop(1300.0),)
    assert scenario.open_loops(0.0) == ()


def test_only_the_loads_in_the_settings_run() -> None:
    closed = Scenario(targets("cnn"), concurrency=(2, 4))
    assert closed.closed_loops == (ClosedLoop(2), ClosedLoop(4))
    assert closed.open_loops(1000.0) == ()
    opened = Scenario(targets("cnn"), rate=(100.0,), arrivals="constant")
    assert opened.closed_loops == ()
    assert opened.open_loops(1000.0) == (OpenLoop(100.0, "constant"),)


@pytest.mark.parametrize(
    ("wrong", "option"),
    [
        ({"targets": ()}, "--target"),
        ({"targets": targets("cnn", "cnn")}, "the targets"),
        ({"concurrency": (0,)}, "--concurrency"),
        ({"concurrency": (8, 8)}, "--concurrency"),
        ({"rate": (-1.0,)}, "--rate"),
        ({"rate": (float("nan"),)}, "--rate"),
        ({"rate": (float("inf"),)}, "--rate"),
        ({"min_duration": 0.0}, "--min-duration"),
        ({"min_duration": 61.0}, "--max-duration 60s is below --min-duration 61s"),
        ({"min_query_count": 0}, "--min-query-count"),
        ({"max_query_count": 10}, "--max-query-count 10 is below --min-query-count 500"),
        ({"blocks": 0}, "--blocks"),
        ({"batch_size": 0}, "--batch-size"),
        ({"channels": 0}, "--channels"),
        ({"deadline": 0.0}, "--deadline"),
        ({"warm_up": -1.0}, "--warm-up"),
        ({"seed": -1}, "--seed"),
        ({"processes": 0}, "--processes"),
        ({"percentile": 100.0}, "--percentile"),
        ({"target_latency": 0.0}, "--target-latency"),
        ({"find_peak": True}, "--find-peak searches for the highest rate that keeps --target-latency"),
        ({"find_peak": True, "target_latency": 0.1, "concurrency": (1,)}, "--concurrency"),
        ({"find_peak": True, "target_latency": 0.1, "rate": (1.0, 2.0)}, "--rate"),
        ({"scenario": "server"}, "--scenario"),
    ],
)
def test_settings_out_of_range_or_in_conflict_are_refused_by_the_option(wrong: dict[str, object], option: str) -> None:
    with pytest.raises(ValueError, match=option) as caught:
        Scenario(**({"targets": targets("cnn")} | wrong))  # type: ignore[arg-type]
    assert "_" not in str(caught.value)


def test_the_shares_of_blocks_fulfil_the_limits_together() -> None:
    share = Limits(min_duration=3.0, min_query_count=500, max_duration=60.0, max_query_count=1000).per_block(7)
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
    with pytest.raises(ValueError, match="--rate must be at most 1,000,000 calls/s, not 1e\\+09"):
        OpenLoop(1e9)


@pytest.mark.parametrize("name", list(PRESETS))
def test_every_preset_is_a_scenario(name: ScenarioName) -> None:
    more = {"rate": (100.0,)} if name == "server" else {}
    scenario = Scenario(targets("cnn"), scenario=name, **(dict(PRESETS[name]) | more))
    assert not scenario.derives_rate
    assert scenario.arrivals == "poisson"


def test_a_run_that_is_judged_takes_the_queries_that_its_percentile_needs() -> None:
    few = {"min_query_count": 20, "percentile": 99.9}
    cnn = targets("cnn")
    assert Scenario(cnn, concurrency=(1,), **few).limits.min_query_count == 20  # type: ignore[arg-type]
    for judged in ({"target_latency": 0.01}, {"scenario": "single-stream"}):
        scenario = Scenario(cnn, concurrency=(1,), **(few | judged))
        assert (scenario.judged, scenario.limits.min_query_count) == (True, 4603)
    assert not Scenario(cnn, scenario="offline", **few).judged  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"4603 queries to judge a p99\.9, and --max-query-count 4602 is below"):
        Scenario(cnn, target_latency=0.01, max_query_count=4602, **few)  # type: ignore[arg-type]


def test_a_search_does_not_start_at_a_rate_too_low_to_tell() -> None:
    search = {"find_peak": True, "target_latency": 0.01, "percentile": 99.9}
    lowest = Scenario(targets("cnn"), **search).lowest_rate  # type: ignore[arg-type]
    assert lowest == pytest.approx(4603 / 60, rel=0.07)
    with pytest.raises(ValueError, match=r"p99\.9 at 50 calls/s, .* or begin at --rate 82"):
        Scenario(targets("cnn"), rate=(50.0,), **search)  # type: ignore[arg-type]
    assert Scenario(targets("cnn"), rate=(50.0,), max_duration=120.0, **search).lowest_rate < 50  # type: ignore[arg-type]


def test_the_lowest_rate_of_a_search_is_enough_for_poisson_arrivals() -> None:
    scenario = Scenario(targets("cnn"), find_peak=True, target_latency=0.01, max_duration=10.0)
    for seed in range(200):
        times = planned_send_times(
            OpenLoop(scenario.lowest_rate), scenario.limits, 0.0, random_generator(seed, "schedule")
        )
        assert len(times) >= scenario.query_count


def test_a_search_starts_at_the_given_rate_or_where_a_closed_loop_saturates() -> None:
    derived = Scenario(targets("cnn"), find_peak=True, target_latency=0.01)
    assert derived.closed_loops == (ClosedLoop(64),)
    assert derived.open_loops(1000.0) == ()
    fixed = Scenario(targets("cnn"), find_peak=True, target_latency=0.01, rate=(300.0,))
    assert (fixed.closed_loops, fixed.open_loops(1000.0)) == ((), ())


def test_a_process_sends_for_four_cpus_unless_a_number_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for cpus, processes in ((1, 1), (2, 1), (8, 2), (96, 8)):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, cpus=cpus: set(range(cpus)))
        assert Scenario(targets("cnn")).generator_processes == processes
    assert Scenario(targets("cnn"), processes=3).generator_processes == 3


def test_a_test_is_loopback_when_all_of_its_targets_are() -> None:
    near, far = targets("cnn"), targets("lstm", address="example.org:8001")
    assert Scenario(near).is_loopback
    assert not Scenario(near + far).is_loopback
