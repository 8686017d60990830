import threading
import time
from pathlib import Path

import pytest

from hangtag.serving.loadtest.generator.thread_times import busiest_share, busy_seconds


def test_computing_and_waiting_time_of_a_thread_are_summed(tmp_path: Path) -> None:
    for thread, schedstat in (("7", "1500000000 500000000 12\n"), ("8", "0 0 0\n"), ("9", "")):
        (tmp_path / thread).mkdir()
        (tmp_path / thread / "schedstat").write_text(schedstat)
    (tmp_path / "10").mkdir()  # A thread that has just ended.
    assert busy_seconds(tmp_path) == {"7": 2.0, "8": 0.0}


def test_the_busiest_share_counts_from_the_first_measurement() -> None:
    assert busiest_share({"7": 2.0, "8": 0.0}, {"7": 2.5, "8": 0.2, "9": 0.9}, 1.0) == pytest.approx(0.9)
    assert busiest_share({}, {}, 1.0) == 0.0


def test_a_computing_thread_is_busy_and_a_sleeping_one_is_not() -> None:
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
