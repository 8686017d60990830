import io
import re
from dataclasses import replace

from rich.console import Console

from hangtag.serving.loadtest.comparison.compare import compare_targets
from hangtag.serving.loadtest.comparison.gate_outcomes import GateOutcome
from hangtag.serving.loadtest.measuring.accuracy import Accuracy
from hangtag.serving.loadtest.measuring.results import Results
from hangtag.serving.loadtest.measuring.run import Run
from hangtag.serving.loadtest.plan.load import ClosedLoop
from hangtag.serving.loadtest.plan.scenario import Scenario
from hangtag.serving.loadtest.report import table
from tests.serving.loadtest.builders import block, full_results, results, targets, two_models


def printed(measured: Results, width: int = 80, outcomes: tuple[GateOutcome, ...] = ()) -> str:
    text = io.StringIO()
    table.render(measured, compare_targets(measured), Console(file=text, width=width), outcomes)
    return text.getvalue()


def test_the_table_sets_models_side_by_side_within_80_columns() -> None:
    lines = printed(two_models()).splitlines()
    assert max(map(len, lines)) <= 80
    start = next(number for number, line in enumerate(lines) if "closed loop, 8 in flight" in line)
    head, fast, slow, ratio = (line.split() for line in lines[start + 1 : start + 5])
    assert head == ["calls/s", "p50", "p90", "p95", "p99", "max", "failed"]
    assert (fast[0], slow[0]) == ("fast", "slow")
    assert fast[1] == "1,000"
    assert ratio[:4] == ["slow", "/", "fast", "0.250\u00d7"]
    assert "INVALID" not in printed(two_models())
    assert lines[-1] == "VALID every run measured what it was to measure."


def test_an_open_loop_shows_its_lateness_and_service_time() -> None:
    (late,) = [line for line in printed(two_models(delayed=3), 200).splitlines() if line.startswith("slow: sent")]
    expected = "slow: sent up to 100 µs late (p99), 15 of 1,250 delayed; from the actual send p50 6.00 ms, p99 7.97 ms"
    assert late == expected


def test_the_warm_up_is_counted() -> None:
    assert "Before these, 40 queries of warm-up were sent and discarded." in printed(two_models())
    assert "warm-up" not in printed(results())


def test_the_sources_of_the_samples_are_named() -> None:
    assert "Sent: random values." in printed(two_models())
    unlike = replace(two_models(), sources={"fast": "random values", "slow": "500 samples from x.npz"})
    text = printed(unlike)
    assert "Sent to fast: random values." in text
    assert "Sent to slow: 500 samples from x.npz." in text


def test_batches_are_also_counted_in_samples() -> None:
    text = printed(results(Run((block("fast", ClosedLoop(1), (0.001,) * 5),), batch_size=8), batch_size=8), 120)
    assert re.search(r"calls/s\s+samples/s", text)
    assert re.search(r"fast\s+5\.00\s+40\.0", text)


def test_the_problems_of_a_run_are_shown() -> None:
    bad = two_models(failed=3, delayed=30)
    text = printed(bad, 200)
    assert "INVALID slow, 8 in flight; slow, 500 calls/s: 15 of 1,265 calls failed (15 UNAVAILABLE)" in text
    assert text.count("UNAVAILABLE: went away <soon>") == 1
    assert "INVALID slow, 500 calls/s: the generator could not keep up" in text


def test_a_servers_message_does_nothing_to_the_terminal() -> None:
    failed = replace(block("fast", ClosedLoop(1), failed=3), details={"UNAVAILABLE": "\x1b[2J\nVALID"})
    run = Run((failed,), batch_size=1)
    text = printed(results(run), 200)
    assert "UNAVAILABLE: \\x1b[2J\\nVALID" in text
    assert all(line.isprintable() for line in text.split("\n"))


def test_runs_that_are_invalid_are_not_compared() -> None:
    text = printed(two_models(failed=3), 200)
    assert "slow and fast at 8 in flight cannot be compared: slow is INVALID." in text
    assert "times fast's" not in text
    assert re.search(r"slow / fast +INVALID", text)
    assert "\u00d7" not in text
    assert "\nVALID" not in text


def test_accuracy_peaks_caching_and_ceilings_have_sentences() -> None:
    text = printed(full_results(), 200, (GateOutcome("fast.p99 > 1ms", True, "fast.p99 > 1ms: it is 2 ms"),))
    assert "fast is right on 90.00% of 1,000 samples (95 %: 87.98% to 91.71%)." in text
    assert "fast keeps p99 within 10.0 ms up to 1,450 calls/s." in text
    assert "fast shows no sign of cached answers: one sample over and over is 1.01 times as fast as new ones" in text
    assert "INVALID slow: answers seem to be cached: one sample over and over is 3.00 times" in text
    assert "The generator's own ceiling: 20,000 calls/s over gRPC, 8 in flight." in text
    assert "FAILED fast.p99 > 1ms: it is 2 ms" in text


def test_an_accuracy_that_is_off_is_shown() -> None:
    text = printed(two_models({"accuracies": {"fast": Accuracy(8000, 10_000, expected=0.9)}}), 200)
    assert "INVALID fast: its accuracy is off: 80.00% through the server, where the model's file says 90.00%." in text


def test_the_generators_share_of_cpus_is_shown() -> None:
    shared = two_models()
    sentence = "The generator shared this machine's CPUs with the server; its busiest process took up to 10% of one."
    assert sentence in printed(shared, 200)
    away = replace(shared, scenario=Scenario(targets("fast", "slow", address="192.0.2.1:8001")))
    assert "The generator shared" not in printed(away, 200)
    assert results(interrupted=True).generator_share is None  # Nothing was measured.


def test_few_queries_are_noted() -> None:
    text = printed(results(Run((block("fast", ClosedLoop(1), (0.001,) * 50),), 1)), 200)
    assert "note fast, 1 in flight: 50 queries are too few to tell a p99 with 99 % confidence: that takes 459" in text


def test_remarks_on_several_runs_are_combined() -> None:
    def run(name: str, load: ClosedLoop, queries: int, others: float) -> Run:
        return Run((block(name, load, (0.001,) * queries, others=others),), 1)

    one, eight = ClosedLoop(1), ClosedLoop(8)
    runs = (run("fast", one, 50, 0.5), run("slow", one, 40, 0.42), run("fast", eight, 500, 0.5))
    lines = printed(results(*runs), 300).splitlines()
    where = "fast, 1 in flight; slow, 1 in flight"
    assert [line for line in lines if line.startswith("DOUBTFUL")] == [
        f"DOUBTFUL {where}; fast, 8 in flight: other programs took 42 to 50% of this machine's CPUs meanwhile"
    ]
    (note,) = [line for line in lines if line.startswith("note")]
    assert note.startswith(f"note {where}: 40 to 50 queries are too few to tell a p99 with 99 % confidence")


def test_an_interrupted_test_is_marked() -> None:
    assert "The test was interrupted: only a part was measured." in printed(results(interrupted=True))
    assert "Nothing was measured." in printed(results(interrupted=True))
