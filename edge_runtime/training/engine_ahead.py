"""Imports PyTorch before it is asked for, while the device has other things to wait for.

It takes a second, and Python's lock most of that time.
"""

import logging
import sys
import threading

from edge_runtime.system.usage import available_memory_bytes, usable_cores

logger = logging.getLogger(__name__)

PLENTY_BYTES = 2 << 30
"""With less memory free, PyTorch comes when the stage has gone, and batches are read in turn."""

SPARE_CORES = 2
"""With fewer it would only take turns with the stage."""

SWITCH_SECONDS = 0.0005
"""Between threads while it is imported: by default they wait ten times as long for each other."""


def import_engine_ahead() -> None:
    """Begins to import PyTorch in a thread of its own, where there is room and a core for it."""
    if has_core_to_spare():
        threading.Thread(target=_import, name="engine-ahead", daemon=True).start()


def has_core_to_spare() -> bool:
    """Tells whether a second thread would have a core, and memory for what it makes."""
    return available_memory_bytes() >= PLENTY_BYTES and usable_cores() >= SPARE_CORES


def _import() -> None:
    from edge_runtime import parallel_adapters

    usual = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        _ = parallel_adapters.Trainer
    except Exception as error:  # whoever needs it meets it again, and says so
        logger.debug("PyTorch was not imported ahead: %s", error)
    finally:
        sys.setswitchinterval(usual)
