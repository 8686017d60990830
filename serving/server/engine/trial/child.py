"""The child process of a trial: python -m hangtag.serving.server.engine.trial.child SECONDS BYTES, limits on itself.

Standard input has the version and the server's settings, pickled; the last line of standard output is the verdict, a
JSON object with ``problem``, which is empty where the version was loaded and warmed up.
"""

import contextlib
import json
import pickle
import resource
import signal
import sys
from dataclasses import replace
from pathlib import Path

_OOM_SCORE = Path("/proc/self/oom_score_adj")
_MOST_LIKELY = "1000"
SPARE_SECONDS = 5.0


def limit(seconds: float, memory_bytes: int) -> None:
    """Limit this process, also for the case that the server ends before it."""
    signal.setitimer(signal.ITIMER_REAL, seconds + SPARE_SECONDS)  # SIGALRM then ends it
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Not RLIMIT_AS: libraries reserve far more addresses than they use, CUDA's above all.
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    with contextlib.suppress(OSError):  # not Linux
        _OOM_SCORE.write_text(_MOST_LIKELY)  # where memory runs out all the same, the kernel ends this process first


def load() -> str:
    """Load the version as the server does, and return why that failed; empty where it did not."""
    # Imported here and not above, so that the limits hold for it all.
    from hangtag.serving.server.engine.loading import load_model
    from hangtag.serving.server.errors import ServerError

    file, config = pickle.load(sys.stdin.buffer)  # noqa: S301 - the server has written it
    try:
        load_model(file, replace(config, trial_load_seconds=0.0)).close()
    except ServerError as error:
        return str(error)
    except MemoryError:
        return "it takes more memory"
    return ""


if __name__ == "__main__":
    limit(float(sys.argv[1]), int(sys.argv[2]))
    problem = load()
    sys.stdout.write(json.dumps({"problem": problem}) + "\n")
