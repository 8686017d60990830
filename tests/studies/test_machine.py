"""What is measured of the machine: our own processor time, and that of other programs."""

import os
import subprocess
import sys

from studies import machine

BUSY = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"


def test_a_childs_time_is_ours_while_it_runs_and_after() -> None:
    before = machine.cpu_seconds(os.getpid())
    with machine.others() as others:
        child = subprocess.Popen([sys.executable, "-c", BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert child.stdout
        child.stdout.readline()  # It has computed for 0.3 s, and waits.
        assert child.pid in machine.family(os.getpid())
        assert machine.cpu_seconds(child.pid) > 0.2
        assert machine.cpu_seconds(os.getpid()) - before > 0.2
        child.communicate(b"\n")
        assert machine.cpu_seconds(os.getpid()) - before > 0.2
    assert 0 <= others.share < 1
