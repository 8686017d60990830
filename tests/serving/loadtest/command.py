"""Helpers that run `hangtag loadtest` in this process, read its results, and write files like those that it saves."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import jsonschema
import numpy as np
from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.loadtest.generator.block_result import Recorder
from hangtag.serving.loadtest.measuring.measured_run import Run
from hangtag.serving.loadtest.plan.load import Load
from tests.kit.command import invoke, refusal
from tests.kit.fake_server import FakeServer, running
from tests.kit.waiting import pass_time

# Options for the shortest possible run, with one block. Tests that need longer runs override some options.
QUICK = ("--min-duration", "50ms", "--min-query-count", "10", "--blocks", "1", "--warm-up", "0")
LOOP = (*QUICK, "--concurrency", 1)
SCHEMA = json.loads((Path(__file__).parents[3] / "docs/loadtest.schema.json").read_text())


def _strict(part: Any) -> Any:
    """Return the schema with undocumented fields forbidden."""
    if isinstance(part, dict):
        closed = {"additionalProperties": False} if "required" in part else {}
        return {key: _strict(value) for key, value in part.items()} | closed
    return [_strict(value) for value in part] if isinstance(part, list) else part


STRICT_SCHEMA = _strict(SCHEMA)


def one_line(text: str) -> str:
    """Replace line breaks and repeated spaces with single spaces."""
    return " ".join(text.split())


@dataclass(frozen=True)
class Measured:
    """The output of a load test, and the contents of its JSON report."""

    exit_code: int
    stdout: str
    stderr: str
    document: Any

    @property
    def text(self) -> str:
        return one_line(self.stdout)

    @property
    def runs(self) -> list[Any]:
        runs: list[Any] = self.document["runs"]
        return runs

    def run(self, target: str, load: str = "") -> Any:
        """The run of a target. If the target has two runs, ``load`` is "closed" or "open"."""
        (run,) = (run for run in self.runs if run["target"] == target and load in run["load"]["kind"])
        return run


def measure(folder: Path, *arguments: object, columns: int = 500) -> Measured:
    """Run a load test that writes its results into a folder, and check the results against the documented schema."""
    file = folder / "results.json"
    result = invoke("loadtest", *arguments, f"--json={file}", exit_code=None, columns=columns)
    assert file.is_file(), result.output
    document = json.loads(file.read_text())
    jsonschema.validate(document, STRICT_SCHEMA)
    gates_failed = any(gate["failed"] for gate in document["gates"])
    assert result.exit_code == int(gates_failed or not document["valid"]), result.output
    return Measured(result.exit_code, result.stdout, result.stderr, document)


def refused(facts: str, *arguments: object, exit_code: int = 1) -> str:
    """Require that a load test ends with a one-line error that contains all these facts, and return the error."""
    message = refusal("loadtest", *arguments, exit_code=exit_code)
    assert all(fact in message for fact in facts.split()), message
    return message


@dataclass(frozen=True)
class Loadtest:
    """Runs load tests against one fake server."""

    server: FakeServer
    folder: Path

    def __call__(self, *arguments: object) -> Measured:
        return measure(self.folder, *arguments, "--server", self.server.address)

    def refused(self, facts: str, *arguments: object) -> str:
        return refused(facts, *arguments, "--server", self.server.address)


def decoded(histogram: str) -> list[float]:
    """Decode a saved histogram, and return its durations in seconds."""
    recorded = HdrHistogram.decode(histogram.encode()).get_recorded_iterator()
    return [each.value_iterated_to / 1e6 for each in recorded for _ in range(each.count_at_value_iterated_to)]


MACHINE = {"CPU": "a processor", "CPUs usable": "8 of 8", "system": "Linux 6"}
Seconds = Sequence[float]


def run_of(load: Load, *seconds: float, failed: int = 0, measured: Any = None, blocks: Any = None, **more: Any) -> Run:
    """Return a run with the given ``blocks``, or, without them, with one block of one second in which calls took
    ``seconds``. ``measured`` replaces fields of this block."""
    recorder = Recorder(0.0)
    for each in seconds:
        recorder.record(0.0, 0.0, each, "OK")
    for _ in range(failed):
        recorder.record(0.0, 0.0, 0.0, "UNAVAILABLE")
    block = replace(recorder.result(1.0), **(measured or {}))
    return Run("cnn", load, blocks or (block,), **more)


def _durations(seconds: Seconds) -> dict[str, str]:
    histogram = HdrHistogram(1, 3_600_000_000, 3)
    for each in seconds:
        histogram.record_value(round(each * 1e6))
    return {"histogram": histogram.encode().decode()}


def saved_block(seconds: Seconds, *, failed: int = 0, **more: Any) -> dict[str, Any]:
    """A saved block of one second in the first version's format. The queries took these times."""
    return {
        "duration": 1.0,
        "throughput": float(len(seconds)),  # calls per second, as in the first version
        "warm_up_queries": 0,
        "statuses": {"OK": len(seconds)} | ({"UNAVAILABLE": failed} if failed else {}),
        "delayed_queries": 0,
        **{name: _durations(seconds) for name in ("latency", "service_time")},
        "lateness": _durations([0.0001] * (len(seconds) + failed)),
        **more,
    }


def steady(seconds: float, count: int = 100, **more: Any) -> list[dict[str, Any]]:
    """Two saved blocks in which every query took this time."""
    return [saved_block([seconds] * count, **more) for _ in range(2)]


def saved_run(target: str, load: int | float, *blocks: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A saved run. A float ``load`` is the rate of an open loop. An integer is the concurrency of a closed loop."""
    closed = {"kind": "closed loop", "concurrency": load, "rate": None, "arrivals": None}
    opened = {"kind": "open loop", "concurrency": None, "rate": load, "arrivals": "poisson"}
    return {
        "model": target,
        "load": opened if isinstance(load, float) else closed,
        "error_messages": {},
        "blocks": list(blocks),
        "planned_blocks": len(blocks),
        **more,
    }


def save(file: Path, *runs: dict[str, Any], environment: dict[str, str] | None = None, **more: Any) -> Path:
    """Write a results file. The document also gets the fields in ``more``."""
    document = {
        "schema": "hangtag.loadtest/1",
        "scenario": {"batch_size": 1, "blocks": 2, "targets": [], "channels": 1},
        "environment": MACHINE if environment is None else environment,
        "started": "2026-01-02T03:04:05+00:00",
        "runs": list(runs),
        **more,
    }
    file.write_text(json.dumps(document))
    return file


REPORTS = ("csv", "html", "junit")
HOSTILE = "<b>$&"
# For each condition of --fail-if: whether it makes the load test of ``complete`` fail, and parts of the message.
GATES = {
    "fast.p99 > 1us": (True, "p99 at 2 in flight is ... the limit is 1.00 µs"),
    "slow[20].p50 >= 0.005 s": (True, "p50 at 20 calls/s is ... the limit is 5.00 ms"),
    "fast[2 in flight].max > 999.9us": (True, "the limit is 1.00 ms"),
    "fast[2].p50 > 0.00042 s": (True, "the limit is 420 µs"),
    "fast[2].throughput < 100000": (True, "throughput at 2 in flight is .../s, the limit is 100,000/s"),
    "slow[2].throughput < 0.9 * fast.throughput": (True, ""),
    "slow.samples_per_second > 1": (True, ""),
    "fast.accuracy < 96 %": (True, "fast's accuracy is 95.00%, the limit is 96.00%"),
    "fast.accuracy < baseline": (True, "fast's accuracy is 95.00%, the limit is 98.00%"),
    "fast[2].throughput < 1000 * baseline": (True, "the limit is 100,000/s"),
    "fast.errors >= 0": (True, "fast's errors at 2 in flight is 0, the limit is 0"),
    "fast.error_rate >= 0": (True, "fast's error_rate at 2 in flight is 0.00%"),
    "fast.p99.9 <= 60 s": (True, ""),
    "fast.p99 > 60s": (False, "the limit is 60.0 s"),
    "fast.max > 1234.5 s": (False, "the limit is 1,234 s"),
    "fast.p50 > 60000 ms": (False, ""),
    "fast.errors > 0": (False, ""),
    "fast.error_rate > 1 %": (False, ""),
    "fast.error_rate >= 100 %": (False, ""),
    "slow.accuracy < 90 %": (False, "slow's accuracy is 100.00%, the limit is 90.00%"),
    "fast[2].throughput < 0.001 * baseline": (False, ""),
    "slow[2].p99 > 1000 * fast[2].p99": (False, ""),
}


def baseline(folder: Path) -> Path:
    """Saved results in which `fast` answered 100 calls a second under both loads, with an accuracy of 98 %."""
    accuracy = {"accuracy": 0.98, "correct": 98, "total": 100}
    target = {"name": "fast", "model": "fast", "accuracy": accuracy}
    runs = (saved_run("fast", 2, *steady(0.001)), saved_run("fast", 20.0, *steady(0.001)))
    return save(folder / "baseline.json", *runs, targets=[target])


def fail_if(*conditions: str) -> list[str]:
    return [word for condition in conditions for word in ("--fail-if", condition)]


def _all_reports(folder: Path) -> list[object]:
    return [word for name in REPORTS for word in (f"--{name}", folder / f"report.{name}")]


def complete(folder: Path) -> Measured:
    """Run a load test of `fast` (right on 95 of 100 samples, after 2 ms) and `slow` (always right, after 20 ms)."""

    def behaviour(number: int, context: grpc.ServicerContext) -> None:
        pass_time(0.02 if fake.requests[number].model_name == "slow" else 0.002)

    def answer(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        count = request.inputs[0].shape[0]
        pixels = np.frombuffer(request.raw_input_contents[0], np.uint8).reshape(count, -1)[:, :2].astype(int)
        classes = pixels[:, 0] % 10 if request.model_name == "slow" else pixels[:, 1] % 10
        response = pb.ModelInferResponse(model_name=request.model_name, model_version="7")
        response.outputs.add(name="scores", datatype="FP32", shape=[count, 10])
        response.raw_output_contents.append(np.eye(10, dtype=np.float32)[classes].tobytes())
        return response

    labels = np.arange(100) % 10
    images = np.zeros((100, 28, 28), np.uint8)
    images[:, 0, 0], images[:, 0, 1] = labels, (labels + (np.arange(100) >= 95)) % 10
    np.savez(folder / "samples.npz", image=images, labels=labels)
    with running(FakeServer()) as fake:
        fake.behaviour, fake.answer = behaviour, answer
        fake.configs = {
            name: pb.ModelConfig(max_batch_size=64, parameters={"file_bytes": pb.ModelParameter(string_value=size)})
            for name, size in (("fast", "1000000"), ("slow", "4000000"))
        }
        return measure(
            folder,
            *("fast", "slow", "--server", fake.address, "--concurrency", 2, "--rate", 20, "--warm-up", "50ms"),
            *("--blocks", 2, "--min-duration", "600ms", "--min-query-count", 10, "--samples", folder / "samples.npz"),
            *("--accuracy", "--baseline", baseline(folder), *_all_reports(folder)),
            *fail_if(*GATES),
            columns=80,
        )


def spoiled(folder: Path) -> Measured:
    """Run a load test of eight targets. `fine` works, HOSTILE fails at times, and `never` always fails."""
    names = ("fine", HOSTILE, "never", *(f"a-model-with-a-rather-long-name-{number}" for number in range(5)))
    calls = Counter[str]()

    def behaviour(number: int, context: grpc.ServicerContext) -> None:
        model = fake.requests[number].model_name
        pass_time(0.01)  # longer than the generator's own work takes
        calls[model] += 1
        if calls[model] > 1 and (model == "never" or (model == "at-times" and calls[model] % 4 == 2)):
            context.abort(grpc.StatusCode.UNAVAILABLE, "\x1b[2J went away <soon>\nVALID")

    models = {HOSTILE: "at-times", "never": "never"}
    with running(FakeServer()) as fake:
        fake.behaviour = behaviour
        fake.inputs |= dict.fromkeys(models.values(), fake.inputs["fast"])
        targets = [f"{name}={fake.address}/{models.get(name, 'fast')}" for name in names]
        return measure(
            folder,
            *(word for target in targets for word in ("--target", target)),
            *("--concurrency", 2, "--batch-size", 8, "--blocks", 1, "--warm-up", 0),
            *("--min-duration", "100ms", "--min-query-count", 10, *_all_reports(folder)),
            *fail_if("never[2].p99 > 1s", "fine.p99 > 60s"),
        )
