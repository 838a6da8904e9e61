"""``python -m edge_runtime`` is ``pacplus-device``, for processes that a coordinator starts."""

import logging
import os
import sys

from .device.cli import main


def _run() -> int:
    try:
        return main()
    except SystemExit as ended:  # asked to stop
        return ended.code if isinstance(ended.code, int) else 0


code = _run()
logging.shutdown()
sys.stdout.flush()
sys.stderr.flush()
# Everything is closed. Python would go on to take PyTorch apart, for a fifth of a second.
os._exit(code)
