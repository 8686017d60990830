"""Waits for the workers of a supervisor in this process."""

from hangtag.serving.server.process.workers.supervisor import Supervisor
from hangtag.serving.server.process.workers.worker_process import WorkerProcess

TIMEOUT = 60.0


def wait_until_replaced(supervised: Supervisor, number: int, before: WorkerProcess) -> WorkerProcess:
    def replaced() -> bool:
        return supervised._workers[number] is not before and supervised._workers[number].listening

    with supervised._changed:
        assert supervised._changed.wait_for(replaced, TIMEOUT)
        return supervised._workers[number]
