"""How splits spread calls over their members, and when a member's limits refuse a call."""

import math
from collections import Counter
from typing import Any

import grpc
import numpy as np

from studies.stubs import InferenceStub
from tests.kit import onnx_models
from tests.kit.kinds import message_of
from tests.kit.live import request
from tests.kit.repository import Repository, Running, samples
from tests.kit.waiting import TIMEOUT

COUNT = 500
DEVIATIONS = 4.5
"""Only one binomial count in 100,000 is farther from its mean than this many standard deviations."""
STICKY = '\nsticky = "x-user-id"'


def test_a_request_that_one_member_would_not_take_is_refused(repository: Repository) -> None:
    def forbid_empty_axes(runtime: Any) -> None:
        if "full" in runtime.path.parts:
            runtime.no_empty_because = "it has LSTM"

    for name in ("small", "full"):
        repository.publish(name, model=onnx_models.free_axis())
    repository.settings("small", "max_batch_size = 2")
    repository.route("split", "split = {small = 50, full = 50}")
    running = repository.start(on_load=forbid_empty_axes)
    for shape, taken_by, reason in (((1, 0), "small", "it has LSTM"), ((3, 1), "full", "takes at most 2")):
        x = {"x": np.zeros(shape, np.float32)}
        assert len(running.client.infer(taken_by, x)["total"]) == shape[0]
        for _ in range(8):  # often enough to reach both members of the split
            assert reason in message_of(grpc.StatusCode.INVALID_ARGUMENT, running.client.infer, "split", x)


def chosen(running: Running, route: str, users: list[str]) -> Counter[tuple[str, str]]:
    """Call a route concurrently for each user ("" is no user). Count the calls for each pair of user and member."""
    with grpc.insecure_channel(running.server.address) as channel:
        infer = InferenceStub(channel).ModelInfer.future
        sent = request(route, **samples([0]))
        calls = [infer(sent, timeout=TIMEOUT, metadata=(("x-user-id", user),) if user else ()) for user in users]
        members = [str(dict(call.trailing_metadata())["hangtag-model"]) for call in calls]
    return Counter(zip(users, members, strict=True))


def require_share(counts: Counter[tuple[str, str]], member: str, share: float) -> None:
    """Require that the member's number of calls is within DEVIATIONS standard deviations of the expected number."""
    total, count = counts.total(), sum(number for (_, each), number in counts.items() if each == member)
    assert abs(count - share * total) <= DEVIATIONS * math.sqrt(total * share * (1 - share))


def test_random_calls_and_similar_keys_are_spread_by_their_shares(repository: Repository) -> None:
    repository.publish("three")
    repository.route("inner", "split = {one = 90, two = 10}" + STICKY)
    repository.route("outer", "split = {three = 50, inner = 50}" + STICKY)
    running = repository.start("poll", transport="native", max_queue_size=COUNT)
    before: Counter[tuple[str, str]] = Counter()
    for pattern in ("", "{:08x}", "user{}@example.com"):
        before = chosen(running, "inner", [pattern.format(number) for number in range(COUNT)])
        require_share(before, "two", 0.1)
    # The inner split receives only some of the keys, and spreads these over its own members by their shares.
    outer = chosen(running, "outer", [f"user-{number}" for number in range(2 * COUNT)])
    require_share(outer, "three", 0.5)
    require_share(Counter({key: count for key, count in outer.items() if key[1] != "three"}), "two", 0.1)
    # If the weights change, no more keys move than necessary.
    repository.route("inner", "split = {one = 80, two = 20}" + STICKY)
    running.poll()
    after = chosen(running, "inner", [user for user, _ in before])
    assert {key for key in before if key[1] == "two"} < {key for key in after if key[1] == "two"}
    require_share(after, "two", 0.2)
