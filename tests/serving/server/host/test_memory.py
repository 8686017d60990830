"""The test runs in a process of its own, because freezing affects the whole heap."""

import subprocess
import sys

PROGRAM = """
import gc, re
from pathlib import Path
from hangtag.serving.server.host import memory

def rss_kb():
    return int(re.search(r"^VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text(), re.M)[1])

pieces = [bytes(100_000) for _ in range(1000)]  # below glibc's mmap threshold, so glibc keeps them after they are freed
kept = pieces[-1]
taken = rss_kb()
del pieces
memory.release_loading_memory()
print(taken - rss_kb(), gc.get_freeze_count())
"""


def test_memory_that_is_not_needed_goes_back_and_the_rest_is_frozen() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    given_back_kb, frozen = map(int, done.stdout.split())
    assert given_back_kb > 50_000
    assert frozen > 1000
