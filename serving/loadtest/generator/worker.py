"""The main function of a generator process. Reports are made in another process, whose interpreter lock is its own."""

import gc
import signal
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection

from hangtag.serving.loadtest.generator.generator import Generator
from hangtag.serving.loadtest.generator.messages import CallSettings, RequestPool, SharedCounts, Snapshot

# A thread that waits for the interpreter lock gets it after this many seconds. Python's default of 5 ms would delay
# sends.
SWITCH_INTERVAL = 0.0005
STOP = "stop"


def serve(
    connection: Connection,
    pools: Mapping[str, RequestPool],
    settings: CallSettings,
    counts: SharedCounts,
    process: int,
    processes: int,
) -> None:
    """Run blocks until the other end of the connection closes.

    Sends the name of the channel implementation first. Then receives blocks, sends snapshots while one runs, and sends
    its BlockResult at its end.
    """
    # Ctrl-C reaches the whole process group; the parent decides whether to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.setswitchinterval(SWITCH_INTERVAL)
    generator = Generator(pools, settings, counts, process, processes)
    # No object that exists now is garbage, so the collector need not scan them again.
    gc.freeze()

    def keep_going(snapshot: Snapshot) -> bool:
        connection.send(snapshot)
        return not (connection.poll() and connection.recv() == STOP)

    try:
        connection.send(generator.channel_names)
        while True:
            block = connection.recv()
            if block != STOP:  # The parent sent STOP just as a block ended.
                connection.send(generator.run(block, keep_going))
    except (EOFError, OSError):
        generator.close()
