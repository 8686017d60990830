"""Two load tests whose reports several files of tests read."""

import threading
from collections import Counter
from pathlib import Path

import grpc
import numpy as np

from hangtag.protos import inference_pb2 as pb
from tests.kit.fake_server import FakeServer, running
from tests.serving.loadtest.command import Measured, measure
from tests.serving.loadtest.runs import save, saved_run, steady

REPORTS = ("csv", "html", "junit", "prometheus")
HOSTILE = "<b>$&"
# Conditions of --fail-if, and whether the complete load test fails by them.
GATES = {
    "fast.p99 > 1us": True,
    "slow[20].p50 >= 0.005 s": True,
    "fast[2 in flight].max > 100us": True,
    "fast[2].throughput < 100000": True,
    "slow[2].throughput < 0.9 * fast.throughput": True,
    "slow.samples_per_second > 1": True,
    "fast.accuracy < 96 %": True,
    "fast.accuracy < baseline": True,
    "fast[2].throughput < 1000 * baseline": True,
    "fast.errors >= 0": True,
    "fast.error_rate >= 0": True,
    "fast.p99.9 <= 60 s": True,
    "fast.p99 > 60s": False,
    "fast.p50 > 60000 ms": False,
    "fast.errors > 0": False,
    "fast.error_rate > 1 %": False,
    "fast.error_rate >= 100 %": False,
    "slow.accuracy < 90 %": False,
    "fast[2].throughput < 0.001 * baseline": False,
    "slow[2].p99 > 1000 * fast[2].p99": False,
}


def baseline(folder: Path) -> Path:
    """Saved results: `fast` answered 100 calls a second, under both loads, and 98 % of its answers were right."""
    accuracy = {"accuracy": 0.98, "correct": 98, "total": 100}
    target = {"name": "fast", "model": "fast", "accuracy": accuracy}
    runs = (saved_run("fast", 2, *steady(0.001)), saved_run("fast", 20.0, *steady(0.001)))
    return save(folder / "baseline.json", *runs, targets=[target])


def _all_reports(folder: Path) -> list[object]:
    return [word for name in REPORTS for word in (f"--{name}", folder / f"report.{name}")]


def complete(folder: Path) -> Measured:
    """`fast` answers after 2 ms and is right on 95 of 100 samples; `slow` answers after 20 ms and is always right."""

    def behaviour(number: int, context: grpc.ServicerContext) -> None:
        threading.Event().wait(0.02 if fake.requests[number].model_name == "slow" else 0.002)

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
            *(word for condition in GATES for word in ("--fail-if", condition)),
            env={"COLUMNS": "80"},
        )


def spoiled(folder: Path) -> Measured:
    """Seven targets with long or hostile names: the first is fine, the second fails at times, the third always."""
    names = ("fine", HOSTILE, "never", *(f"a-model-with-a-rather-long-name-{number}" for number in range(4)))
    calls = Counter[str]()

    def behaviour(number: int, context: grpc.ServicerContext) -> None:
        model = fake.requests[number].model_name
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
            *("--fail-if", "never[2].p99 > 1s", "--fail-if", "fine.p99 > 60s"),
        )
