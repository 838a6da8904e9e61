"""Becomes an emulated device's process, from inside its limits.

Run as a script, by path: ``launch.py PARENT_PID [--join CGROUP_PROCS]... -- COMMAND...``.
It joins its control groups first and then executes the command in its own place, so no
page and no cycle of the device escapes them. Plain imports only: it starts in
milliseconds, and needs nothing but the standard library.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Joins the groups named in ``arguments`` and executes the command; never returns."""
    separator = arguments.index("--")
    options, command = arguments[:separator], arguments[separator + 1 :]
    _die_with(int(options[0]))
    for path in options[2::2]:
        with open(path, "w", encoding="ascii") as procs:  # noqa: PTH123 (pathlib is slow to load)
            procs.write("0")
    os.execvp(command[0], command)  # noqa: S606 (the command is the coordinator's own)


def _die_with(parent: int) -> None:
    """Has the kernel kill this process when the thread that started it is gone."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above took effect
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
