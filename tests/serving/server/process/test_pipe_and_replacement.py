"""The pipe between a worker and its supervisor, and when an ended worker is replaced."""

import multiprocessing
import os
import socket
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection

import pytest

from hangtag.serving.server.process.workers.pipe_rpc import Peer, PeerError
from hangtag.serving.server.process.workers.replacement import STABLE_SECONDS, ReplacementPolicy
from tests.kit.waiting import TIMEOUT


class Pair:
    """Two ends of a pipe, in one process."""

    def __init__(self) -> None:
        ours, theirs = self._ends = multiprocessing.Pipe()
        self.ended = threading.Event()
        self.gate = threading.Event()
        self.here = Peer(ours, lambda message: f"here got {message}", self.ended.set)
        self.there = Peer(theirs, self._there)
        self.here.start()
        self.there.start()

    def hang_up(self) -> None:
        """As if the other process had ended: its end of the pipe is gone."""
        if self._ends[1].closed:
            return
        with socket.socket(fileno=os.dup(self._ends[1].fileno())) as there:
            there.shutdown(socket.SHUT_RDWR)

    def _there(self, message: object) -> object:
        match message:
            case "wait":
                assert self.gate.wait(TIMEOUT)
                return "waited"
        return f"there got {message}"


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.gate.set()
    pair.hang_up()
    assert pair.ended.wait(TIMEOUT)


def test_one_call_does_not_delay_another(pair: Pair) -> None:
    answers: list[object] = []
    waiting = threading.Thread(target=lambda: answers.append(pair.here.call("wait", TIMEOUT)))
    waiting.start()
    assert pair.here.call("a word", TIMEOUT) == "there got a word"
    pair.gate.set()
    waiting.join(TIMEOUT)
    assert answers == ["waited"]


def test_a_message_for_which_no_thread_can_be_started_is_an_error_and_the_next_is_answered(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(PeerError, match="cannot answer: can't start new thread"):
            pair.here.call("a word", TIMEOUT)
    assert pair.here.call("a word", TIMEOUT) == "there got a word"


def test_when_the_peer_ends_pending_calls_fail(pair: Pair) -> None:
    failures: list[PeerError] = []

    def wait() -> None:
        with pytest.raises(PeerError) as failure:
            pair.here.call("wait", TIMEOUT)
        failures.append(failure.value)

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert pair.here.call("a word", TIMEOUT)
    pair.hang_up()
    assert pair.ended.wait(TIMEOUT)
    waiting.join(TIMEOUT)
    assert len(failures) == 1
    with pytest.raises(PeerError):
        pair.here.call("a word", TIMEOUT)


def test_a_peer_that_ends_after_its_last_answer_is_noticed_too() -> None:
    for _ in range(50):  # the end is often seen before the caller has taken the answer
        ours, theirs = multiprocessing.Pipe()
        ended = threading.Event()
        here = Peer(ours, lambda message: None, ended.set)

        def answer_and_go(theirs: Connection = theirs) -> None:
            _, number, _ = theirs.recv()
            theirs.send(("answer", number, "the last one"))
            theirs.close()

        going = threading.Thread(target=answer_and_go)
        going.start()
        here.start()
        assert here.call("a word", TIMEOUT) == "the last one"
        going.join(TIMEOUT)
        assert ended.wait(TIMEOUT)


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
