"""python launch.py PARENT ENVOY ARGUMENT... replaces itself with Envoy, which then ignores SIGINT and SIGTERM, and is
killed when the server ends. This is a separate program that imports nothing of hangtag, because a function that runs
between fork and exec could wait for ever for a lock that another thread of the server held."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    # Block signals that reach the whole process group, such as Ctrl-C. Only the server reacts to them, because Envoy
    # must still pass on the last calls.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    if sys.platform == "linux":
        # The kernel ends Envoy when the thread that started this process ends, even if the server is killed.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(sys.argv[1]):  # the server has ended already
            return
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - it is the program that the server names


if __name__ == "__main__":
    main()
