import io
import re
from dataclasses import replace

from rich.console import Console

from hangtag.serving.loadtest.cli import progress
from hangtag.serving.loadtest.generator.messages import Block, Snapshot
from hangtag.serving.loadtest.measuring.accuracy import AccuracyProgress
from hangtag.serving.loadtest.measuring.session import Progress
from hangtag.serving.loadtest.plan.load import ClosedLoop, Load, OpenLoop
from hangtag.serving.loadtest.plan.scenario import Scenario
from tests.serving.loadtest.builders import targets

NOW = Snapshot(elapsed=0.5, queries=250, failed=0, rate=499.0, p50=0.0012, p99=0.0345)


def at(target: str, load: Load, number: int = 0, now: Snapshot = NOW, **more: str) -> Progress:
    block = Block(target, load, Scenario(targets(target)).limits, 0.1, 0, number)
    return Progress(block, 1.0, 9.0, now, **more)


def shown(*updates: progress.AnyProgress, height: int = 40, width: int = 80) -> list[str]:
    """The table's lines after these updates, without the spaces between the columns."""
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=width, height=height)
    board = progress.Board(console)
    for update in updates:
        board.update(update)
    with console.capture() as captured:
        console.print(board.draw())
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= width
    return [" ".join(line.split()) for line in lines]


def test_every_target_under_every_load_has_a_line() -> None:
    lines = shown(
        at("lstm", OpenLoop(500.0)),
        at("lstm", ClosedLoop(8)),
        at("cnn", ClosedLoop(8), now=replace(NOW, rate=1234.5, failed=3)),
    )
    assert lines[:5] == [
        "measuring",
        "load target calls/s p50 p99 errors",
        "8 in flight lstm 499 1.20 ms 34.5 ms 0",
        "8 in flight cnn 1,234 1.20 ms 34.5 ms 3",
        "500 calls/s lstm 499 1.20 ms 34.5 ms 0",
    ]
    assert lines[5].endswith("9 s left")


def test_errors_are_summed_over_all_blocks_so_far() -> None:
    load = ClosedLoop(8)
    blocks = [
        at("cnn", load, number, replace(NOW, failed=failed)) for number, failed in ((0, 1), (0, 3), (1, 0), (1, 2))
    ]
    assert shown(*blocks)[2].endswith("34.5 ms 5")


def test_another_phase_starts_with_an_empty_table() -> None:
    load = ClosedLoop(8)
    lines = shown(at("cnn (one sample)", load, phase="checking"), at("cnn", load))
    assert lines[0] == "measuring"
    assert not any("one sample" in line for line in lines)


def test_a_low_terminal_shows_the_rows_that_changed_last() -> None:
    updates = [at("cnn", OpenLoop(float(rate))) for rate in (400, 100, 300, 200)]
    rates = [re.findall(r"^(\d+) calls/s cnn", line) for line in shown(*updates, height=progress.FREE_LINES + 2)]
    assert [rate for (rate,) in filter(None, rates)] == ["200", "300"]


def test_long_names_are_cut_and_figures_are_not() -> None:
    (line,) = (line for line in shown(at("a-name-that-is-long" * 4, ClosedLoop(8))) if line.startswith("8 in flight"))
    assert line.endswith("\N{HORIZONTAL ELLIPSIS} 499 1.20 ms 34.5 ms 0")


def test_the_accuracy_pass_is_shown_too() -> None:
    lines = shown(at("cnn", ClosedLoop(8)), AccuracyProgress("cnn", 2300, 2500, 10_000))
    assert lines[:3] == [
        "each labelled sample once",
        "target samples right so far",
        "cnn 2,500 of 10,000 samples 92.00%",
    ]
    assert shown(AccuracyProgress("cnn", 0, 0, 10))[2].endswith("\N{EN DASH}")


def test_before_anything_is_known_it_connects() -> None:
    assert shown() == ["connecting ..."]


def test_a_terminal_shows_the_table_while_it_runs_and_nothing_of_it_afterwards() -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, color_system=None, width=100)
    with progress.live(console) as show:
        show(at("cnn", ClosedLoop(8)))
    text = written.getvalue()
    assert "1.20 ms" in text
    erase_line = "\x1b[2K"
    assert text.rindex(erase_line) > text.rindex("1.20 ms")


def test_without_a_terminal_there_is_an_occasional_plain_line() -> None:
    written, seconds = io.StringIO(), 0.0
    with progress.live(Console(file=written, width=40), clock=lambda: seconds) as show:
        for seconds in (0.0, 9.9, 10.0, 15.0, 19.9):  # noqa: B007
            show(at("cnn", OpenLoop(500.0), now=replace(NOW, failed=3)))
        seconds = 20.0
        show(AccuracyProgress("cnn", 2300, 2500, 10_000))
    assert written.getvalue().splitlines() == [
        "cnn, 500 calls/s: 499 calls/s, p50 1.20 ms, p99 34.5 ms, 3 errors; 9 s left",
        "cnn, accuracy: 2,500 of 10,000 samples, 92.00% right so far",
    ]
