"""The one compute thread of a device: jobs in order, failures reported, results by callback.

Sockets belong to the I/O thread and heavy work to this one, so a device answers its
peers while it computes, and never computes two things at once.
"""

import logging
import queue
import threading
from collections.abc import Callable
from typing import TypeAlias

from edge_runtime.contract.errors import AllReduceClosedError, PacplusError
from edge_runtime.contract.messages import Failed
from edge_runtime.messaging.failures import explain

logger = logging.getLogger(__name__)

Job: TypeAlias = Callable[[], None]


class Worker:
    """Runs jobs one after another until it is stopped."""

    def __init__(self, on_failure: Callable[[Failed], None]) -> None:
        """``on_failure`` is told when a job fails; called in the compute thread."""
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._on_failure = on_failure
        self._thread = threading.Thread(target=self._run, name="compute", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Queues a job."""
        self._jobs.put(job)

    def stop(self, timeout_seconds: float) -> bool:
        """Ends after the jobs queued so far; False if that takes too long."""
        self._jobs.put(None)
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except AllReduceClosedError:
                logger.info("a training step was given up, since the session ended")
            except PacplusError as error:
                self._on_failure(explain(error))
            except Exception as error:
                logger.exception("a job failed")
                self._on_failure(explain(error))
