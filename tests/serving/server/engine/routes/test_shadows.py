"""A shadow's copies of calls change no caller's answer. Each copy is compared, skipped, or counted as failed."""

import math
import time
from dataclasses import astuple
from typing import Any

import numpy as np
import pytest

from hangtag import ClientError
from hangtag.serving.server.config.limits import Limits
from hangtag.serving.server.errors import InferenceError
from hangtag.serving.server.telemetry.server_state import ShadowCounts
from tests.kit import onnx_models
from tests.kit.gate import Array, Held, echo
from tests.kit.repository import Repository, Running
from tests.kit.waiting import pass_time, until

SHADOW = 'shadow = {model = "other", share = 1}'


def limits(**more: Any) -> Limits:
    """Limits that allow a route's shadow to compute copies of requests without pauses in between."""
    return Limits(**{"shadow_share_of_time": math.inf, **more})


@pytest.fixture
def shadowed(repository: Repository) -> Repository:
    """The route ``both``, which sends each call to fast and a copy to other. Both models answer with their input."""
    for name in ("fast", "other"):
        repository.publish(name, model=onnx_models.shifted(0))
    repository.route("both", f"split = {{fast = 100}}\n{SHADOW}")
    return repository


def counts(running: Running) -> tuple[Any, ...]:
    """The counts of the copies that the route made."""
    return astuple(running.state("both").route.shadow or ShadowCounts())


def until_counted(running: Running, *expected: int) -> None:
    """Wait until the route has counted these numbers of compared, skipped and failed copies."""
    until(lambda: sum(counts(running)[:3]) >= sum(expected))
    assert counts(running)[:3] == expected


def copied(running: Running) -> list[list[float]]:
    """The inputs of the shadow model, one list for each batch of copied calls."""
    return [batch for batch in running.gates.batches["other"] if batch != [9]]


def values_of(batches: list[list[float]]) -> list[float]:
    return [value for batch in batches for value in batch]


def test_a_copy_is_compared_with_the_answer_that_the_caller_got(shadowed: Repository) -> None:
    running = shadowed.start(limits=limits())
    running.gates.play(other=lambda x: np.where(x[:, :1] < 0.5, x[:, ::-1], x))
    x = np.array([[0.25, 0], [0.9, 0], [0.8, 0]], np.float32)
    np.testing.assert_array_equal(running.client.infer("both", {"x": x})["y"], x)
    until_counted(running, 1, 0, 0)
    assert counts(running) == (1, 0, 0, 3, 2, 0.25)


def test_a_share_of_the_calls_is_copied(shadowed: Repository) -> None:
    shadowed.route("both", 'split = {fast = 100}\nshadow = {model = "other", share = 0.25}')
    running = shadowed.start(limits=limits())
    for _ in range(400):
        running.infer("both", [1])
    assert running.state("both").counters.success.count == 400
    until(lambda: sum(counts(running)[:3]) > 50)
    assert sum(counts(running)[:3]) < 150  # the probability of 150 or more is below 1 in 1,000,000


@pytest.mark.parametrize(
    ("busy", "instances", "batches", "is_skipped"),
    [("fast", 2, 1, True), ("fast", 3, 1, False), ("fast", 3, 2, True), ("other", 2, 1, True), ("other", 3, 1, False)],
)
def test_copies_are_skipped_while_at_least_half_of_a_members_or_the_shadows_instances_compute(
    shadowed: Repository, busy: str, instances: int, batches: int, is_skipped: bool
) -> None:
    shadowed.settings(busy, f"instances = {instances}\nmax_batch_size = 1")
    running = shadowed.start(limits=limits())
    held = Held()
    running.gates.play(fast=held, other=held)
    others = []
    for _ in range(batches):
        others.append(running.infer_later(busy, [9]))
        held.wait()
    for number in range(10):
        assert running.infer("both", [1])["y"][0, 0] == 1
        until(lambda number=number: sum(counts(running)[:3]) == number + 1)  # type: ignore[misc]
    held.release()
    for other in others:
        other.result()
    until_counted(running, *((0, 10, 0) if is_skipped else (10, 0, 0)))
    assert values_of(copied(running)) == [] if is_skipped else [1] * 10
    running.infer("both", [0.7])
    until_counted(running, *((1, 10, 0) if is_skipped else (11, 0, 0)))


def test_copies_are_computed_one_at_a_time(shadowed: Repository) -> None:
    shadowed.settings("other", "instances = 3")
    running = shadowed.start(limits=limits())
    held = Held(1)
    running.gates.play(other=held)
    running.infer("both", [1])
    held.wait()
    for _ in range(3):
        running.infer("both", [2])
    until_counted(running, 0, 3, 0)
    held.release()
    until_counted(running, 1, 3, 0)
    assert copied(running) == [[1]]


def test_copies_are_computed_in_a_quarter_of_the_time(shadowed: Repository) -> None:
    running = shadowed.start(limits=limits(shadow_share_of_time=0.25))
    computing: list[float] = []

    def timed(x: Array) -> Array:
        began = time.monotonic()
        pass_time(0.005)
        computing.append(time.monotonic() - began)
        return x

    running.gates.play(other=timed)
    began = time.monotonic()
    until(lambda: running.infer("both", [1]) and len(computing) >= 20)
    share = sum(computing[:20]) / (time.monotonic() - began)
    assert 0.05 < share < 0.3


def test_copies_never_use_every_thread_and_calls_of_their_model_do(shadowed: Repository) -> None:
    """Copies arrive one by one while nothing is computed, like the calls of a single client."""
    shadowed.route("inner", "split = {other = 100}")
    shadowed.route("another", "split = {fast = 100}\n" + SHADOW.replace("other", "inner"))
    running = shadowed.start(limits=limits(), instances=1)
    running.gates.play(fast=echo, other=echo)

    def lone(name: str) -> bool:
        for _ in range(20):
            running.infer(name, [1])
        until(lambda: not running.state("other").queued)
        return any(running.gates.alone["other"])

    assert not lone("both")
    assert any(running.gates.alone["fast"])
    assert not lone("another")
    assert lone("other")


def fail(_: Array) -> Array:
    raise InferenceError("made up")


def test_a_shadow_that_fails_or_is_gone_is_counted_and_every_caller_has_an_answer(shadowed: Repository) -> None:
    running = shadowed.start("poll", limits=limits())
    running.gates.play(other=fail)
    assert running.infer("both", [0.9])["y"][0, 0] == np.float32(0.9)
    until_counted(running, 0, 0, 1)
    running.gates.play(fast=fail, other=fail)
    with pytest.raises(ClientError, match="made up"):  # a failed call is not copied
        running.infer("both", [0.7])
    running.gates.play()
    shadowed.remove("other")
    running.poll()
    assert running.infer("both", [0.8])["y"][0, 0] == np.float32(0.8)
    until_counted(running, 0, 0, 2)


def test_a_shadow_limits_no_call_and_what_it_would_not_take_is_skipped(shadowed: Repository) -> None:
    shadowed.settings("other", "max_batch_size = 2")
    running = shadowed.start(limits=limits())
    running.gates.play(other=echo)
    for values in ([0.9, 0.8, 0.7, 0.6], [0.5, 0.4]):
        assert len(running.infer("both", values)["y"]) == len(values)
    until_counted(running, 1, 1, 0)
    assert copied(running) == [[0.5, 0.4]]
