"""What a terminal, or a log, shows while a load test runs."""

import io
import re
from collections import Counter
from pathlib import Path

import grpc
import numpy as np
from rich.console import Console

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.loadtest.cli import progress
from hangtag.serving.loadtest.generator.messages import Block, Snapshot
from hangtag.serving.loadtest.measuring.session import Progress
from hangtag.serving.loadtest.plan.limits import Limits
from hangtag.serving.loadtest.plan.load import OpenLoop
from tests.kit.command import invoke
from tests.kit.fake_server import FakeServer
from tests.kit.waiting import pass_time

LONG = "a-name-that-is-long" * 4
ERASE = "\x1b[2K"


def frames(stderr: str) -> list[list[str]]:
    """Each table that was drawn, as lines without the spaces between the columns; the last one is what was left."""
    drawn = re.split(rf"(?:\r?\x1b\[1A{re.escape(ERASE)}|\r{re.escape(ERASE)})+", stderr)
    texts = (re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", each).replace("\r", "") for each in drawn)
    lines = [text.splitlines() for text in texts]
    assert max(len(line.rstrip()) for each in lines for line in each) <= 80
    return [[" ".join(line.split()) for line in each] for each in lines]


def on_a_terminal(height: int, *arguments: object) -> list[list[str]]:
    """Run the command on a terminal of 80 columns."""
    variables = {"FORCE_COLOR": "1", "NO_COLOR": "1", "LINES": str(height)}
    result = invoke("loadtest", *arguments, exit_code=None, variables=variables, columns=80)
    assert result.exit_code in (0, 1), result.output
    return frames(result.stderr)


def test_a_terminal_shows_every_target_under_every_load_and_nothing_afterwards(
    server: FakeServer, tmp_path: Path
) -> None:
    calls, answer_seconds = Counter[str](), 0.01

    def behaviour(number: int, context: grpc.ServicerContext) -> None:
        # The call before the load takes longer than from one drawing to the next.
        pass_time(answer_seconds if number else 1.2 / progress.DRAWS_PER_SECOND)
        model = server.requests[number].model_name
        calls[model] += 1
        if model == "slow" and calls[model] % 10 == 5:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")

    def answer(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        response = pb.ModelInferResponse(model_name=request.model_name)
        response.outputs.add(name="scores", datatype="FP32", shape=[1, 2])
        response.raw_output_contents.append(np.array([1, 0], np.float32).tobytes())
        return response

    server.behaviour, server.answer = behaviour, answer
    np.savez(tmp_path / "s.npz", image=np.zeros((100, 28, 28), np.uint8), labels=np.zeros(100, int))
    targets = (f"slow={server.address}/slow", f"{LONG}={server.address}/fast")
    command = [word for target in targets for word in ("--target", target)]
    limits = ("--blocks", 2, "--min-duration", "1s", "--min-query-count", 80, "--warm-up", 0)
    first, *drawn, left = on_a_terminal(40, *command, "--concurrency", 1, "--rate", 60, *limits)
    assert first == ["connecting ..."]
    assert left == []
    title, head, *rows, bar = drawn[-1]
    assert (title, head) == ("measuring", "load target calls/s p50 p99 errors")
    # Closed loops first; names are cut, and figures are not.
    figures = r"[\d,.]+ [\d.]+ (?:µs|ms|s) [\d.]+ (?:µs|ms|s)"
    cut = "a-name-that-is-lon\\S*\N{HORIZONTAL ELLIPSIS}"
    closed_slow, closed_long, open_slow, open_long = sorted(rows, key=lambda row: ("calls/s" in row, "lon" in row))
    assert rows[:2] in ([closed_slow, closed_long], [closed_long, closed_slow])
    assert re.fullmatch(rf"1 in flight {cut} {figures} 0", closed_long)
    assert re.fullmatch(rf"60 calls/s {cut} {figures} 0", open_long)
    # Of both blocks so far. Every tenth call fails, of forty or more in the first, and the second may just have begun.
    errors = re.fullmatch(rf"1 in flight slow {figures} (\d+)", closed_slow)
    assert errors
    assert int(errors[1]) >= 4
    assert re.fullmatch(rf"60 calls/s slow {figures} \d+", open_slow)
    assert bar.endswith(" s left")
    # A pass through labelled samples has a table of its own.
    limits = ("--blocks", 1, "--min-duration", "1ms", "--min-query-count", 40, "--warm-up", 0)
    more = ("--samples", tmp_path / "s.npz", "--accuracy", "--concurrency", 1, *limits)
    answer_seconds = 0.05  # the pass has many calls in flight, and must take longer than from one drawing to the next
    _, *drawn, left = on_a_terminal(40, "fast", "--server", server.address, *more)
    (title, head, row, _) = next(each for each in drawn if each[0] != "measuring")
    assert (title, head) == ("each labelled sample once", "target samples right so far")
    assert re.fullmatch(r"fast \d+ of 100 samples (100\.00%|\N{EN DASH})", row)
    assert left == []
    # At twenty calls a second, 40 take a while, which passes.
    seconds = [int(match[1]) for each in drawn if (match := re.search(r"(\d+) s left$", each[-1]))]
    assert seconds[0] >= 1
    assert seconds[-1] <= 1


def test_a_low_terminal_shows_the_rows_that_changed_last(server: FakeServer) -> None:
    rates = ("--rate", "100,200,300,400", "--min-duration", "300ms", "--min-query-count", 1, "--blocks", 1)
    *drawn, _ = on_a_terminal(progress.FREE_LINES + 2, "fast", "--server", server.address, *rates, "--warm-up", 0)
    title, _, *rows, _ = drawn[-1]
    assert title == "measuring"
    assert len(rows) == 2


def test_a_log_has_an_occasional_line() -> None:
    """Every ten seconds, however often the figures change."""
    block = Block("cnn", OpenLoop(500.0), Limits(3.0, 500, 60.0, 1000), 0.1, 0, 0)
    now = Progress(block, 1.0, 9.0, Snapshot(elapsed=0.5, queries=250, failed=3, rate=499.0, p50=0.0012, p99=0.0345))
    written, seconds = io.StringIO(), 0.0
    with progress.live(Console(file=written, width=40), clock=lambda: seconds) as show:
        for seconds in (0.0, 9.9, 10.0, 15.0, 19.9, 20.0):  # noqa: B007
            show(now)
    line = "cnn, 500 calls/s: 499 calls/s, p50 1.20 ms, p99 34.5 ms, 3 errors; 9 s left"
    assert written.getvalue().splitlines() == [line, line]
