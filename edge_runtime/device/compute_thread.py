"""The one compute thread of a device: jobs in order, failures reported, results by callback.

Sockets belong to the I/O thread and heavy work to this one, so a device answers its
peers while it computes, and never computes two things at once.
"""

import contextvars
import logging
import queue
import threading
from collections.abc import Callable
from typing import TypeAlias

from edge_runtime.contract.errors import AllReduceClosedError, PacplusError
from edge_runtime.contract.messages import Failed
from edge_runtime.messaging.failures import explain
from edge_runtime.messaging.tagging import current_tag

logger = logging.getLogger(__name__)

Job: TypeAlias = Callable[[], None]
_Queued: TypeAlias = tuple[contextvars.Context, Job, Job | None]


class Worker:
    """Runs jobs one after another until it is stopped.

    A job belongs to what the thread that queued it works on (:mod:`.tagging`).
    """

    def __init__(self, on_failure: Callable[[Failed], None]) -> None:
        """``on_failure`` is told when a job fails; called in the compute thread."""
        self._jobs: queue.SimpleQueue[_Queued | None] = queue.SimpleQueue()
        self._on_failure = on_failure
        self._term = 0
        self._thread = threading.Thread(target=self._run, name="compute", daemon=True)
        self._thread.start()

    def submit(self, job: Job, after: Job | None = None) -> None:
        """Queues a job, and what is to follow even if it is skipped or fails."""
        self._jobs.put((contextvars.copy_context(), job, after))

    def begin_term(self, term: int) -> None:
        """Skips queued jobs of earlier terms; those of no term are none of them."""
        self._term = term

    def stop(self, timeout_seconds: float) -> bool:
        """Ends after the jobs queued so far; False if that takes too long."""
        self._jobs.put(None)
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (queued := self._jobs.get()) is not None:
            context, job, after = queued
            context.run(self._do, job)
            if after is not None:
                context.run(after)

    def _do(self, job: Job) -> None:
        if 0 < current_tag().term < self._term:
            return
        try:
            job()
        except AllReduceClosedError:
            logger.info("a training step was given up, since its term or session ended")
        except PacplusError as error:
            self._on_failure(explain(error))
        except Exception as error:
            logger.exception("a job failed")
            self._on_failure(explain(error))
