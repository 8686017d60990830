"""One of the generator's processes: the interpreter lock of the one that reports is no part of what is measured."""

import gc
import signal
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection

from hangtag.serving.loadtest.generator.generator import Generator
from hangtag.serving.loadtest.generator.messages import CallSettings, RequestPool, Snapshot
from hangtag.serving.loadtest.generator.shared_counts import SharedCounts

# A thread that wants the interpreter gets it after this long (Python's default is 5 ms: a late send).
SWITCH_INTERVAL = 0.0005
STOP = "stop"


def serve(
    connection: Connection,
    feeds: Mapping[str, RequestPool],
    connections: CallSettings,
    tally: SharedCounts,
    place: int,
    places: int,
) -> None:
    """The process's main function: says how it makes calls, then blocks in, snapshots and results out, until the other
    end closes."""
    # Ctrl-C reaches the whole process group; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.setswitchinterval(SWITCH_INTERVAL)
    generator = Generator(feeds, connections, tally, place, places)
    # Nothing that lives by now is garbage: collections need not look at it again.
    gc.freeze()

    def keep_going(snapshot: Snapshot) -> bool:
        connection.send(snapshot)
        return not (connection.poll() and connection.recv() == STOP)

    try:
        connection.send(generator.path)
        while True:
            block = connection.recv()
            if block != STOP:  # A stop that crossed with a block's end.
                connection.send(generator.run(block, keep_going))
    except (EOFError, OSError):
        generator.close()
