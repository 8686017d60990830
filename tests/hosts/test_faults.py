"""One of three servers is killed or cut off, while clients call all three servers, directly and through a proxy."""

import shutil
from collections.abc import Iterator, Mapping, Sequence

import pytest

from tests.hosts import network
from tests.hosts.caller import DEADLINE, OK, Call
from tests.hosts.lab import PROXY, SERVERS, Caller, Lab, lab

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(network.missing()), reason=f"no network namespaces: {network.missing()}"),
]

BALANCED = (SERVERS, "--round-robin")
SHORT_DEADLINE = 0.4
MARGIN = 1.0  # seconds, because the machine runs other tests too
LEFT_WITHIN = 5.0 + MARGIN  # the default keepalive_timeout_seconds
BACK_WITHIN = 10.0
VICTIM = 1


@pytest.fixture(scope="module")
def three() -> Iterator[Lab]:
    with lab() as hosts:
        yield hosts


def since(calls: Sequence[Call], begun: float) -> list[Call]:
    return [call for call in calls if call.end >= begun]


def failures(caller: Caller, begun: float) -> list[Call]:
    return [call for call in since(caller.calls, begun) if call.outcome != OK]


def wait_for_the_share(callers: Mapping[str, Caller], healed: float) -> None:
    """Wait until VICTIM has answered at least two of each caller's last nine calls, counting calls after ``healed``."""
    for caller in callers.values():
        caller.wait_until(
            lambda calls: sum(call.host == VICTIM and call.start > healed for call in calls[-9:]) > 1, BACK_WITHIN
        )


def now(callers: Mapping[str, Caller]) -> float:
    """The end time of the latest recorded call, with which a test separates earlier calls from later ones."""
    return max(caller.calls[-1].end for caller in callers.values())


def test_a_killed_server_fails_only_the_calls_that_it_had(three: Lab) -> None:
    options = {"retries": (*BALANCED, "--threads"), "no retries": (*BALANCED, "--retries", "0")}
    with three.callers(options) as callers:
        begun = now(callers)
        with three.hosts[VICTIM].killed():
            killed = now(callers)
            for caller in callers.values():
                caller.wait_until(lambda calls: calls[-1].start > killed + 1.5 * MARGIN)
        wait_for_the_share(callers, now(callers))
    assert not failures(callers["retries"], begun)
    assert all(call.start <= killed + MARGIN for call in failures(callers["no retries"], begun))


def test_a_host_that_is_cut_off_is_left_and_no_call_outlasts_its_deadline(three: Lab) -> None:
    options = {
        "retries": BALANCED,
        "no retries": (*BALANCED, "--retries", "0", "--threads"),
        "short": (*BALANCED, "--timeout", str(SHORT_DEADLINE)),
    }
    with three.callers(options) as callers:
        with three.hosts[VICTIM].cut_off():
            begun = now(callers)
            for caller in callers.values():
                caller.wait_until(lambda calls: calls[-1].start > begun + LEFT_WITHIN + 0.5)
        wait_for_the_share(callers, now(callers))
    assert not failures(callers["retries"], begun)
    lost = failures(callers["no retries"], begun)
    assert lost
    assert all(call.start < begun + LEFT_WITHIN for call in lost)
    assert failures(callers["short"], begun)
    for name, deadline in (("retries", DEADLINE), ("no retries", DEADLINE), ("short", SHORT_DEADLINE)):
        assert max(call.end - call.start for call in callers[name].calls) < deadline + MARGIN


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="HAProxy is not installed (Debian: haproxy)")
def test_behind_the_proxy_a_host_that_is_cut_off_fails_no_call_with_retries(three: Lab) -> None:
    with three.proxy(), three.callers({"retries": (PROXY,)}) as callers:
        caller = callers["retries"]
        with three.hosts[VICTIM].cut_off():
            begun = now(callers)
            caller.wait_until(lambda calls: calls[-1].start > begun + 4)
        wait_for_the_share(callers, now(callers))
    assert not failures(caller, begun)
