import threading
from collections.abc import Callable

from hangtag.serving.server.transport.hot.leader import Lead

TIMEOUT = 30.0


def started(target: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=target)
    thread.start()
    return thread


def follow(lead: Lead) -> tuple[threading.Event, threading.Thread]:
    """A thread that waits for the lead, and tells when it has it."""
    led = threading.Event()

    def take() -> None:
        lead.take()
        led.set()

    return led, started(take)


def wait_until_wanted(lead: Lead, count: int) -> None:
    while len(lead._followers) < count:
        threading.Event().wait(0.001)


def test_followers_lead_one_after_another_in_the_order_they_came() -> None:
    lead = Lead()
    order: list[int] = []
    lead.take()
    threads = []
    for number in range(3):

        def lead_once(number: int = number) -> None:
            lead.take()
            order.append(number)
            lead.give()

        threads.append(started(lead_once))
        wait_until_wanted(lead, number + 1)
    assert lead.wanted
    assert order == []
    lead.give()
    for thread in threads:
        thread.join(TIMEOUT)
    assert order == [0, 1, 2]
    assert not lead.wanted


def test_a_lead_that_is_passed_on_is_not_vacant() -> None:
    lead = Lead()
    lead.take()
    led, follower = follow(lead)
    wait_until_wanted(lead, 1)
    lead.give()
    assert led.wait(TIMEOUT)
    follower.join(TIMEOUT)
    assert not lead.vacant.is_set()
    lead.give()
    assert lead.vacant.is_set()


def test_giving_quietly_wakes_nobody_and_the_giver_comes_first() -> None:
    lead = Lead()
    lead.take()
    led, follower = follow(lead)
    wait_until_wanted(lead, 1)
    wait_until_wanted(lead, 1)
    lead.give(wake=False)
    assert lead.vacant.is_set()
    lead.take()
    assert not led.is_set()
    lead.give()
    assert led.wait(TIMEOUT)
    follower.join(TIMEOUT)


def test_the_reserve_gets_a_lead_that_nobody_took_since() -> None:
    lead = Lead()
    turns = lead.turns
    lead.take()
    assert not lead.take_if_idle(turns)
    lead.give()
    assert not lead.take_if_idle(turns)
    assert lead.take_if_idle(lead.turns)
    assert not lead.take_if_idle(lead.turns)


def test_who_stands_by_rests_while_one_thread_keeps_the_lead() -> None:
    lead = Lead()
    lead.take()
    lead.give()
    assert lead.vacant.is_set()
    turns = lead.turns
    lead.take()
    lead.rest(turns)
    assert lead.vacant.is_set()
    lead.rest(lead.turns)
    assert not lead.vacant.is_set()
    lead.give()
    lead.rest(lead.turns)
    assert lead.vacant.is_set()
