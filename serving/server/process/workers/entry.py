"""Where a worker's process begins. It imports nothing that imports gRPC or ONNX Runtime until both are prepared."""

import signal
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process import environment
from hangtag.serving.server.telemetry.log import configure_log


def main(number: int, config: ServerConfig, versions: Mapping[str, tuple[int, ...]], connection: Connection) -> None:
    """Run one worker to its end; the process's exit code is 1 when it cannot start.

    Args:
        number: Which worker this is, for the log.
        config: The server's settings, with the port that all workers share.
        versions: The versions that the other workers serve, by model; empty at the start.
        connection: This worker's end of the pipe to the supervisor.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the supervisor decides
    configure_log(worker=number)
    environment.prepare()
    from hangtag.serving.server.process.workers.worker import Worker

    if not Worker(config, versions, connection).run():
        sys.exit(1)
