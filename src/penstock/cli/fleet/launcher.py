"""Starts another program that ends when its parent does: `launcher.py PARENT SIGNAL PROGRAM ...`.

Runs as a script, before anything of Penstock is imported. On Linux the kernel sends SIGNAL to the
program as soon as the parent's thread that started it is gone, even after kill -9, so no process of
a fleet outlives it. On other systems the program simply runs.
"""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Request the signal from the kernel, then exec the program."""
    parent, signal_number, program = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal_number)
        if os.getppid() != parent:  # the parent died before the request
            sys.exit(1)
    os.execvp(program[0], program)  # noqa: S606 - without a shell, on purpose


if __name__ == "__main__":
    main()
