"""Work that waits until every request of a batch is completed."""

import threading

from hangtag.serving.server.batching.after_batch import after_batch, completing_batch


def test_a_call_waits_for_the_end_of_the_batch_and_is_made_once() -> None:
    done: list[str] = []

    def call() -> None:
        done.append("after")

    with completing_batch():
        for number in range(3):
            after_batch(call)
            done.append(f"answer {number}")
    assert done == ["answer 0", "answer 1", "answer 2", "after"]


def test_a_call_outside_a_batch_is_made_at_once() -> None:
    done: list[str] = []
    after_batch(lambda: done.append("before"))
    with completing_batch():
        after_batch(lambda: after_batch(lambda: done.append("from a call")))
    after_batch(lambda: done.append("after"))
    assert done == ["before", "from a call", "after"]


def test_a_batch_of_another_thread_holds_up_nothing() -> None:
    done: list[str] = []
    with completing_batch():
        other = threading.Thread(target=after_batch, args=[lambda: done.append("the other's")])
        other.start()
        other.join()
        assert done == ["the other's"]
