import threading
import time
from pathlib import Path

import pytest

from hangtag.serving.loadtest.generator.thread_times import busiest_share, busy_seconds


def test_what_a_thread_computed_and_waited_is_summed(tmp_path: Path) -> None:
    for thread, told in (("7", "1500000000 500000000 12\n"), ("8", "0 0 0\n"), ("9", "")):
        (tmp_path / thread).mkdir()
        (tmp_path / thread / "schedstat").write_text(told)
    (tmp_path / "10").mkdir()  # It ended while it was looked at.
    assert busy_seconds(tmp_path) == {"7": 2.0, "8": 0.0}


def test_the_busiest_thread_counts_from_the_first_look_on() -> None:
    assert busiest_share({"7": 2.0, "8": 0.0}, {"7": 2.5, "8": 0.2, "9": 0.9}, 1.0) == pytest.approx(0.9)
    assert busiest_share({}, {}, 1.0) == 0.0


def test_a_thread_that_computes_is_seen_and_one_that_sleeps_is_not() -> None:
    me, gate = str(threading.get_native_id()), threading.Event()
    sleeping = threading.Thread(target=gate.wait)
    sleeping.start()
    before = busy_seconds()
    until = time.thread_time() + 0.05
    while time.thread_time() < until:
        pass
    after = busy_seconds()
    gate.set()
    sleeping.join()
    spent = {thread: after[thread] - before[thread] for thread in after if thread in before}
    assert spent[me] >= 0.04
    assert spent[str(sleeping.native_id)] < 0.04
