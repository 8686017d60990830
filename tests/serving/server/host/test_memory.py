"""Most of the tests run in processes of their own, because freezing and options affect the whole heap."""

import ctypes
import gc
import os
import subprocess
import sys
import weakref

import pytest

from hangtag.serving.server.host import memory

PROGRAM = """
import gc, os
from hangtag.serving.server.host import memory
from studies.soak.processes import sample

def rss_mib():
    return sample(os.getpid(), 0).rss_mb

pieces = [bytes(100_000) for _ in range(1000)]  # below glibc's mmap threshold, so glibc keeps them after they are freed
kept = pieces[-1]
taken = rss_mib()
del pieces
memory.release_loading_memory()
print(taken - rss_mib(), gc.get_freeze_count())
"""


def test_memory_that_is_not_needed_goes_back_and_the_rest_is_frozen() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    given_back_mib, frozen = map(float, done.stdout.split())
    assert given_back_mib > 50
    assert frozen > 1000


def test_objects_that_only_refer_to_each_other_are_freed() -> None:
    class Connection:
        other: "Connection"

    connection, protocol = Connection(), Connection()
    connection.other, protocol.other = protocol, connection
    gone = weakref.ref(connection)
    gc.collect(1)
    del connection, protocol
    memory.release_freed_memory()
    assert gone() is None


HOLES = """
import os
from hangtag.serving.server.host import memory
from studies.soak.processes import sample

def rss_mib():
    return sample(os.getpid(), 0).rss_mb

memory.give_back_large_blocks()
bytes(20 << 20)  # by default glibc puts blocks of this size among small ones from now on
before = rss_mib()
blocks, small = [], []
for _ in range(50):
    blocks.append(b"x" * (2 << 20))
    small.append(b"x" * 100_000)  # larger than the holes that importing left
del blocks
print(rss_mib() - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc's mallopt")
@pytest.mark.parametrize(("variables", "mib"), [({}, 0), ({"MALLOC_MMAP_THRESHOLD_": str(32 << 20)}, 100)])
def test_large_blocks_among_small_ones_go_back_unless_the_operator_decided_otherwise(
    variables: dict[str, str], mib: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HOLES], capture_output=True, text=True, check=True, env=os.environ | variables
    )
    assert float(done.stdout) == pytest.approx(mib, abs=20)
