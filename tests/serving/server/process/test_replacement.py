import pytest

from hangtag.serving.server.process.workers.replacement import STABLE_SECONDS, ReplacementPolicy

MAX_ATTEMPTS = 5


def test_each_replacement_that_does_not_listen_waits_twice_as_long_until_the_last() -> None:
    policy = ReplacementPolicy(0.1, MAX_ATTEMPTS)
    delays = [policy.delay_after(1.0, failed=False)]
    delays += [policy.delay_after(1.0, failed=True) for _ in range(MAX_ATTEMPTS - 1)]
    assert delays == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6])
    assert policy.delay_after(1.0, failed=True) is None


def test_any_number_of_workers_that_listened_may_end_at_once() -> None:
    policy = ReplacementPolicy(0.1, MAX_ATTEMPTS)
    assert None not in [policy.delay_after(1.0, failed=False) for _ in range(10 * MAX_ATTEMPTS)]


def test_replacements_that_listen_may_go_on_for_ever_at_the_longest_delay() -> None:
    policy = ReplacementPolicy(0.1, MAX_ATTEMPTS)
    delays = []
    for _ in range(50):
        delays.append(policy.delay_after(1.0, failed=False))
        policy.on_listening()
    assert delays[:2] == [0.1, 0.2]
    assert delays[-1] == 30.0


def test_a_worker_that_lived_long_is_replaced_after_the_shortest_delay() -> None:
    policy = ReplacementPolicy(0.1, MAX_ATTEMPTS)
    for _ in range(4):
        policy.delay_after(1.0, failed=True)
    policy.on_listening()
    assert policy.delay_after(STABLE_SECONDS, failed=False) == 0.1
    assert policy.delay_after(1.0, failed=False) == 0.1
    assert policy.delay_after(1.0, failed=False) == 0.2
