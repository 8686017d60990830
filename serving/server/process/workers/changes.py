"""How a load or unload call reaches all workers: one tries it first, and the others follow."""

from collections.abc import Sequence

import structlog

from hangtag.serving.server.errors import ControlError, NothingToUnloadError, UnavailableError
from hangtag.serving.server.process.workers.messages import Load, Unload
from hangtag.serving.server.process.workers.pipe_rpc import PeerError
from hangtag.serving.server.process.workers.worker_process import WorkerProcess

log = structlog.get_logger()


def let_one_try(workers: Sequence[WorkerProcess], message: Load | Unload) -> Sequence[WorkerProcess]:
    """Let the first worker try that neither stops nor has nothing to unload; return those that come after it.

    Args:
        workers: At least one.
        message: The change.

    Raises:
        ControlError: The worker has ended meanwhile, or the change failed.
        NotFoundError: There is no such model, or no worker serves it.
        UnavailableError: All workers stop.
    """
    for worker in workers[:-1]:
        try:
            _change(worker, message)
        except (UnavailableError, NothingToUnloadError):
            continue
        return workers[workers.index(worker) + 1 :]
    _change(workers[-1], message)
    return ()


def let_follow(workers: Sequence[WorkerProcess], message: Load | Unload) -> None:
    """Let workers follow a change that succeeded in another; kill those that cannot, which are replaced."""
    for worker in workers:
        try:
            worker.call(message)
        except NothingToUnloadError:  # it never had the model, for example because the folder is gone
            continue
        except Exception as error:
            log.warning("worker does not follow; it is replaced", worker=worker.number, reason=str(error))
            if not isinstance(error, UnavailableError):  # that comes from one that stops, and still answers calls
                worker.kill()


def _change(worker: WorkerProcess, message: Load | Unload) -> None:
    try:
        worker.call(message)
    except PeerError as error:
        raise ControlError(f"the worker that tried it first has ended; it is replaced: {error}") from error
