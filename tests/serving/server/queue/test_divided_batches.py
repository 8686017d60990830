"""Free instances share the queued calls among themselves if the measured service time shows that this is faster."""

import pytest

from tests.kit.parts import Clock, KeptCall, batcher, put


@pytest.mark.parametrize(
    ("fixed", "per_sample", "computing", "batches"),
    [
        pytest.param(0.0, 0.001, 0, [2, 2], id="two instances are free"),
        pytest.param(0.0, 0.001, 1, [4], id="one instance is free"),
        pytest.param(0.001, 0.001, 0, [4], id="two small batches cost much more than a large one"),
        pytest.param(0.0, 0.0001, 0, [4], id="the batch is short"),
    ],
)
def test_queued_requests_are_divided_among_free_instances_if_that_is_faster(
    fixed: float, per_sample: float, computing: int, batches: list[int]
) -> None:
    queue = batcher(Clock(), instances=2, divided=True)
    for samples in (1, 4):
        put(queue, KeptCall(samples))
        queue.finish(queue.take(), fixed + per_sample * samples)
    for _ in range(computing):
        put(queue, KeptCall())
        assert len(queue.take()) == 1
    put(queue, *(KeptCall() for _ in range(4)))
    assert [len(queue.take()) for _ in batches] == batches
    assert queue.waiting == 0
