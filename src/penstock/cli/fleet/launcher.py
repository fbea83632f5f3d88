"""Become another program that ends when its parent does: `launcher.py PARENT SIGNAL PROGRAM ...`.

Run as a script, before anything of Penstock is imported. On Linux the kernel sends SIGNAL to the
program as soon as the parent's thread that started it is gone, even by kill -9, so no process of a
fleet outlives it. Elsewhere the program simply runs.
"""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask the kernel for the signal, then exec the program."""
    parent, signal_number, program = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal_number)
        if os.getppid() != parent:  # it died before the kernel knew of our wish
            sys.exit(1)
    os.execvp(program[0], program)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main()
