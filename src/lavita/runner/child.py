"""What a process that a run has started does first: it ends with the run, and is ended by it alone."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PARENT = "LAVITA_PARENT"  # a variable: the process id of the one that started this one
PR_SET_PDEATHSIG = 1


def begin() -> None:
    """End this process when its parent ends, however that ends; leave Ctrl-C to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = int(os.environ.get(PARENT, "0"))
    if parent and sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the kernel was told
            os._exit(1)
